"""``rivulet serve``: the server.

Does: arguments.
Does not know: how a server works.
"""

import argparse
import sys
from typing import Any

from clients.errors import CommandError
from clients.glue import add_model_arguments, engine_side

EXAMPLES = """\
examples:
  rivulet serve                                           ws://127.0.0.1:8765/v1/stream, page at http://127.0.0.1:8765/
  rivulet serve --host 0.0.0.0 --port 9000 --workers 8
  rivulet serve --model nemotron.nemo --look-ahead 1 --precision fp32"""

WIRES = {
    "wyoming": "Wyoming (Home Assistant: 10300)",
    "vosk": "the vosk server's wire (2700)",
    "sherpa": "sherpa-onnx's streaming wire (6006)",
    "grpc": "NVIDIA Riva's gRPC (50051)",
}
"""Wires that cannot share our port."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8765, help="0: any free port")
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="engine processes, one core each (default: cores, 2 at most)",
    )
    parser.add_argument(
        "--devices",
        type=lambda text: tuple(text.split(",")),
        metavar="LIST",
        help="a worker on each: cuda:0,cuda:1, or cores that it has to itself, cpu:0,cpu:1",
    )
    parser.add_argument(
        "--decoder-device",
        metavar="DEVICE",
        help="where the workers' decoders run: cpu or cuda:N (default: where their encoders do)",
    )
    parser.add_argument(
        "--gateways",
        type=int,
        metavar="N",
        help="processes that share the ports, each with its share of the workers (default: 1)",
    )
    parser.add_argument(
        "--cluster",
        nargs="?",
        const="auto",
        metavar="HOST:PORT",
        help="run the engine processes on the machines of a Ray cluster, by default the one that "
        "this machine is part of (needs the extra 'ray')",
    )
    parser.add_argument(
        "--external-workers",
        metavar="[HOST]:PORT",
        help="wait there for workers that others start with `rivulet worker`, as many as --workers "
        "says (without HOST: this machine's)",
    )
    parser.add_argument(
        "--secret-file",
        metavar="FILE",
        help="what those workers must prove (default: the variable RIVULET_WORKER_SECRET)",
    )
    parser.add_argument("--slots", type=int, metavar="N", help="streams a worker holds at once")
    parser.add_argument(
        "--standby", type=int, metavar="N", help="warm workers more, for when one dies (default: 0)"
    )
    parser.add_argument(
        "--rest-after",
        type=float,
        metavar="S",
        help="seconds without speech after which a session gives its slot back until somebody "
        "speaks again; 0: never (default: 5)",
    )
    parser.add_argument(
        "--overcommit",
        type=int,
        metavar="N",
        help="streams connected for each slot, those that rest included (default: 10)",
    )
    parser.add_argument(
        "--admission",
        choices=("cost", "slots"),
        help="cost: refuse sessions that would make the words of others late, as measured while "
        "running; slots: only when every slot is taken (default: cost)",
    )
    parser.add_argument(
        "--store",
        metavar="WHERE",
        help="sessions kept for clients that come back: memory, sqlite:PATH, redis://HOST:PORT "
        "(default: SQLite in a folder that is memory)",
    )
    parser.add_argument(
        "--away-mb",
        type=int,
        metavar="N",
        help="memory for sessions whose clients are gone and may come back; the longest away go "
        "first (default: 2048)",
    )
    parser.add_argument(
        "--origin", action="append", default=[], metavar="URL", help="a web origin that may connect"
    )
    parser.add_argument("--keys", metavar="FILE", help="ask for the keys of `rivulet keys`")
    parser.add_argument(
        "--opens-per-minute",
        type=int,
        metavar="N",
        help="new connections from one address (default: any number)",
    )
    parser.add_argument(
        "--max-connections",
        type=int,
        metavar="N",
        help="connections of all kinds; who comes then is refused (default: 1000)",
    )
    parser.add_argument(
        "--file-mb",
        type=int,
        metavar="MIB",
        help="the largest file that may be posted; an hour of 16 kHz WAV has 110 (default: 64)",
    )
    for name, wire in WIRES.items():
        parser.add_argument(
            f"--{name}-port", type=int, metavar="N", help=f"also speak {wire} on a port of its own"
        )
    parser.add_argument(
        "--announce",
        action="store_true",
        default=None,
        help="let Home Assistant find the Wyoming port (mDNS; needs the extra 'announce')",
    )
    add_model_arguments(parser)


def announce(addresses: Any) -> None:
    """Say where the server is to be found."""
    sys.stdout.write(f"serving {addresses.websocket}, page {addresses.page}\n")
    sys.stdout.flush()


def run(args: argparse.Namespace) -> int:
    """Serve until it is told to end."""
    if args.keys == "":  # of a variable that is not set: nobody would be asked for a key
        raise CommandError("--keys names no file")
    settings = {
        "host": args.host,
        "port": args.port,
        "model": args.model,
        "look_ahead": args.look_ahead,
        "precision": args.precision,
        "backend": args.backend,
        "origins": tuple(args.origin),
        "workers": len(args.devices) if args.devices and args.workers is None else args.workers,
        "devices": args.devices,
        "decoder_device": args.decoder_device,
        "gateways": args.gateways,
        "slots": args.slots,
        "cluster": args.cluster,
        "external": args.external_workers,
        "secret_file": args.secret_file,
        "standby": args.standby,
        "rest_after_s": args.rest_after,
        "overcommit": args.overcommit,
        "admission": args.admission,
        "store": args.store,
        "away_mb": args.away_mb,
        "keys": args.keys,
        "opens_per_minute": args.opens_per_minute,
        "max_connections": args.max_connections,
        "file_mb": args.file_mb,
        "announce": args.announce,
        "lm": args.lm,
        "lm_weight": args.lm_weight,
        "beam": args.beam,
        **{f"{name}_port": getattr(args, f"{name}_port") for name in WIRES},
    }
    with engine_side() as side:
        return int(side.serve({k: v for k, v in settings.items() if v is not None}, announce))
