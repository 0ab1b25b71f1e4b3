"""``python -m server.worker --fd N``: an engine host at the other end of a socket pair.

Does: read the arguments, load the engine, run the host over a non-blocking socket.
Does not know: who started it, or why.
"""

import argparse
import signal
import socket
import sys
from typing import get_args

from server import logs
from server.worker.engines import Backend, EngineSpec, Precision, build
from server.worker.heart import Activity, Heart
from server.worker.loop import Host
from server.worker.mailbox import SocketMailbox


def main() -> int:
    """Run until the gateway says so or is gone."""
    parser = argparse.ArgumentParser(prog="python -m server.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--backend", choices=get_args(Backend), default="own")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--lm", default="auto")
    parser.add_argument("--lm-weight", type=float)
    parser.add_argument("--beam", type=int)
    parser.add_argument("--look-ahead", type=int)
    options = vars(parser.parse_args())
    logs.configure()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = socket.socket(fileno=options.pop("fd"))
    spec = EngineSpec(**options)
    with SocketMailbox(link) as mailbox:
        try:
            engine = build(spec)
        except Exception as error:  # noqa: BLE001 - the gateway reads one sentence, not a traceback
            mailbox.give_up(_sentence(error))
            return 2
        activity = Activity()
        heart = Heart(activity, mailbox.beat)
        heart.start()
        try:
            Host(engine, mailbox, first_look_ahead=spec.look_ahead, activity=activity).run()
            mailbox.flush()
        finally:
            heart.stop()
    return 0


def _sentence(error: Exception) -> str:
    is_ours = type(error).__module__.split(".")[0] == "asr"  # those are sentences already
    return str(error) if is_ours else f"the engine cannot start: {type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
