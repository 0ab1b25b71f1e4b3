"""Whatever a test does to the server, no traceback may come of it."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_traceback(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[None]:
    """Fail when an exception was logged here or printed by an engine process."""
    with caplog.at_level(logging.INFO):
        yield
        logged = [r.getMessage() for r in caplog.get_records("call") if r.exc_info]
        assert not logged
        assert "Traceback" not in capfd.readouterr().err
