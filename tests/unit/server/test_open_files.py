"""A server takes as many connections as files may be open, and says so where that is fewer."""

import logging
import resource

import pytest

from server.app import FILES_BESIDE, within_files
from server.config import ServerConfig

CONFIG = ServerConfig(max_connections=5_000)
WANTED = CONFIG.max_connections + FILES_BESIDE


class Limits:
    """The system's limit of open files."""

    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def get(self, _which: int) -> tuple[int, int]:
        return self.now

    def set(self, _which: int, limits: tuple[int, int]) -> None:
        assert limits[1] == self.now[1]  # only root raises it again
        self.now = limits


def limited(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int) -> Limits:
    limits = Limits(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    return limits


@pytest.mark.parametrize("hard", [resource.RLIM_INFINITY, WANTED, 1_000_000])
def test_the_limit_is_raised_as_far_as_connections_need(
    monkeypatch: pytest.MonkeyPatch, hard: int
) -> None:
    limits = limited(monkeypatch, 1_024, hard)
    assert within_files(CONFIG) is CONFIG
    assert limits.now == (WANTED, hard)


@pytest.mark.parametrize("soft", [resource.RLIM_INFINITY, WANTED])
def test_a_limit_that_is_high_enough_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, soft: int
) -> None:
    limits = limited(monkeypatch, soft, soft)
    assert within_files(CONFIG) is CONFIG
    assert limits.now == (soft, soft)


def test_where_it_cannot_be_raised_fewer_connections_are_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = limited(monkeypatch, 1_024, 4_096)
    with caplog.at_level(logging.WARNING, logger="server"):
        assert within_files(CONFIG).max_connections == 4_096 - FILES_BESIDE
    assert limits.now == (4_096, 4_096)
    assert "ulimit -n" in caplog.text
