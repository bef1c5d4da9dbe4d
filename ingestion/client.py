"""Who is on the other side of a request: the client's address behind proxies, and its user agent.

`X-Forwarded-For` is text that anybody can send, so it is believed only as far as it was written by
proxies that the settings name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Literal

ClientIp = Literal["full", "anonymised", "off"]
Address = IPv4Address | IPv6Address

# What fills in its user agent itself, on a person's device. Server libraries name themselves
# otherwise, and their address would say nothing about the customer.
_DEVICE = re.compile(
    rb"Mozilla/|Dalvik/|okhttp/|Dart/|.*CFNetwork/|analytics-(?:android|ios|kotlin|swift)",
    re.DOTALL,
)
_USER_AGENT_BYTES = 1024
_HOST = re.compile(r"[A-Za-z0-9._\-]+(?::[0-9]+)?|\[[0-9A-Fa-f:.]+\](?::[0-9]+)?")


def is_device(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a person's browser or phone sent the request, as far as its headers tell."""
    return b"origin" in headers or _DEVICE.match(headers.get(b"user-agent", b"")) is not None


def user_agent(headers: Mapping[bytes, bytes]) -> str | None:
    """The user agent, cut to a kilobyte; None where there is none."""
    return headers.get(b"user-agent", b"")[:_USER_AGENT_BYTES].decode("latin-1") or None


class Proxies:
    """The proxies whose word about the client is taken.

    `networks` are addresses or networks such as ``10.0.0.0/8``. Raises ValueError if one is not.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = [ip_network(network.strip(), strict=False) for network in networks]

    def client(self, scope: Mapping[str, Any]) -> Address | None:
        """The address of the client itself, or None if it cannot be known."""
        peer = _address(scope["client"][0]) if scope.get("client") else None
        if peer is None or not self._trusts(peer):
            return peer
        nearest = peer
        for hop in reversed(_values(scope, b"x-forwarded-for")):
            address = _address(hop)
            if address is None:
                return nearest
            nearest = address
            if not self._trusts(address):
                return nearest
        return nearest

    def origin(self, scope: Mapping[str, Any]) -> tuple[str, str] | None:
        """Scheme and host by which the client reached us; None if its Host header is malformed."""
        scheme, hosts = scope["scheme"], _values(scope, b"host")
        peer = _address(scope["client"][0]) if scope.get("client") else None
        if peer is not None and self._trusts(peer):
            schemes = [s for s in _values(scope, b"x-forwarded-proto") if s in ("http", "https")]
            scheme = schemes[0] if schemes else scheme
            hosts = _values(scope, b"x-forwarded-host")[:1] or hosts
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            return None
        return scheme, hosts[0]

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


@lru_cache(maxsize=4096)
def shown(address: Address, mode: ClientIp) -> str | None:
    """An address as the settings let it be kept.

    `anonymised` clears the last 8 bits of IPv4 and the last 80 of IPv6, as web analytics do.
    """
    if mode == "off":
        return None
    if mode == "anonymised":
        bits = 24 if address.version == 4 else 48
        return str(ip_network((address, bits), strict=False).network_address)
    return str(address)


def _values(scope: Mapping[str, Any], name: bytes) -> list[str]:
    """The members of a header that is a list, over all of its lines."""
    lines = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return [member.strip() for line in lines for member in line.split(",") if member.strip()]


@lru_cache(maxsize=4096)
def _address(text: str) -> Address | None:
    """An address as peers and proxies write it, with or without a port."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
