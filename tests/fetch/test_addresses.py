"""Which addresses are public, in every disguise; the standard library's own answer is wrong for some of them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from app.fetch.addresses import is_public, parse_address

FORBIDDEN_V4 = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255",  # noqa: S104
    "127.0.0.1",
    "127.255.255.254", "168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192",
    "192.0.2.1", "192.88.99.1", "192.168.0.1", "192.168.255.255", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
]  # fmt: skip
FORBIDDEN_V6 = [
    "::", "::1", "::2", "100::1", "64:ff9b:1::1", "64:ff9b:1:ffff::a00:1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fdff::1",
    "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1", "feff::1", "ff02::1", "ff0e::1", "4000::1", "::ffff:0:127.0.0.1",
]  # fmt: skip
PUBLIC_V4 = ["1.1.1.1", "8.8.8.8", "93.184.215.14", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1",
             "192.167.255.255", "192.169.0.1", "198.17.0.1", "198.20.0.1", "223.255.255.255"]  # fmt: skip
PUBLIC_V6 = ["2001:200::1", "2600::1", "2606:4700:4700::1111", "2a00:1450:4001::1", "3ffe::1"]


def disguised(v4: str) -> list[str]:
    """The forms in which an IPv6 address carries this one."""
    number = int(ip_address(v4))
    high, low = number >> 16, number & 0xFFFF
    inverted = number ^ 0xFFFF_FFFF
    return [
        f"::ffff:{v4}",  # mapped
        f"::{v4}",  # compatible
        f"2002:{high:x}:{low:x}::1",  # 6to4
        f"64:ff9b::{v4}",  # NAT64
        f"64:ff9b:1::{v4}",  # NAT64 of a local network
        f"2001:0:1:2:0:0:{inverted >> 16:x}:{inverted & 0xFFFF:x}",  # Teredo
    ]


def are_public(texts: Iterable[str]) -> set[str]:
    return {text for text in texts if is_public(parse_address(text))}


def test_no_private_address_is_public_in_any_form() -> None:
    assert are_public(FORBIDDEN_V4) == set()
    for text in FORBIDDEN_V4:
        assert are_public(disguised(text)) == set()


def test_no_special_address_is_public() -> None:
    assert are_public(FORBIDDEN_V6) == set()


def test_ordinary_addresses_are_public() -> None:
    assert are_public(PUBLIC_V4) == set(PUBLIC_V4)
    assert are_public(PUBLIC_V6) == set(PUBLIC_V6)


def test_what_a_resolver_makes_of_a_public_address_is_public() -> None:
    """As IPv4 mapped into IPv6 and as DNS64. Nobody serves photos from the other forms, which lead elsewhere than they say."""
    for text in PUBLIC_V4:
        mapped, _, _, nat64, _, _ = disguised(text)
        assert are_public(disguised(text)) == {mapped, nat64}
