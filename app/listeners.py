"""The sockets that the service listens on, and how many connections the system has room for.

Owns binding them and the limit on file descriptors. Refuses to know who accepts on them.
"""

from __future__ import annotations

import errno
import os
import socket
import sys

import structlog

log = structlog.stdlib.get_logger("itemlens")

_OWN_DESCRIPTORS = 256
"""Files, pipes and sockets of a worker that are no connections; it has some sixty."""

SEND_BUFFER_BYTES = 128 * 1024
"""Of an answer, the kernel holds so much (Linux: twice) for one connection. Left to itself it takes megabytes for whoever does
not read, which no limit of ours counts; an answer to 64 items still fits, and a reader 100 ms away gets 2.5 MB a second."""


class Listener(socket.socket):
    """A socket of `bind_listeners`. To close one lets go of the address in this process: it stops, or is a worker that closes
    the others'."""

    claim: socket.socket | None = None

    def close(self) -> None:
        super().close()
        if self.claim is not None:
            self.claim.close()


def bind_listeners(host: str, port: int, count: int) -> list[Listener]:
    """`count` sockets on one address, one per worker: the kernel spreads connections over them evenly, where a
    shared one leaves some workers idle. Port 0 takes one free port for all. Raises OSError.

    They are bound but do not listen: a client is refused until a worker is ready to answer. A port that another service
    holds is refused, even if that service would share it, and one that a service of this kind has only bound so far.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listeners: list[Listener] = []
    try:
        if count > 1:
            # A socket that does not share finds out whether anybody else, sharing or not, has the port.
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        for _ in range(count):
            listener = Listener(family, kind, protocol)
            listeners.append(listener)
            if os.name == "posix":  # elsewhere the option lets anybody take the port over
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if count > 1:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # its connections inherit it
            listener.setblocking(False)
            listener.bind(address)
            address = listener.getsockname()
        claim = _claim(address)
        for listener in listeners:
            listener.claim = claim
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _claim(address: tuple[object, ...]) -> socket.socket | None:
    """Held until it is closed or the process ends. Raises OSError where another process has it.

    SO_REUSEADDR, without which connections that have just ended would hold up a restart, lets everybody bind who does not
    listen yet. So the address is taken a second time as the name of a Unix socket, which like the port is the network
    namespace's. Addresses that only overlap (0.0.0.0 and one of its own) have different names.
    """
    if sys.platform != "linux":  # only there a name needs no file
        return None
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(f"\0itemlens listens on {' '.join(map(str, address))}")
    except OSError as error:
        claim.close()
        if error.errno == errno.EADDRINUSE:
            raise
        return None  # a sandbox without such names: the port is still ours as soon as it listens
    return claim


def affordable_connections(wished: int) -> int:
    """As many as wished, for which this process's limit on open files is raised, or what the system's own limit leaves room
    for."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wished
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wished + _OWN_DESCRIPTORS
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wished
    granted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
    connections = max(8, granted - _OWN_DESCRIPTORS)
    if connections < wished:
        log.warning("few_open_files", max_connections=connections, advice="raise the limit on open files (`ulimit -n`)")
    return min(connections, wished)
