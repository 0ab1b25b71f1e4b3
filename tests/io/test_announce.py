"""The Wyoming port on a local network of one machine."""

import asyncio

import pytest

zeroconf = pytest.importorskip("zeroconf", reason="needs the extra 'announce'")
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf  # noqa: E402

from server.announce import WYOMING, addresses_of  # noqa: E402
from server.config import ConfigError, ServerConfig  # noqa: E402
from tests.io.serving import serving  # noqa: E402

pytestmark = pytest.mark.io


async def test_the_wyoming_port_is_found_and_forgotten_when_the_server_ends() -> None:
    seen: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def changed(zeroconf: object, service_type: str, name: str, state_change: object) -> None:
        seen.put_nowait((str(state_change).rpartition(".")[2], name))

    async with AsyncZeroconf(interfaces=["127.0.0.1"]) as network:
        browser = AsyncServiceBrowser(network.zeroconf, WYOMING, handlers=[changed])
        async with serving(wyoming_port=0, announce=True) as server:
            while (found := await asyncio.wait_for(seen.get(), 20))[0] != "Added":
                pass
            info = AsyncServiceInfo(WYOMING, found[1])
            assert await info.async_request(network.zeroconf, 5_000)
            assert info.port == server.gateway.ports.port_of("wyoming")
            assert info.parsed_addresses() == ["127.0.0.1"]
        while await asyncio.wait_for(seen.get(), 20) != ("Removed", found[1]):
            pass
        await browser.async_cancel()


def test_loopback_is_not_told_of_where_everything_is_listened_on() -> None:
    assert "127.0.0.1" not in addresses_of("0.0.0.0")
    assert addresses_of("localhost") == ["127.0.0.1"]


def test_there_must_be_something_to_announce() -> None:
    with pytest.raises(ConfigError, match="wyoming_port"):
        ServerConfig(announce=True)
