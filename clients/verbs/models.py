"""``rivulet models``: what is embedded, what a checkpoint holds; make one of a run, measure it.

Does: arguments, a table or JSON.
Does not know: checkpoint formats.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from clients.console import ProgressBar, can_redraw, table
from clients.errors import CommandError
from clients.glue import check_model, engine_side
from clients.saving import obstacle

EXAMPLES = """\
examples:
  rivulet models                                  the models embedded here
  rivulet models inspect my.nemo                  dimensions, look-aheads, memory, licence
  rivulet models inspect nvidia/stt_en_fastconformer_hybrid_large_streaming_multi --json
  rivulet models export build/training mine       best weights of `rivulet train`, for --model mine
  rivulet models export build/training mine.nemo  the same as one file, for NeMo too
  rivulet models calibrate mine dev.jsonl         how sure and how late its words are, measured"""
ACTIONS = ("list", "inspect", "export", "calibrate")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list")
    parser.add_argument("source", nargs="?", metavar="PATH|NAME")
    parser.add_argument(
        "other",
        nargs="?",
        type=Path,
        metavar="OUT|MANIFEST",
        help="where export writes; speech that calibrate measures with, that the model never heard",
    )
    parser.add_argument(
        "--lm",
        default="auto",
        metavar="FILE",
        help="of calibrate: as it will be served (auto, none)",
    )
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    """List, look into one, or make one."""
    if args.action == "export":
        return _export(args.source, args.other)
    if args.action == "calibrate":
        return _calibrate(args)
    if args.source is not None:
        check_model(args.source)
    with engine_side() as side:
        if args.action == "list":
            found = side.list_models()
        elif args.source is None:
            raise CommandError("models inspect needs the PATH or NAME of a checkpoint")
        else:
            found = side.inspect_model(args.source)
    if args.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        sys.stdout.write(_listed(found) if args.action == "list" else _inspected(found))
    return 0


def _export(source: str | None, out: Path | None) -> int:
    if source is None or out is None:
        raise CommandError("models export needs the folder of a run and OUT, a folder or a .nemo")
    if out.suffix == ".nemo" and (problem := obstacle(out)):
        raise CommandError(f"{out}: {problem}")
    with engine_side() as side:
        side.export_run(Path(source), out)
    sys.stdout.write(f"{out}: try rivulet transcribe FILE --model {out}\n")
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    if args.source is None or args.other is None:
        raise CommandError("models calibrate needs the PATH of a model and a MANIFEST")
    model, manifest = Path(args.source), args.other
    for path in (model, manifest):
        if not path.exists():
            raise CommandError(f"{path}: there is no such file or folder")
    bar = ProgressBar(sys.stderr, str(manifest), 1.0, can_redraw(sys.stderr))
    with engine_side() as side:
        made = side.calibrate(model, manifest, args.lm, lambda done, of: bar.update(done / of))
    bar.close()
    if args.json:
        sys.stdout.write(json.dumps(made) + "\n")
        return 0
    timed = (
        f"{made['late_ms']} ms late" if made["timed_words"] else "no word times: delay as before"
    )
    sys.stdout.write(
        f"{made['file']}: {made['words']} words, {made['right']:.0%} right, {timed}; confidence is"
        f" {made['error']:.3f} off ({made['error_before']:.3f} without, on the same half of them)\n"
    )
    return 0


def _listed(found: list[dict[str, Any]]) -> str:
    if not found:
        return "no model is embedded here; `--model PATH|NAME` loads any other\n"
    rows = [
        [
            model["name"],
            model.get("error") or f"{model['parameters'] / 1e6:.1f}M parameters",
            " ".join(map(str, model.get("look_aheads", ()))),
            model.get("licence") or "",
        ]
        for model in found
    ]
    return table(("model", "size", "look-aheads", "licence"), rows, width=100, flexible=1) + "\n"


def _inspected(about: dict[str, Any]) -> str:
    return "".join(f"{key.replace('_', ' '):<22}{_value(key, v)}\n" for key, v in about.items())


def _value(key: str, value: Any) -> str:
    if key == "bytes_per_stream":
        return ", ".join(f"{size / 1e6:.2f} MB in {kind}" for kind, size in value.items())
    if key == "parameters":
        return f"{value / 1e6:.1f} million"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "unknown" if value is None else str(value)
