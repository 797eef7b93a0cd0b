"""What the service asks of its sockets."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from app.listeners import SEND_BUFFER_BYTES, bind_listeners


def test_the_kernel_holds_little_of_an_answer_that_nobody_reads() -> None:
    (listener,) = bind_listeners("127.0.0.1", 0, 1)
    with closing(listener):
        listener.listen()
        listener.setblocking(True)
        with closing(socket.create_connection(listener.getsockname())):
            accepted, _ = listener.accept()
            with closing(accepted):
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER_BYTES


@contextmanager
def bound(port: int, count: int, host: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(listener) for listener in bind_listeners(host, port, count)]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("other_count", [1, 2])
def test_a_port_is_one_services_from_the_moment_it_is_bound(count: int, other_count: int) -> None:
    """Sockets that are bound and do not listen yet would let others have the port as well."""
    with bound(0, count) as [first, *_]:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match="in use") as refused, bound(port, other_count):
            pass
        assert refused.value.errno == errno.EADDRINUSE
        with bound(port, other_count, host="127.0.0.2"):
            pass  # another address's port is another one
    with bound(port, other_count):
        pass


def test_a_service_that_stops_lets_go_of_its_port() -> None:
    """While it still answers what it has: its successor may start."""
    with bound(0, 2) as [first, other]:
        port = first.getsockname()[1]
        for listener in (first, other):
            listener.close()
        with bound(port, 2):
            pass


@pytest.mark.parametrize("count", [1, 2])
def test_connections_that_have_just_ended_do_not_hold_up_a_restart(count: int) -> None:
    with bound(0, count) as listeners:
        address = listeners[0].getsockname()
        for listener in listeners:
            listener.listen()
        with closing(socket.create_connection(address)) as client:
            [ready, *_], _, _ = select.select(listeners, [], [], 5)
            ready.accept()[0].close()  # the side that closes first keeps the port in TIME_WAIT
            assert client.recv(1) == b""
    with bound(address[1], count):
        pass
