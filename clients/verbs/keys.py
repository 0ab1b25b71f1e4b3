"""``rivulet keys``: who may use a server.

Does: arguments, the new key once, the names.
Does not know: how keys are kept.
"""

import argparse
import sys
from pathlib import Path

from clients.errors import CommandError
from clients.glue import engine_side

EXAMPLES = """\
A key is shown once; the file keeps its hash and a running server reads the file again by itself.
Scopes: stream (live), files (POST), tokens (POST /v1/tokens: short-lived tokens for web pages).
examples:
  rivulet keys add shop --file keys.json --streams 20
  rivulet keys add web --file keys.json --scope stream --scope tokens
  rivulet keys list --file keys.json
  rivulet keys remove shop --file keys.json
  rivulet serve --keys keys.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("action", choices=("add", "remove", "list"))
    parser.add_argument("name", nargs="?", help="whose key")
    parser.add_argument("--file", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--scope", action="append", default=[], metavar="SCOPE", help="default: stream and files"
    )
    parser.add_argument("--streams", type=int, metavar="N", help="audio channels at once, at most")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    if (args.name is None) != (args.action == "list"):
        raise CommandError("add and remove take a name, list takes none")
    if args.streams is not None and args.streams < 1:
        raise CommandError("--streams is at least 1")
    with engine_side() as side:
        if args.action == "add":
            sys.stdout.write(side.add_key(args.file, args.name, args.scope, args.streams) + "\n")
        elif args.action == "remove":
            side.remove_key(args.file, args.name)
        else:
            for key in side.list_keys(args.file):
                most = "any number of" if key["streams"] is None else key["streams"]
                sys.stdout.write(f"{key['name']}: {', '.join(key['scopes'])}; {most} streams\n")
    return 0
