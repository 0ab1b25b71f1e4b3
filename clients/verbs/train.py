"""``rivulet train``: train a model as a configuration file says.

Does: arguments.
Does not know: training.
"""

import argparse
from pathlib import Path

from clients.glue import engine_side

EXAMPLES = """\
examples:
  rivulet train asr/training/configs/embedded.toml --out build/embedded
  rivulet train asr/training/configs/embedded.toml --out build/embedded --resume"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file")
    parser.add_argument("--out", type=Path, default=Path("build/training"), metavar="FOLDER")
    parser.add_argument("--resume", action="store_true", help="go on with the run in FOLDER")


def run(args: argparse.Namespace) -> int:
    """Train until the configuration's minutes are spent."""
    with engine_side() as side:
        return int(side.train(args.config, out=args.out, resume=args.resume))
