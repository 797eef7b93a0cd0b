"""Which IP addresses a photo may be fetched from: those of the public internet, whatever form they come in.

Owns the table, from IANA's registries of special-purpose addresses (RFC 6890). The standard library's `is_global` says yes
to `::127.0.0.1`, `2002:a00:1::`, `64:ff9b::10.0.0.1` and `fec0::1`, and its answers change with Python's version.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_FORBIDDEN_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 reaches the machine itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's services of the host machine, an address that is public in the registry
        "169.254.0.0/16",  # link-local, the metadata services of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation, as the two below
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# Everything outside is loopback, private, link-local, site-local, multicast, reserved, or an IPv4 address in disguise.
_PUBLIC_V6 = IPv6Network("2000::/3")
_FORBIDDEN_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocols' own, Teredo (an IPv4 address in disguise) among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, an IPv4 address in disguise
        "3fff::/20",  # documentation
    )
)
# The two disguises that a resolver itself puts on: an IPv4 address asked for as IPv6, and DNS64 on networks without IPv4.
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")


def parse_address(text: str) -> IPv4Address | IPv6Address:
    """An address as a resolver writes it. Raises ValueError."""
    return ip_address(text)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether a photo may be fetched from there. An IPv4 address in an IPv6 one is judged as what it is, or refused."""
    if isinstance(address, IPv6Address):
        if address in _MAPPED or address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        return address in _PUBLIC_V6 and not any(address in network for network in _FORBIDDEN_V6)
    return not any(address in network for network in _FORBIDDEN_V4)
