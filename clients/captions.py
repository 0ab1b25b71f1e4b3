"""``rivulet captions``: live captions of files, at the pace of speech, or of the microphone.

Does: arguments, sources to sessions, Ctrl+C flushes, the words saved as txt, srt, vtt or json.
Does not know: how captions are drawn, how words are found.
"""

import argparse
import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import get_args

import msgspec

from clients.audiofile import AudioFile, open_audio
from clients.connection import RivuletError
from clients.console import CaptionScreen, can_redraw
from clients.errors import CommandError
from clients.live import Heard, Latency, Session, stream_live
from clients.microphone import Microphone
from clients.saving import check, save
from server.wire.errors import LocalProtocolError
from server.wire.messages import AudioFormat, Chunk, Final, Language, Readable
from server.wire.subtitles import FORMATS, Segment, segment_of, write

EXAMPLES = """\
examples:
  rivulet captions talk.flac
  rivulet captions --microphone                        Ctrl+C flushes the last words and ends
  rivulet captions --microphone --latency low --save notes.srt
  rivulet captions call.wav > finals.txt               finals to the file, tails to stderr
  rivulet captions talk.ogg --url ws://host:8765/v1/stream"""
DEFAULT_URL = "ws://127.0.0.1:8765/v1/stream"
LEAST_MS, MOST_MS = 80, 2_000
"""Of a chunk that may be asked for."""
HINTS = {
    "connection_lost": "`rivulet serve` starts a server",
    "unauthorized": "--token takes a key of `rivulet keys`",
}
"""What may help, by the code of an error."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="wav, flac, ogg or mp3")
    parser.add_argument("--microphone", action="store_true", help="needs the extra 'microphone'")
    parser.add_argument("--device", help="number or name of the microphone; else the default one")
    add_session_arguments(parser)
    parser.add_argument(
        "--save",
        type=Path,
        metavar="PATH",
        help=f"also write the words there; the ending chooses: {', '.join(FORMATS)}",
    )


def add_session_arguments(parser: argparse.ArgumentParser) -> None:
    """``--url``, ``--latency``, ``--language``, ``--token``."""
    parser.add_argument("--url", default=DEFAULT_URL, help=f"default: {DEFAULT_URL}")
    parser.add_argument(
        "--latency", default=None, metavar="CLASS|MS", help="low, balanced, accurate, or chunk ms"
    )
    parser.add_argument("--language", help="a language tag such as en, where the model has several")
    parser.add_argument("--token", help="bearer token, where the server asks for one")
    parser.add_argument(
        "--readable",
        action="store_true",
        help="capitals, ends of sentences and numbers by rules, where the model writes none",
    )


def language_of(text: str | None) -> str | None:
    """Return what ``--language`` means; which languages there are the server says."""
    _, shape = get_args(Language)
    if text is None or re.match(shape.pattern, text):
        return text
    raise CommandError(f"--language is a tag such as en, pt-BR or auto, not {text!r}")


def latency_of(text: str | None) -> Latency:
    """Return what ``--latency`` means."""
    if text is None or text in ("low", "balanced", "accurate"):
        return text  # type: ignore[return-value]  # just compared
    if text.isdecimal() and LEAST_MS <= int(text) <= MOST_MS:
        return Chunk(chunk_ms=int(text))
    raise CommandError(
        f"--latency is low, balanced, accurate or {LEAST_MS} to {MOST_MS} ms, not {text!r}"
    )


def why(error: RivuletError, url: str) -> str:
    """Return what a server, or its absence, means for who typed the command."""
    hint = HINTS.get(error.code)
    return f"{error} ({url})" + (f"; {hint}" if hint else "")


def line_notes(screen: CaptionScreen, name: str = "") -> Callable[[bool], None]:
    """Return what says on the screen that a connection broke, and that it is back."""
    prefix = f"{name}: " if name else ""
    said = {True: "the connection is back", False: "connection lost, trying again"}
    return lambda is_back: screen.note(prefix + said[is_back])


def run(args: argparse.Namespace) -> int:
    """Caption the sources one after another."""
    if bool(args.files) == args.microphone:
        raise CommandError("captions needs either FILEs or --microphone")
    saved = [args.save] if args.save else []
    check(saved, FORMATS)
    files = [open_audio(path) for path in args.files]
    latency_of(args.latency)
    language_of(args.language)
    screen = CaptionScreen(sys.stdout, sys.stderr, is_terminal=can_redraw(sys.stdout))
    heard, is_over = Heard(), False
    try:
        is_whole = asyncio.run(_caption(files, args, screen, heard))
        is_over = True
    except RivuletError as error:
        raise CommandError(why(error, args.url)) from error
    except LocalProtocolError as error:
        raise CommandError(str(error)) from error
    except asyncio.CancelledError:
        return 130
    finally:
        if is_over or heard.finals:  # a file of before is not emptied where nobody was heard
            segments = segments_of(heard.finals)
            save({path: write(segments, path.suffix[1:]) for path in saved})
        screen.close()
    return 0 if is_whole else 130


async def _caption(
    files: Sequence[AudioFile], args: argparse.Namespace, screen: CaptionScreen, heard: Heard
) -> bool:
    """Return whether the sources were heard to their end; a microphone's is Ctrl+C."""
    until = asyncio.Event()
    with interrupts(until):
        if args.microphone:
            async with Microphone(args.device) as microphone:
                audio = AudioFormat(encoding="pcm_s16le", rate=microphone.rate)
                session = session_of(args, audio, screen)
                packets = microphone.packets()
                await stream_live(packets, session, screen, heard=heard, until=until)
            return True
        offset_ms = 0
        for file in files:
            if until.is_set():
                break
            audio = AudioFormat(encoding="pcm_s16le", rate=file.rate, channels=file.channels)
            names = ("left", "right") if file.channels == 2 else ("",)
            if len(files) > 1:
                screen.note(str(file.path))
            one = Heard()
            packets = paced(file)
            try:
                session = session_of(args, audio, screen, names)
                await stream_live(packets, session, screen, heard=one, until=until)
            finally:
                heard.finals += (later(final, offset_ms) for final in one.finals)
            offset_ms += round(file.seconds * 1000)
    return not until.is_set()


def session_of(
    args: argparse.Namespace,
    audio: AudioFormat,
    screen: CaptionScreen,
    names: tuple[str, ...] = ("",),
) -> Session:
    """Return the session that the arguments ask for."""
    return Session(
        url=args.url,
        audio=audio,
        latency=latency_of(args.latency),
        language=language_of(args.language),
        token=args.token,
        readable=Readable() if args.readable else None,
        names=names,
        on_line=line_notes(screen),
    )


async def paced(file: AudioFile) -> AsyncIterator[bytes]:
    """Packets of a file, each when a microphone would have it."""
    clock = asyncio.get_running_loop().time
    started, sent = clock(), 0
    for packet in file.packets():
        sent += len(packet) // (2 * file.channels)
        await asyncio.sleep(max(0.0, started + sent / file.rate - clock()))
        yield packet


@contextlib.contextmanager
def interrupts(until: asyncio.Event) -> Iterator[None]:
    """Let the first Ctrl+C flush and the second one end at once.

    Who is terminated, or whose terminal is closed, has as much to save.
    """
    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        ends.append(signal.SIGHUP)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def stop() -> None:
        if until.is_set() and task is not None:
            task.cancel()
        until.set()

    for number in ends:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in ends:
            loop.remove_signal_handler(number)


def later(final: Final, offset_ms: int) -> Final:
    """Return the same final on the timeline of all files."""
    words = tuple(
        msgspec.structs.replace(w, s=w.s + offset_ms, e=w.e + offset_ms) for w in final.words or ()
    )
    return msgspec.structs.replace(
        final, start_ms=final.start_ms + offset_ms, end_ms=final.end_ms + offset_ms, words=words
    )


def segments_of(finals: Sequence[Final]) -> list[Segment]:
    """Return finals as subtitles see them; a second channel makes speakers of both."""
    several = len({final.channel for final in finals}) > 1
    return [
        segment_of(final, f"Speaker {final.channel + 1}" if several else "") for final in finals
    ]
