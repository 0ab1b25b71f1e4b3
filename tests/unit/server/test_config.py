"""Bad settings stop the start in one sentence."""

import pytest

from server.config import ConfigError, ServerConfig, default_workers


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("port", -1),
        ("port", 70_000),
        ("workers", 0),
        ("slots", 1),
        ("look_ahead", -1),
        ("max_connections", 0),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{setting} must .*{value}"):
        ServerConfig(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["gpu", "cpu:", "cuda:one", "cpu:0,cpu:1"])
def test_a_device_that_cannot_be_is_named(device: str) -> None:
    with pytest.raises(ConfigError, match=device):
        ServerConfig(devices=("cpu:0", device))


def test_there_is_a_worker_per_core_but_two_at_most() -> None:
    assert 1 <= default_workers() <= 2
