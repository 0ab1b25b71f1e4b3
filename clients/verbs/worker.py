"""``rivulet worker``: an engine process that registers itself with a server.

Does: arguments.
Does not know: engines, links.
"""

import argparse
import math
import sys
from typing import Any

from clients.glue import add_model_arguments, choice_of, engine_side

EXAMPLES = """\
examples:
  rivulet serve --external-workers 10.0.0.1:8771 --workers 8     the server: places for eight
  rivulet worker --join 10.0.0.1:8771                            on any machine of that network
  rivulet worker --join 10.0.0.1:8771 --device cuda:1
Both have the same secret in RIVULET_WORKER_SECRET, or in --secret-file FILE."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "--join", required=True, metavar="HOST:PORT", help="where the server waits for workers"
    )
    parser.add_argument(
        "--secret-file",
        default="",
        metavar="FILE",
        help="the secret of the server's workers (default: the variable RIVULET_WORKER_SECRET)",
    )
    parser.add_argument(
        "--device", default="cpu", help="cpu: any core; cpu:N: that core and no other; cuda:N"
    )
    parser.add_argument(
        "--decoder-device",
        default="",
        metavar="DEVICE",
        help="where the decoder runs: cpu or cuda:N (default: where the encoder does)",
    )
    parser.add_argument(
        "--audio-hour-cost",
        type=_cost,
        metavar="X",
        help="what an hour of audio costs on that device (`rivulet plan` tells); for all workers "
        "or for none: the cheapest in time takes a session (default: cuda before cpu)",
    )
    parser.add_argument(
        "--slots", type=int, default=64, metavar="N", help="streams it holds at once (default: 64)"
    )
    add_model_arguments(parser)


def _cost(text: str) -> float:
    cost = float(text)
    if not 0 <= cost < math.inf:
        raise argparse.ArgumentTypeError(f"a cost is a number from 0 on, not {text}")
    return cost


def run(args: argparse.Namespace) -> int:
    """Serve until the server has no use for us."""

    def announce(engine: Any) -> None:
        carried = f"{engine.model} ({engine.precision}) on {args.device}, {engine.slots} streams"
        sys.stdout.write(f"joined {args.join}: {carried}\n")
        sys.stdout.flush()

    with engine_side() as side:
        choice = choice_of(side, args, slots=args.slots)
        hardware = side.Hardware(
            device=args.device,
            decoder_device=args.decoder_device,
            audio_hour_cost=args.audio_hour_cost,
        )
        side.work(choice, hardware, args.join, args.secret_file, announce)
    return 0
