"""``rivulet transcribe``: words of whole files, offline, through the same engine as live.

Does: arguments, progress, results as text, JSON or subtitles.
Does not know: engines.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from clients.audiofile import open_audio
from clients.console import ProgressBar, can_redraw
from clients.errors import CommandError
from clients.glue import add_model_arguments, choice_of, engine_side
from server.wire.subtitles import Segment, TimedWord, to_srt, to_vtt

EXAMPLES = """\
examples:
  rivulet transcribe talk.flac
  rivulet transcribe talk.mp3 --srt > talk.srt
  rivulet transcribe *.wav --json                       one {"file", "text", "words"} a line
  rivulet transcribe call.wav --model nvidia/nemotron-speech-streaming-en-0.6b --look-ahead 13"""
MAX_SLOTS = 16
FILES = "wav, flac, ogg or mp3; channels are mixed (captions and meeting keep two apart)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=FILES)
    form = parser.add_mutually_exclusive_group()
    for name in ("json", "srt", "vtt"):
        form.add_argument(f"--{name}", dest="form", action="store_const", const=name)
    parser.set_defaults(form="txt")
    parser.add_argument(
        "--boost", action="append", default=[], metavar="PHRASE", help="words to favour; repeats"
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Transcribe and print in the order of the arguments."""
    seconds = sum(open_audio(path).seconds for path in args.files)
    if args.form in ("srt", "vtt") and len(args.files) > 1:
        raise CommandError(f"--{args.form} writes one file of subtitles: give one FILE")
    bar = ProgressBar(sys.stderr, "transcribing", seconds, can_redraw(sys.stderr))
    waiting, shown = dict[int, dict[str, Any]](), 0
    with engine_side() as side:
        choice = choice_of(side, args, slots=min(len(args.files), MAX_SLOTS))
        for result in side.transcribe(args.files, choice, bar.update):
            waiting[result["index"]] = result
            while shown in waiting:
                bar.close()
                sys.stdout.write(_drawn(waiting.pop(shown), args.files[shown], args))
                sys.stdout.flush()
                shown += 1
    bar.close()
    return 0


def _drawn(result: dict[str, Any], path: Path, args: argparse.Namespace) -> str:
    if args.form == "json":
        words = [{"w": w, "s": s, "e": e, "c": round(c, 4)} for w, s, e, c in result["words"]]
        row = {"file": str(path), "text": result["text"], "words": words}
        return json.dumps(row | {"duration_s": round(result["duration_s"], 3)}) + "\n"
    if args.form == "txt":
        return (f"{path}: " if len(args.files) > 1 else "") + result["text"] + "\n"
    timed = tuple(TimedWord(w, s, e) for w, s, e, _ in result["words"])
    segment = Segment(result["text"], 0, round(result["duration_s"] * 1000), timed)
    return (to_srt if args.form == "srt" else to_vtt)([segment])
