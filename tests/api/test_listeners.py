"""What the service asks of its sockets."""

from __future__ import annotations

import socket
from contextlib import closing

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
