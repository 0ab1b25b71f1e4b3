"""``rivulet lm``: a language model of text files for the vocabulary of a model.

Does: arguments, what was made.
Does not know: counting, vocabularies.
"""

import argparse
import sys
from pathlib import Path

from clients.errors import CommandError
from clients.glue import engine_side
from clients.saving import obstacle

EXAMPLES = """\
One sentence a line, written as the model writes (lower case and no punctuation for rivulet-en).
examples:
  rivulet lm train notes.txt texts/*.txt.gz --out english.lm
  rivulet lm train calls.txt --model my.nemo --order 5 --out calls.lm
  rivulet transcribe call.wav --model my.nemo --lm calls.lm --beam 8"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("action", choices=("train",))
    parser.add_argument("texts", nargs="+", type=Path, metavar="TEXT", help="plain or gzip")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--model", default="", metavar="PATH|NAME", help="whose vocabulary")
    parser.add_argument("--order", type=int, choices=range(2, 9), default=6, metavar="2-8")
    parser.add_argument(
        "--most",
        type=int,
        metavar="N",
        help="most n-grams (3-4 bytes each): those that the texts miss least are left out",
    )


def run(args: argparse.Namespace) -> int:
    """Count, estimate, write the file."""
    if problem := obstacle(args.out):
        raise CommandError(f"--out {args.out}: {problem}")
    for text in args.texts:
        if text.is_char_device():  # it may have no end
            raise CommandError(f"{text}: a device is no file of text")
    if args.most is not None and args.most < 1:
        raise CommandError("--most is at least 1")
    with engine_side() as side:
        made = side.train_lm(args.texts, args.model, args.out, order=args.order, most=args.most)
    size = made["bytes"] / 1e6
    sys.stdout.write(f"{made['file']}: {made['ngrams']} n-grams of {made['sentences']} sentences, ")
    sys.stdout.write(f"{size:.1f} MB\n")
    if made["left_out"]:
        sys.stderr.write(
            f"{made['left_out']} lines are left out: the model does not write all their letters\n"
        )
    return 0
