"""``rivulet assistant``: a command of the user's answers every turn of a file or the microphone.

Does: arguments, source and session, one after another; Ctrl+C flushes the last turn and ends.
Does not know: who has the floor (turntaking), processes (runner), how turns are found.
"""

import argparse
import asyncio
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from clients.audiofile import AudioFile, open_audio
from clients.captions import (
    add_session_arguments,
    interrupts,
    language_of,
    latency_of,
    line_notes,
    paced,
    why,
)
from clients.connection import Connection, RivuletError, connect
from clients.console import CaptionScreen, can_redraw
from clients.errors import CommandError
from clients.live import converse
from clients.microphone import Microphone
from clients.runner import Process, Run
from clients.turntaking import Ears, TurnTaking
from server.wire.errors import LocalProtocolError
from server.wire.messages import AudioFormat, Endpointing, Readable

EXAMPLES = """\
examples:
  rivulet assistant --microphone --run './answer.sh'       the words of a turn on its standard input
  rivulet assistant questions.wav --run 'tr a-z A-Z'       a file, at the pace of speech
  rivulet assistant --microphone --run ./answer.py --eager-ms 200
      starts the command as soon as a turn seems over; its output waits until the turn is over, and
      if you go on speaking it is ended: only for commands that may run in vain

What you say while a command still runs ends it (barge-in). Speech from a loudspeaker beside the
microphone would do the same: wear headphones."""
NAME = "assistant"
SILENCE_MS, EAGER_MS = (100, 5_000), (80, 2_000)
"""What the wire takes, from the least to the most."""
Launch = Callable[[str], Awaitable[Run]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="wav, flac, ogg or mp3")
    parser.add_argument("--microphone", action="store_true", help="needs the extra 'microphone'")
    parser.add_argument("--device", help="number or name of the microphone; else the default one")
    parser.add_argument(
        "--run", required=True, dest="command", metavar="COMMAND", help="split as a shell would"
    )
    parser.add_argument("--silence-ms", type=int, default=700, metavar="MS", help="ends a turn")
    parser.add_argument(
        "--eager-ms", type=int, metavar="MS", help="silence that starts the command ahead; else off"
    )
    add_session_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Answer every turn of the source."""
    if bool(args.file) == args.microphone:
        raise CommandError("assistant needs either a FILE or --microphone")
    command = command_of(args.command)
    language_of(args.language)
    check_ms("--silence-ms", args.silence_ms, SILENCE_MS)
    check_ms("--eager-ms", args.eager_ms, EAGER_MS)
    file = open_audio(args.file) if args.file else None
    screen = CaptionScreen(sys.stdout, sys.stderr, is_terminal=can_redraw(sys.stdout))
    failures = list[int]()

    def failed(status: int) -> None:
        failures.append(status)
        how = f"status {status}" if status > 0 else f"signal {-status}"
        screen.note(f"{command[0]} failed: {how}")

    async def launch(text: str) -> Run:
        try:
            return await Process.start(command, text, lambda line: screen.final(NAME, line), failed)
        except OSError as error:
            raise CommandError(f"{command[0]} does not start: {error.strerror}") from error

    try:
        is_cut = asyncio.run(_answer_all(file, args, launch, screen))
    except RivuletError as error:
        raise CommandError(why(error, args.url)) from error
    except LocalProtocolError as error:
        raise CommandError(str(error)) from error
    except asyncio.CancelledError:
        return 130
    finally:
        screen.close()
    if is_cut and file is not None:  # a microphone ends by Ctrl+C
        return 130
    return 1 if failures else 0


def check_ms(option: str, value: int | None, bounds: tuple[int, int]) -> None:
    """Look at what the server would refuse. Raises CommandError."""
    least, most = bounds
    if value is not None and not least <= value <= most:
        raise CommandError(f"{option} is {least} to {most}, not {value}")


def command_of(text: str) -> list[str]:
    """Split a command line. Raises CommandError when there is no such program."""
    try:
        command = shlex.split(text)
    except ValueError as error:
        raise CommandError(f"--run: {error}") from error
    if not command or shutil.which(command[0]) is None:
        raise CommandError(f"--run: there is no program {command[0] if command else text!r}")
    return command


async def _answer_all(
    file: AudioFile | None,
    args: argparse.Namespace,
    launch: Launch,
    screen: CaptionScreen,
) -> bool:
    """Answer; return whether Ctrl+C ended it."""
    until = asyncio.Event()
    with interrupts(until):
        if file is not None:
            mono = replace(file, channels=1)
            await _answer(paced(mono), mono.rate, args, launch, screen, until)
            return until.is_set()
        async with Microphone(args.device) as microphone:
            await _answer(microphone.packets(), microphone.rate, args, launch, screen, until)
    return until.is_set()


async def _answer(
    packets: AsyncIterator[bytes],
    rate: int,
    args: argparse.Namespace,
    launch: Launch,
    screen: CaptionScreen,
    until: asyncio.Event,
) -> None:
    ears = Ears(asyncio.get_running_loop().time, rate)
    taking = TurnTaking(launch, screen, ears)
    async with connect(
        args.url,
        audio=AudioFormat(encoding="pcm_s16le", rate=rate),
        latency=latency_of(args.latency or "low"),
        language=args.language,
        token=args.token,
        readable=Readable() if args.readable else None,
        come_back_s=30.0,
        on_line=line_notes(screen),
        endpointing=Endpointing(silence_ms=args.silence_ms, eager_ms=args.eager_ms),
    ) as connection:
        try:
            await converse(connection, ears.listen(packets), until, hear(connection, taking))
        finally:
            await taking.cancel()


async def hear(connection: Connection, taking: TurnTaking) -> None:
    """Hand every message of a session to the one who takes turns; the last turn is answered too."""
    async for message in connection:
        await taking.hear(message)
    await taking.finish()
