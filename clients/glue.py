"""The way from a light verb to the server's and the engine's side of it.

Does: load ``server.cli`` by name, turn its errors into the command's; the options of every model.
Does not know: engines, servers.
"""

import argparse
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clients.errors import CommandError


@contextmanager
def engine_side() -> Iterator[Any]:
    """Give the module ``server.cli``; its errors become CommandError."""
    module: Any = importlib.import_module("server.cli")
    try:
        yield module
    except module.CliError as error:
        raise CommandError(str(error)) from error


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """``--model``, ``--look-ahead``, ``--precision``, ``--backend``, ``--lm``, ``--beam``."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="",
        metavar="PATH|NAME",
        help="a .nemo file, a Hugging Face folder or name, or an embedded model (the default)",
    )
    group.add_argument(
        "--look-ahead",
        type=int,
        metavar="N",
        help="encoder frames of right context, 80 ms each (a value the model was trained for)",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "int8"),
        default="auto",
        help="auto: the fastest this processor has that the model's accuracy allows; fp32: exact",
    )
    group.add_argument(
        "--backend", choices=("own", "nemo"), default="own", help="nemo: NeMo 3.0.0 runs the model"
    )
    group.add_argument(
        "--lm",
        default="auto",
        metavar="FILE",
        help="a language model made by `rivulet lm train`; auto: the model's own, if any; none",
    )
    group.add_argument("--lm-weight", type=float, metavar="W", help="its share, 0 to 10")
    group.add_argument(
        "--beam",
        type=int,
        metavar="N",
        help="hypotheses searched over a CTC head; 1: greedy (default: 24 with a language model)",
    )


def check_model(source: str) -> None:
    """Look, before the engine takes its seconds, for what can only be a path: CommandError."""
    is_path = source.endswith(".nemo") or source.startswith(("/", ".", "~"))
    path = Path(source).expanduser()
    if is_path and not path.exists():
        raise CommandError(f"{source}: there is no such file or folder")
    if path.is_char_device():  # it may have no end
        raise CommandError(f"{source}: a device is no model")


def choice_of(module: Any, args: argparse.Namespace, *, slots: int = 16) -> Any:
    """Return the ``ModelChoice`` that the arguments describe. Raises CommandError."""
    check_model(args.model)
    return module.ModelChoice(
        model=args.model,
        look_ahead=args.look_ahead,
        precision=args.precision,
        backend=args.backend,
        lm=args.lm,
        lm_weight=args.lm_weight,
        beam=args.beam,
        boost=tuple(getattr(args, "boost", ())),
        slots=slots,
    )
