"""The photo host and its network, for every test here."""

from tests.fetch.photo_host import connects, network, pair, photo_host

__all__ = ["connects", "network", "pair", "photo_host"]
