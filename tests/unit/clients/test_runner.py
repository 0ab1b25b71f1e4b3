"""Real processes: their words, their output, their end."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from clients import runner
from clients.runner import LONGEST_LINE, Process

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


async def test_of_many_lines_each_leaves_the_session_a_turn() -> None:
    turns, seen = 0, list[int]()

    async def session() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(session())
    run = await Process.start(["seq", "3000"], "", lambda _: seen.append(turns))
    run.release()
    await run.wait()
    beside.cancel()
    assert len(set(seen)) == 3_000


async def test_a_line_without_an_end_comes_in_pieces() -> None:
    lines = list[str]()
    run = await Process.start(["sh", "-c", "yes | tr -d '\\n' | head -c 10000"], "", lines.append)
    run.release()
    await run.wait()
    assert "".join(lines) == "y" * 10_000
    assert max(map(len, lines)) == LONGEST_LINE


async def test_what_a_command_leaves_behind_with_its_pipe_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "GRACE_S", 0.1)
    left = tmp_path / "left"
    script = f"setsid sleep 600 & echo $! > {left}.new; mv {left}.new {left}"
    run = await Process.start(["sh", "-c", script], "", lambda _: None)
    while not left.exists():  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(0.01)
    try:
        async with asyncio.timeout(30):
            await run.cancel()
    finally:
        os.kill(int(left.read_text()), signal.SIGKILL)


async def test_who_waits_is_told_that_the_lines_went_nowhere() -> None:
    def gone(_: str) -> None:
        raise BrokenPipeError

    run = await Process.start(["echo", "yes"], "", gone)
    run.release()
    with pytest.raises(BrokenPipeError):
        await run.wait()
    assert not run.is_over  # it may write on for ever
    await run.cancel()


def _is_alive(status: Path) -> bool:
    try:
        return "State:\tZ" not in status.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
