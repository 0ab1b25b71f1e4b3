"""``python -m server.worker``: an engine host at the other end of a link to a gateway.

``--fd N`` has the link at once, from a gateway on this machine. ``--listen ADDRESS`` reads a secret
from standard input, says its port, and waits for the gateway that proves the secret; it ends when
standard input does: then its starter is gone. ``--join HOST:PORT`` dials a gateway, again and again
(``rivulet worker`` is the same for people).

Does: read the arguments, load the engine, run the host over a non-blocking socket.
Does not know: who started it, or why.
"""

import argparse
import gc
import os
import signal
import socket
import sys
import threading
from typing import get_args

from asr.interface import EngineError, StreamingEngine
from server import logs
from server.worker import join
from server.worker.engines import Backend, EngineSpec, Precision, build
from server.worker.handshake import SECRET_BYTES
from server.worker.join import JoinError
from server.worker.mailbox import Peer, SocketMailbox
from server.worker.registration import SecretError, shared_secret
from server.worker.tcp import NobodyCame, wait_for_gateway
from server.worker.tls import TlsError

_STDIN = 0


def main() -> int:
    """Run until the gateway says so or is gone."""
    parser = argparse.ArgumentParser(prog="python -m server.worker", description=__doc__)
    ends = parser.add_mutually_exclusive_group(required=True)
    ends.add_argument("--fd", type=int)
    ends.add_argument("--listen", metavar="ADDRESS")
    ends.add_argument("--join", metavar="HOST:PORT")
    parser.add_argument("--secret-file", default="")
    parser.add_argument("--model", default="")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--decoder-device", default="")
    parser.add_argument("--backend", choices=get_args(Backend), default="own")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--lm", default="auto")
    for name in ("--lm-weight", "--audio-hour-cost"):
        parser.add_argument(name, type=float)
    for name in ("--beam", "--look-ahead"):
        parser.add_argument(name, type=int)
    options = vars(parser.parse_args())
    logs.configure()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor, address = options.pop("fd"), options.pop("listen")
    where, secret_file = options.pop("join"), options.pop("secret_file")
    spec = EngineSpec(**options)
    if where:
        return _join(spec, where, secret_file)
    try:
        link: Peer = _listen(address) if address else socket.socket(fileno=descriptor)
    except (NobodyCame, TlsError) as error:
        print(error, file=sys.stderr)
        return 3
    with SocketMailbox(link) as mailbox:
        try:
            engine = _loaded(spec)
        except Exception as error:  # noqa: BLE001 - the gateway reads one sentence, not a traceback
            mailbox.give_up(_sentence(error))
            return 2
        join.run_host(engine, spec, mailbox)
    return 0


def _loaded(spec: EngineSpec) -> StreamingEngine:
    """Load the engine; what is made meanwhile stays, so nobody looks for what is garbage of it."""
    gc.disable()
    try:
        return build(spec)
    finally:
        gc.freeze()
        gc.enable()


def _join(spec: EngineSpec, where: str, secret_file: str) -> int:
    """Serve whatever gateway is there until we are of no use."""
    try:
        address, secret = join.Address.of(where), shared_secret(secret_file)
        join.serve(_loaded(spec), spec, address, secret)
    except (JoinError, SecretError, EngineError) as error:
        print(error, file=sys.stderr)
    return 2


def _listen(address: str) -> Peer:
    """Wait for the gateway; our starter is watched from now on."""
    secret = os.read(_STDIN, SECRET_BYTES)
    threading.Thread(target=_end_with_starter, name="starter", daemon=True).start()
    return wait_for_gateway(address, secret, lambda port: print(port, flush=True))


def _end_with_starter() -> None:
    while os.read(_STDIN, 1):
        pass
    os._exit(1)  # whatever the engine does: its place is given to others


def _sentence(error: Exception) -> str:
    is_ours = type(error).__module__.split(".")[0] == "asr"  # those are sentences already
    return str(error) if is_ours else f"the engine cannot start: {type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
