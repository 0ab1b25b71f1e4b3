"""What a server costs."""

import os
import socket

import pytest

from clients.load.host import PROC, find_server, is_here, total, usage_of
from clients.load.plan import Call
from clients.load.run import shares

METRICS = """# HELP rivulet_audio_seconds_total Audio received
rivulet_audio_seconds_total{latency="low"} 12.5
rivulet_audio_seconds_total{latency="accurate"} 1.5
rivulet_audio_seconds_created{latency="low"} 1.7e+09
rivulet_step_seconds_sum{latency="low"} 0.25
rivulet_connections 3.0
"""
linux = pytest.mark.skipif(not (PROC / "self" / "stat").exists(), reason="needs /proc")


def test_a_metric_is_summed_over_its_labels_and_not_with_its_neighbours() -> None:
    assert total(METRICS, "rivulet_audio_seconds_total") == 14.0
    assert total(METRICS, "rivulet_connections") == 3.0
    assert total(METRICS, "rivulet_nothing") == 0.0


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("192.0.2.7", False), ("a.b", False)],
)
def test_loopback_is_this_machine(host: str, here: bool) -> None:  # noqa: FBT001 - a table
    assert is_here(host) == here


@linux
def test_the_process_that_listens_on_a_port_is_found() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert find_server(port) == os.getpid()
    assert find_server(port) is None


@linux
def test_a_process_has_used_time_and_memory_and_a_dead_one_nothing() -> None:
    usage = usage_of(os.getpid())
    assert usage is not None
    assert usage.cpu_s > 0
    assert usage.memory_bytes > 1_000_000
    assert usage_of(2**30) is None


def seat(packet_ms: int) -> tuple[Call, ...]:
    return (Call(0.0, 0, 16_000, True, packet_ms, "low"),)


def test_seats_are_divided_so_that_a_process_is_on_time() -> None:
    assert [len(share) for share in shares([seat(100)] * 7)] == [7]
    assert [len(share) for share in shares([seat(100)] * 1001)] == [334, 334, 333]
    assert len(shares([seat(20)] * 400)) == 4
