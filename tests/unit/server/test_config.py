"""Bad settings stop the start in one sentence."""

from typing import Any

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
        ("rest_after_s", float("nan")),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{setting} must .*{value}"):
        ServerConfig(**{setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["gpu", "cpu:", "cuda:one", "cpu:0,cpu:1"])
def test_a_device_that_cannot_be_is_named(device: str) -> None:
    with pytest.raises(ConfigError, match=device):
        ServerConfig(devices=("cpu:0", device))
    with pytest.raises(ConfigError, match="decoder_device"):
        ServerConfig(decoder_device=device if device != "cpu:" else "cpu:1")


@pytest.mark.parametrize("where", ["8771", "host", "host:", "::1:8771", "host:port"])
def test_workers_register_at_an_address(where: str) -> None:
    with pytest.raises(ConfigError, match="external_workers register at"):
        ServerConfig(external=where)


@pytest.mark.parametrize("where", [":8771", "10.0.0.1:8771", "[::1]:8771", "gateway.local:8771"])
def test_an_address_for_workers_may_name_an_interface(where: str) -> None:
    assert ServerConfig(external=where).external == where


@pytest.mark.parametrize("other", [{"cluster": "auto"}, {"devices": ("cpu:0",)}, {"gateways": 2}])
def test_external_workers_have_nothing_beside_them(other: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="external"):
        ServerConfig(external=":8771", workers=2, **other)


def test_a_secret_is_for_workers_that_others_start() -> None:
    with pytest.raises(ConfigError, match="secret_file is for external_workers"):
        ServerConfig(secret_file="nosuch")
    assert ServerConfig(external=":8771", secret_file="secret").secret_file == "secret"


def test_no_more_engine_processes_than_a_machine_can_take() -> None:
    with pytest.raises(ConfigError, match="100000 engine processes are too many"):
        ServerConfig(workers=100_000)
    with pytest.raises(ConfigError, match="too many"):
        ServerConfig(standby=100_000)
    assert ServerConfig(external=":8771", workers=1_000).workers == 1_000


def test_there_is_a_worker_per_core_but_two_at_most() -> None:
    assert 1 <= default_workers() <= 2
