"""The command ``rivulet``: a table of verbs, each loaded only when it is asked for.

Does: read argv, load one verb's module, say errors in one sentence, exit codes.
Does not know: what a verb does. Engine and server are loaded by name: a light install stays light.

Exit codes: 0 done; 1 it failed (the sentence says why); 2 wrong usage; 130 interrupted.
"""

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from clients.errors import CommandError, missing_module

USAGE = """\
Live speech becomes words.

  rivulet serve                           a server on ws://127.0.0.1:8765 with the embedded model
  rivulet captions talk.flac              live captions of a file, at the pace of speech
  rivulet captions --microphone           live captions of what you say
  rivulet assistant --microphone --run CMD  a command of yours answers every turn
  rivulet meeting Ann=a.wav Bob=b.wav     one transcript of many speakers; others read along
  rivulet transcribe talk.flac --srt      a whole file, faster than real time, no server
  rivulet evaluate manifest.jsonl --json  word error rate over a set of recordings
  rivulet models                          the models at hand; `models inspect PATH` looks into one
  rivulet train mine.toml --out RUN       a model of your own; `rivulet models export RUN OUT`
  rivulet load                            how many live streams the server holds, and how it feels
  rivulet edge --core URL                 a node beside the callers: AudioSocket, Twilio, RTP, L16
  rivulet demo                            what `make run` does: a server, the samples, a table

`rivulet VERB --help` explains each with examples."""


class Verb(NamedTuple):
    """Where a verb lives and what it does in one line."""

    module: str
    summary: str


VERBS = {
    "serve": Verb("clients.verbs.serve", "serve speech recognition over WebSocket and HTTP"),
    "worker": Verb("clients.verbs.worker", "an engine process that registers with a server"),
    "captions": Verb("clients.captions", "live captions of files or the microphone"),
    "assistant": Verb("clients.assistant", "run a command of yours on every turn of speech"),
    "meeting": Verb("clients.meeting", "one live transcript of many speakers, with a link to it"),
    "transcribe": Verb("clients.verbs.transcribe", "words of whole files, without a server"),
    "evaluate": Verb("clients.verbs.evaluate", "word error rate over manifests"),
    "models": Verb(
        "clients.verbs.models", "list models, look into one, make one of a run, calibrate one"
    ),
    "lm": Verb("clients.verbs.lm", "make a language model of text files, for --lm"),
    "train": Verb("clients.verbs.train", "train a model from a configuration file"),
    "keys": Verb("clients.verbs.keys", "make and remove API keys, for serve --keys"),
    "load": Verb(
        "clients.verbs.load", "load a server with live streams and measure what they feel"
    ),
    "plan": Verb("clients.verbs.plan", "how many devices a service needs, and what it costs"),
    "edge": Verb("edge.command", "recognise beside the user, outlast a cut backhaul"),
    "demo": Verb("clients.demo", "start a server, stream the samples, print a table"),
}


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of one verb; loads the verb's module."""
    module = importlib.import_module(VERBS[name].module)
    parser = argparse.ArgumentParser(
        prog=f"rivulet {name}",
        description=VERBS[name].summary.capitalize() + ".",
        epilog=module.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser


def _choose(argv: Sequence[str]) -> str:
    top = argparse.ArgumentParser(
        prog="rivulet", description=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    summaries = "; ".join(f"{name}: {verb.summary}" for name, verb in VERBS.items())
    top.add_argument("verb", choices=[*VERBS], metavar="VERB", help=summaries)
    return str(top.parse_args(argv[:1] or ["--help"]).verb)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the return value is the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if sys.stderr is None:  # closed (`2>&-`): what is noted there is lost
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123 - until the end
    try:
        if sys.stdout is None:
            raise CommandError("standard output is closed: >/dev/null throws the words away")
        if isinstance(sys.stdout, io.TextIOWrapper):  # not every terminal writes every letter
            sys.stdout.reconfigure(errors="backslashreplace")
        return _run(given)
    except CommandError as error:
        print(f"rivulet: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        print(f"rivulet: {missing_module(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _drop_output()  # its reader is gone (`| head`): nothing more can be said to it
    except OSError as error:
        print(f"rivulet: {_said(error)}", file=sys.stderr)
        _drop_output()  # it may be what failed (a full disk), and would again at the exit
    return 1


def _run(given: Sequence[str]) -> int:
    parser = parser_of(_choose(given))
    # The intermixed form loses its first FILE where `--` stands before it.
    parse = parser.parse_args if "--" in given else parser.parse_intermixed_args
    args = parse(given[1:])
    try:
        status = int(args.run(args))
        sys.stdout.flush()
    except BaseExceptionGroup as several:  # of streams that ran beside each other
        error: BaseException = several
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from several
    return status


def _said(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def _drop_output() -> None:
    with contextlib.suppress(OSError):  # in a test it is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
