"""C++ of this package, compiled once on this machine for its processor.

Does: compile a source (seconds, at the first use) and load it; the results lie in the user's cache
folder, or nowhere if that cannot be written. ``python -m asr.native`` compiles all ahead.
Does not know: what the functions do, nor why a compiler is missing: then there is no library, and
torch does the same, slower.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

FLAGS = ("-std=c++17", "-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math",
         "-fPIC", "-shared")  # fmt: skip
FOR_PROCESSOR = {
    "x86_64": ("-march=native", "-mprefer-vector-width=512"),
    "aarch64": ("-mcpu=native",),
}
COMPILE_TIMEOUT_S = 120
_logger = logging.getLogger("rivulet.engine")


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """Return the functions of a source; None, and a line in the log, where that cannot be."""
    compiler = _compiler()
    if compiler is None:
        return None
    try:
        return _loaded(source, compiler)
    except (OSError, subprocess.SubprocessError) as error:
        warn_once(
            "%s cannot build the engine's inner loops, which run slower so: %s; "
            "another compiler: CXX=/path/to/g++",
            compiler, _first_line(error),
        )  # fmt: skip
        return None


@cache
def warn_once(text: str, *args: str) -> None:
    """Write to the log what would be said again for every source."""
    _logger.warning(text, *args)


TYPES: dict[str, Any] = {"n": ctypes.c_int64, "p": ctypes.c_void_p, "f": ctypes.c_float}


def typed(function: "ctypes._NamedFuncPointer", takes: str) -> "ctypes._NamedFuncPointer":
    """Say what a function takes: numbers need no wrapping then, of which a step has thousands."""
    function.restype, function.argtypes = None, [TYPES[letter] for letter in takes]
    return function


def _compiler() -> str | None:
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if found is None:
        warn_once("no C++ compiler (apt install g++): a stream costs three to eight times as much")
    return found


def _first_line(error: Exception) -> str:
    """Return what the compiler said first, or what went wrong around it."""
    said = getattr(error, "stderr", None) or b""
    if isinstance(error, subprocess.CalledProcessError) and not said:
        return f"it ended with status {error.returncode} and said nothing"
    return next(iter(said.decode(errors="replace").splitlines()), str(error))


def _loaded(source: Path, compiler: str) -> ctypes.CDLL:
    flags = (*FLAGS, *FOR_PROCESSOR.get(platform.machine(), ()))
    texts = (source, *sorted(source.parent.glob("*.h")))
    identity = (*(x.read_bytes() for x in texts), repr((compiler, flags, _processor())).encode())
    key = hashlib.sha256(b"\0".join(identity)).hexdigest()[:16]
    name, folder = f"{source.stem}-{key}.so", _folder()
    if folder is not None:
        with suppress(OSError):  # there is none yet
            return ctypes.CDLL(str(folder / name))
    with _draft(folder) as draft:
        made = Path(draft) / name
        subprocess.run(
            [compiler, *flags, str(source), "-o", str(made)],
            check=True, capture_output=True, timeout=COMPILE_TIMEOUT_S,
        )  # fmt: skip
        functions = ctypes.CDLL(str(made))  # stays, whatever becomes of the file
        if folder == made.parent.parent:
            made.replace(folder / name)  # whole or not at all, whoever else compiles
        else:
            warn_once(
                "%s cannot be written: the engine's inner loops are built anew at every start; "
                "a folder to keep them in: XDG_CACHE_HOME=/path",
                str(folder or "the cache of a user without a home"),
            )
    return functions


def _folder() -> Path | None:
    """Return where libraries are kept; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rivulet"
    except RuntimeError:
        return None


def _draft(folder: Path | None) -> "tempfile.TemporaryDirectory[str]":
    """Make a folder to compile in, beside what is kept if that can be."""
    if folder is not None:
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return tempfile.TemporaryDirectory(dir=folder)
    return tempfile.TemporaryDirectory()


def _processor() -> str:
    """Return what -march=native depends on: a home folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))}))


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    sources = sorted(Path(__file__).parent.rglob("*.cpp"))
    sys.exit(any(library(source) is None for source in sources))
