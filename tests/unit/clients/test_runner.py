"""Real processes: their words, their output, their end."""

import asyncio
import sys
from pathlib import Path

import pytest

from clients.runner import Process

pytestmark = pytest.mark.io
LISTENS = [sys.executable, "-c", "import sys; print(sys.stdin.read().upper(), end='')"]


async def test_the_words_are_its_input_and_its_lines_come_once_released() -> None:
    lines = list[str]()
    run = await Process.start(LISTENS, "turn on\nthe light", lines.append)
    assert not run.is_over
    assert lines == []
    run.release()
    await run.wait()
    assert lines == ["TURN ON", "THE LIGHT"]
    assert run.is_over


async def test_a_command_that_never_reads_is_no_trouble() -> None:
    lines = list[str]()
    run = await Process.start(["true"], "x" * 200_000, lines.append)
    run.release()
    await run.wait()
    assert lines == []


async def test_a_last_line_without_its_end_is_a_line() -> None:
    lines = list[str]()
    run = await Process.start(["printf", "one\\ntwo"], "", lines.append)
    run.release()
    await run.wait()
    assert lines == ["one", "two"]


async def test_a_cancelled_command_ends_with_its_children(tmp_path: Path) -> None:
    started = tmp_path / "started"
    script = f"sleep 600 & echo $! > {started}.new; mv {started}.new {started}; wait"
    run = await Process.start(["sh", "-c", script], "", lambda line: None)
    while not started.exists():  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(0.01)
    await run.cancel()
    child = Path("/proc") / started.read_text().strip() / "status"
    async with asyncio.timeout(10):
        while _is_alive(child):  # noqa: ASYNC110 - a killed process dies a moment later
            await asyncio.sleep(0.01)


async def test_a_command_that_writes_much_waits_in_its_pipe_and_is_cancelled_all_the_same() -> None:
    lines = list[str]()
    run = await Process.start(["yes"], "", lines.append)
    await run.cancel()
    assert lines == []


def _is_alive(status: Path) -> bool:
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
