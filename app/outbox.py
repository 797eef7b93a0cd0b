"""What is still to be sent to another process, over a socket that must not block.

Owns what the socket has not taken yet. Refuses to know what is said.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable


class Outbox:
    """Of one socket, which `selector` watches: `on_readable` is called when something has come."""

    def __init__(self, channel: socket.socket, selector: selectors.BaseSelector, on_readable: Callable[[], None]) -> None:
        self._channel = channel
        self._selector = selector
        self._on_readable = on_readable
        self._left = b""
        selector.register(channel, selectors.EVENT_READ, on_readable)

    def send(self, message: bytes) -> None:
        """Now, or when there is room. To one who is gone nothing is sent: its end is noticed elsewhere."""
        self._left += message
        self._flush()

    def close(self) -> None:
        """Both the watching and the socket. May be called again."""
        if self._channel.fileno() != -1:
            self._selector.unregister(self._channel)
            self._channel.close()

    def _flush(self) -> None:
        if self._channel.fileno() == -1:
            return
        try:
            self._left = self._left[self._channel.send(self._left) :]
        except BlockingIOError:
            pass
        except OSError:  # gone
            self._left = b""
        if self._left:
            self._selector.modify(self._channel, selectors.EVENT_READ | selectors.EVENT_WRITE, self._attend)
        else:
            self._selector.modify(self._channel, selectors.EVENT_READ, self._on_readable)

    def _attend(self) -> None:
        self._flush()
        self._on_readable()
