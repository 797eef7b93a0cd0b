"""Which addresses of photos are taken, and what an operator may allow."""

from __future__ import annotations

import pytest

from app.fetch.photo_url import ForbiddenUrlError, HostList, PhotoUrl, parse_hosts, parse_url

HOSTS = HostList(parse_hosts(["images.example.com", "*.cdn.example.net"]))


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("https://images.example.com/a.jpg", "images.example.com", "/a.jpg"),
        ("HTTPS://Images.EXAMPLE.com:443/A.jpg?w=1&h=2#top", "images.example.com", "/A.jpg?w=1&h=2"),
        ("https://images.example.com", "images.example.com", "/"),
        ("https://images.example.com?id=3", "images.example.com", "/?id=3"),
        ("https://a.cdn.example.net/%20/(x),y;z=[1]|@user:2", "a.cdn.example.net", "/%20/(x),y;z=[1]|@user:2"),
        ("https://b.a.cdn.example.net/", "b.a.cdn.example.net", "/"),
    ],
)
def test_an_address_on_an_allowed_host_is_taken_apart(url: str, host: str, target: str) -> None:
    assert parse_url(url, HOSTS) == PhotoUrl(host, target)


FORBIDDEN = [
    # other schemes and ports
    "http://images.example.com/a.jpg", "ftp://images.example.com/", "file:///etc/passwd", "data:image/png;base64,AAAA",
    "//images.example.com/a", "images.example.com/a", "https:images.example.com/a", "https:/images.example.com/a",
    "https://images.example.com:80/", "https://images.example.com:8443/", "https://images.example.com:/", "gopher://x",
    "https://images.example.com:0443/", "https://images.example.com:443:443/",
    # user names, and what looks like one host to one parser and like another to the next
    "https://user@images.example.com/", "https://user:secret@images.example.com/", "https://images.example.com@127.0.0.1/",
    "https://127.0.0.1#@images.example.com/", "https://127.0.0.1\\@images.example.com/", "https://images.example.com\\.evil.org/",
    "https://127.0.0.1%2f@images.example.com", "https://images.example.com%2eevil.org/", "https://images.example.com%00.evil.org/",
    # other hosts
    "https://evil.org/", "https://images.example.com.evil.org/", "https://evilimages.example.com/", "https://example.com/",
    "https://cdn.example.net/", "https://evilcdn.example.net/", "https://.cdn.example.net/", "https://-.cdn.example.net/",
    "https://a..cdn.example.net/", "https://images.example.com./", "https://localhost/", "https://images/", "https:///a", "https://",
    f"https://{'a' * 64}.cdn.example.net/", f"https://{'a.' * 130}cdn.example.net/",
    "https://ımages.example.com/", "https://images。example.com/", "https://images.example.com/ä",
    # IP addresses in every writing
    "https://127.0.0.1/", "https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://0x7f.0.0.1/",
    "https://0177.0.0.1/", "https://017700000001/", "https://127.0.0.1.:443/", "https://[::1]/", "https://[::ffff:127.0.0.1]/",
    "https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/", "https://[fe80::1%25eth0]/", "https://169.254.169.254/latest/",
    "https://①②⑦.0.0.1/", "https://93.184.215.14/", "https://0/", "https://[::]/",
    # what would break out of the request's line
    "https://images.example.com/a b", "https://images.example.com/a\r\nHost: evil", "https://images.example.com/\n",
    "https://images.example.com/a\tb", "https://images.example.com/\x00", " https://images.example.com/",
    "https://images.example.com/ ",
    "https://images.example.com/\x7f", 'https://images.example.com/"', "https://images.example.com/a\n",
    "https://images.example.com/" + "a" * 4096, "",
]  # fmt: skip


@pytest.mark.parametrize("url", FORBIDDEN)
def test_everything_else_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ForbiddenUrlError) as caught:
        parse_url(url, HOSTS)
    assert "evil" not in str(caught.value)
    assert "127" not in str(caught.value)


def test_no_hosts_allow_nothing() -> None:
    with pytest.raises(ForbiddenUrlError):
        parse_url("https://images.example.com/", HostList([]))


def test_hosts_are_split_and_lower_cased() -> None:
    assert parse_hosts([" Images.Example.COM ", "", "*.cdn.example.net"]) == ("images.example.com", "*.cdn.example.net")


@pytest.mark.parametrize(
    "pattern",
    ["*", "*.com", "com", "localhost", "127.0.0.1", "127.1", "0x7f.0x1", "[::1]", "a.b.1", "https://a.example.com",
     "a.example.com/", "a.example.com:443", "a.*.example.com", "*a.example.com", "a_b.example.com", "-a.example.com",
     "ä.example.com", "a.example.com."],
)  # fmt: skip
def test_what_is_no_host_cannot_be_allowed(pattern: str) -> None:
    with pytest.raises(ValueError, match="full name"):
        parse_hosts([pattern])
