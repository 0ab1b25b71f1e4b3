"""``rivulet demo`` (`make run`): a server, the samples through its WebSocket, one table.

Does: start the server, stream the samples at the pace of speech, print the results, go on serving.
Does not know: engines. Everything it shows went through the real socket.
"""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from clients.audiofile import BadAudioFile, open_audio
from clients.captions import latency_of
from clients.console import CaptionScreen, can_redraw, table
from clients.errors import CommandError
from clients.glue import add_model_arguments
from clients.live import Heard, Session, stream_file
from clients.results import HEADER, Result, Sample, figures, is_failed, row
from clients.serving import ServerProcess
from server.wire.messages import AudioFormat

EXAMPLES = """\
examples:
  rivulet demo                        what `make run` starts
  rivulet demo --once                 end after the table; fails when a sample failed
  rivulet demo --quick --port 9000    without the long sample, on another port"""
SAMPLES = Path(__file__).resolve().parent.parent / "samples"
LONG_S = 60.0
"""A sample longer than this runs beside the others, from the beginning."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--once", action="store_true", help="end after the table")
    parser.add_argument("--quick", action="store_true", help="leave the long sample out")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--samples", type=Path, default=SAMPLES, metavar="FOLDER")
    parser.add_argument("--latency", default=None, metavar="CLASS|MS")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo; non-zero when a sample failed."""
    began = time.monotonic()
    # A terminated demo must not leave its server behind: the with block ends it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    samples = read_samples(args.samples)
    if args.quick:
        samples = [s for s in samples if s.audio.seconds <= LONG_S]
    with ServerProcess(args.port, model_options(args)) as server:
        server.wait_ready()
        ready_s = time.monotonic() - began
        results, first_words_s = asyncio.run(_stream_all(samples, args, began, server))
        screen_width = shutil.get_terminal_size((110, 24)).columns
        rows = [row(result) for result in results]
        _say("\n" + table(HEADER, rows, width=max(80, screen_width), flexible=1))
        failed = [r.sample.name for r in results if is_failed(r)]
        if failed:
            _say(f"\nfailed: {', '.join(failed)}")
        if not args.once:
            _say(where(args.port))
            server.wait_end()
        _say(
            json.dumps(
                {"ready_s": round(ready_s, 2), "first_caption_s": first_words_s, **figures(results)}
            )
        )
    return 1 if failed else 0


def read_samples(folder: Path) -> list[Sample]:
    """Read the samples of a folder by its manifest. Raises CommandError."""
    manifest = folder / "manifest.jsonl"
    try:
        lines = [json.loads(x) for x in manifest.read_text().splitlines() if x.strip()]
        return [_sample(folder, line) for line in lines]
    except RecursionError as error:
        raise CommandError(f"the samples cannot be read: {manifest} is nested too deep") from error
    except (OSError, AttributeError, KeyError, TypeError, ValueError, BadAudioFile) as error:
        raise CommandError(f"the samples cannot be read: {error}") from error


def _sample(folder: Path, line: dict[str, Any]) -> Sample:
    channels = tuple(c["text"] for c in line.get("channels", ())) or (line["text"],)
    audio = open_audio(folder / line["audio_filepath"])
    return Sample(Path(line["audio_filepath"]).stem, audio, channels)


def model_options(args: argparse.Namespace) -> list[str]:
    """Return what the demo hands on to ``rivulet serve``."""
    options = ["--precision", args.precision, "--backend", args.backend]
    if args.model:
        options += ["--model", args.model]
    if args.look_ahead is not None:
        options += ["--look-ahead", str(args.look_ahead)]
    options += ["--lm", args.lm]
    if args.lm_weight is not None:
        options += ["--lm-weight", str(args.lm_weight)]
    if args.beam is not None:
        options += ["--beam", str(args.beam)]
    return options


async def _stream_all(
    samples: list[Sample], args: argparse.Namespace, began: float, server: ServerProcess
) -> tuple[list[Result], float | None]:
    """Short samples one after another, long ones beside them; results in the samples' order."""
    screen = CaptionScreen(sys.stdout, sys.stderr, is_terminal=can_redraw(sys.stdout))
    heard: dict[str, Heard] = {}
    offset = time.monotonic() - asyncio.get_running_loop().time()

    async def one(sample: Sample) -> None:
        heard[sample.name] = await _stream(sample, args, screen)

    async def in_turn(some: list[Sample]) -> None:
        for sample in some:
            await one(sample)

    screen.note(f"streaming {len(samples)} samples to {url_of(args.port)} at the pace of speech")
    async with asyncio.TaskGroup() as group:
        group.create_task(in_turn([s for s in samples if s.audio.seconds <= LONG_S]))
        for sample in samples:
            if sample.audio.seconds > LONG_S:
                group.create_task(one(sample))
    screen.close()
    seen = [h.first_words_s for h in heard.values() if h.first_words_s is not None]
    first = round(min(seen) + offset - began, 2) if seen else None
    return [Result(sample, heard[sample.name]) for sample in samples], first


async def _stream(sample: Sample, args: argparse.Namespace, screen: CaptionScreen) -> Heard:
    audio = sample.audio
    name = sample.name.partition("-")[2] or sample.name
    session = Session(
        url=url_of(args.port),
        audio=AudioFormat(encoding="pcm_s16le", rate=audio.rate, channels=audio.channels),
        latency=latency_of(args.latency),
        names=(name,) if audio.channels == 1 else (f"{name} L", f"{name} R"),
    )
    total = audio.frames * audio.rate // audio.own_rate
    return await stream_file(audio.packets(), total, session, screen)


def url_of(port: int) -> str:
    """Where the demo's server takes sessions."""
    return f"ws://127.0.0.1:{port}/v1/stream"


def where(port: int) -> str:
    """How to go on from here."""
    command = Path(sys.argv[0])
    if command.is_absolute() and command.is_relative_to(Path.cwd()):
        command = command.relative_to(Path.cwd())
    at = "" if port == 8765 else f" --url {url_of(port)}"
    return (
        f"\nserving until Ctrl+C\n"
        f"  WebSocket   {url_of(port)}\n"
        f"  page        http://127.0.0.1:{port}/\n"
        f"  a file      {command} captions FILE{at}\n"
        f"  microphone  {command} captions --microphone{at}"
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
