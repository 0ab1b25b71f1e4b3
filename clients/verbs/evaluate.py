"""``rivulet evaluate``: word error rates of manifests through the streaming engine.

Does: arguments, progress, one row or one JSON object a manifest.
Does not know: engines, scoring.
"""

import argparse
import json
import sys
from pathlib import Path

from clients.console import ProgressBar, can_redraw, table
from clients.errors import CommandError
from clients.glue import add_model_arguments, choice_of, engine_side

EXAMPLES = """\
A manifest is JSON lines: {"audio_filepath": ..., "text": ...}, paths relative to its folder.
examples:
  rivulet evaluate samples/manifest.jsonl
  rivulet evaluate sets/*/manifest.jsonl --look-ahead 6 --json
  rivulet evaluate dev/manifest.jsonl --model my.nemo --precision fp32 --every 10"""
COLUMNS = ("manifest", "wer", "cer", "words", "utterances", "rtf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST")
    parser.add_argument("--json", action="store_true", help="one JSON object a manifest")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="each N-th utterance only: a quick look"
    )
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate the manifests one after another; ``wer`` and ``cer`` are fractions."""
    if args.every < 1:
        raise CommandError(f"--every is at least 1, not {args.every}")
    for manifest in args.manifests:
        if not manifest.exists():
            raise CommandError(f"{manifest}: there is no such file")
    results = []
    for manifest in args.manifests:
        bar = ProgressBar(sys.stderr, str(manifest), 1.0, can_redraw(sys.stderr))
        with engine_side() as side:
            result = side.evaluate(
                manifest,
                choice_of(side, args),
                every=args.every,
                on_progress=lambda done, of, bar=bar: bar.update(done / of),
            )
        bar.close()
        results.append(result)
        if args.json:
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()
    if not args.json:
        rows = [[str(result[c]) for c in COLUMNS] for result in results]
        sys.stdout.write(table(COLUMNS, rows, width=100, flexible=0) + "\n")
    return 0
