"""``rivulet train``: train a model as a configuration file says.

Does: arguments.
Does not know: training.
"""

import argparse
from pathlib import Path

from clients.glue import engine_side

EXAMPLES = """\
Ctrl+C saves and stops. The file and its manifests are described in asr/training/README.md.
examples:
  rivulet train asr/training/configs/embedded.toml --out build/embedded
  rivulet train asr/training/configs/embedded.toml --out build/embedded --resume
  rivulet models export build/embedded mine"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a TOML file")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/training"),
        metavar="FOLDER",
        help="data, checkpoints and log of the run (default: build/training)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in FOLDER")


def run(args: argparse.Namespace) -> int:
    """Train until the configuration's minutes are spent."""
    with engine_side() as side:
        return int(side.train(args.config, out=args.out, resume=args.resume))
