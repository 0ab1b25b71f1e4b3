"""Tells the local network where a wire is (mDNS), so that Home Assistant finds it by itself.

Does: announce a service of a port at this machine's addresses, take it back.
Does not know: wires, sockets, sessions. Needs the package zeroconf (extra ``announce``).
"""

import ipaddress
import socket
from collections.abc import Sequence

import ifaddr
from zeroconf import InterfaceChoice, IPVersion, ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

WYOMING = "_wyoming._tcp.local."
NAME = "rivulet"
_EVERYWHERE = ("", "0.0.0.0", "::")


class Announcement:
    """One service on the local network, from ``start`` to ``stop``."""

    def __init__(self, service: str, host: str, port: int) -> None:
        self._addresses = addresses_of(host)
        self._info = ServiceInfo(
            service,
            f"{NAME} {socket.gethostname().partition('.')[0]}.{service}",
            port=port,
            parsed_addresses=self._addresses,
            server=f"{NAME}-{socket.gethostname().partition('.')[0]}.local.",
        )
        self._zeroconf: AsyncZeroconf | None = None

    async def start(self) -> None:
        """Announce it; raises OSError where the network cannot be told."""
        listening: Sequence[str] | InterfaceChoice = InterfaceChoice.All
        if all(ipaddress.ip_address(address).is_loopback for address in self._addresses):
            listening = self._addresses
        self._zeroconf = AsyncZeroconf(interfaces=listening, ip_version=IPVersion.V4Only)
        # another server of this name on the network keeps it: this one takes a number
        await self._zeroconf.async_register_service(self._info, allow_name_change=True)

    async def stop(self) -> None:
        """Say that it is gone."""
        if self._zeroconf is not None:
            await self._zeroconf.async_close()


def addresses_of(host: str) -> list[str]:
    """Return the addresses under which others reach what listens on a host."""
    if host not in _EVERYWHERE:
        return [socket.gethostbyname(host)]
    found = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4]
    return [ip for ip in found if isinstance(ip, str) and not ipaddress.ip_address(ip).is_loopback]
