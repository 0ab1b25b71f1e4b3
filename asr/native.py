"""C++ of this package, compiled once on this machine for its processor.

Does: compile a source (seconds, at the first use) and load it; the results lie in the user's cache
folder. ``python -m asr.native`` compiles all ahead.
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
        return ctypes.CDLL(str(_compiled(source, compiler)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        _logger.warning(
            "%s cannot build the engine's inner loops, which run slower so: %s; "
            "another compiler: CXX=/path/to/g++",
            compiler, _first_line(error),
        )  # fmt: skip
        return None


TYPES: dict[str, Any] = {"n": ctypes.c_int64, "p": ctypes.c_void_p, "f": ctypes.c_float}


def typed(function: "ctypes._NamedFuncPointer", takes: str) -> "ctypes._NamedFuncPointer":
    """Say what a function takes: numbers need no wrapping then, of which a step has thousands."""
    function.restype, function.argtypes = None, [TYPES[letter] for letter in takes]
    return function


def _compiler() -> str | None:
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if found is None:
        _logger.warning("no C++ compiler (apt install g++): the engine runs at half its speed")
    return found


def _first_line(error: Exception) -> str:
    """Return what the compiler said first, or what went wrong around it."""
    said = getattr(error, "stderr", None) or b""
    return next(iter(said.decode(errors="replace").splitlines()), str(error))


def _compiled(source: Path, compiler: str) -> Path:
    flags = (*FLAGS, *FOR_PROCESSOR.get(platform.machine(), ()))
    texts = (source, *sorted(source.parent.glob("*.h")))
    identity = (*(x.read_bytes() for x in texts), repr((compiler, flags, _processor())).encode())
    key = hashlib.sha256(b"\0".join(identity)).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rivulet"
    target = folder / f"{source.stem}-{key}.so"
    if not target.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as draft:
            made = Path(draft) / target.name
            subprocess.run(
                [compiler, *flags, str(source), "-o", str(made)],
                check=True, capture_output=True, timeout=COMPILE_TIMEOUT_S,
            )  # fmt: skip
            made.replace(target)  # whole or not at all, whoever else compiles
    return target


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
