"""C++ is compiled once, and a machine that cannot is told what to do."""

import logging
import shutil
from pathlib import Path

import pytest

from asr.encoder.native import SOURCE
from asr.native import library, warn_once

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="no C++ compiler: apt install g++"
)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the engine's log is told, whoever has set up logging before."""
    said: list[str] = []
    warn_once.cache_clear()
    log = logging.getLogger("rivulet.engine")
    monkeypatch.setattr(log, "warning", lambda text, *args: said.append(text % args))
    return said


def test_without_a_compiler_there_is_no_library(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert library.__wrapped__(SOURCE) is None
    assert library.__wrapped__(SOURCE) is None
    (warning,) = warnings
    assert "apt install g++" in warning


def test_a_compiler_that_fails_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho no such flag >&2\necho more >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert library.__wrapped__(SOURCE) is None
    (warning,) = warnings
    assert "no such flag; another compiler: CXX=" in warning
    assert "more" not in warning
    assert not list((tmp_path / "rivulet").glob("*.so"))


def test_it_is_compiled_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert library.__wrapped__(SOURCE) is not None
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("compiled again"))
    assert library.__wrapped__(SOURCE) is not None


@pytest.mark.parametrize("home", ["a file", "none"])
def test_where_nothing_can_be_kept_it_is_compiled_for_this_process(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str], tmp_path: Path, home: str
) -> None:
    """A file system that is only read, or a user whom the system does not know."""
    if home == "none":
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", no_home)
    else:
        (tmp_path / "cache").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    functions = library.__wrapped__(SOURCE)
    assert functions is not None
    assert functions.norm_fp32
    (warning,) = warnings
    assert "XDG_CACHE_HOME=" in warning


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")
