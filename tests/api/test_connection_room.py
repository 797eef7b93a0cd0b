"""Which connection goes when there is one too many."""

from __future__ import annotations

from typing import Any, cast

import pytest

from app.connection_room import MOST_LEAVING, ConnectionRoom


class Peer:
    """A connection, and its own transport."""

    def __init__(self) -> None:
        self.transport = cast("Any", self)
        self.ended = ""

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "cut"

    def drop(self) -> None:
        self.ended = "dropped"


@pytest.fixture
def room() -> ConnectionRoom:
    return ConnectionRoom(8)


def enter(room: ConnectionRoom, count: int, *, idle: bool) -> list[Peer]:
    peers = [Peer() for _ in range(count)]
    for peer in peers:
        assert room.enter(peer)
        if idle:
            room.idle[peer] = None
    return peers


def begin(room: ConnectionRoom, count: int) -> list[Peer]:
    peers = [Peer() for _ in range(count)]
    for peer in peers:
        room.begin_handshake(peer, peer.drop)
    return peers


def ends(peers: list[Peer]) -> list[str]:
    return [peer.ended for peer in peers]


def test_the_longest_idle_one_goes_first(room: ConnectionRoom) -> None:
    peers = enter(room, 8, idle=True)
    del room.idle[peers[0]]
    room.idle[peers[0]] = None
    enter(room, 1, idle=False)
    assert ends(peers) == ["", "closed", *[""] * 6]


def test_nobody_goes_while_one_who_went_is_still_saying_farewell(room: ConnectionRoom) -> None:
    peers = enter(room, 8, idle=True)
    [handshake] = begin(room, 1)
    assert room.enter(handshake)
    assert ends(peers) == ["closed", *[""] * 7]


def test_busy_ones_stay(room: ConnectionRoom) -> None:
    peers = enter(room, 8, idle=False)
    assert not room.enter(Peer())
    room.leave(peers[0])
    assert room.enter(Peer())
    assert ends(peers) == [""] * 8


def test_unfinished_handshakes_count_and_the_oldest_goes(room: ConnectionRoom) -> None:
    peers = begin(room, 10)
    assert ends(peers) == ["dropped"] * 2 + [""] * 8
    room.end_handshake(peers[2])
    assert ends(begin(room, 1) + peers[3:]) == [""] * 8


def test_idle_ones_give_way_to_a_few_handshakes_only(room: ConnectionRoom) -> None:
    peers = enter(room, 8, idle=True)
    handshakes = begin(room, 20)
    assert ends(peers) == ["closed"] * 3 + [""] * 5
    assert ends(handshakes) == ["dropped"] * 17 + [""] * 3


def test_with_everybody_busy_a_few_handshakes_may_finish_to_be_told(room: ConnectionRoom) -> None:
    enter(room, 8, idle=False)
    handshakes = begin(room, 4)
    assert ends(handshakes) == ["dropped", "dropped", "", ""]
    for handshake in handshakes[2:]:
        assert not room.enter(handshake)
        assert room.may_leave_in_order(handshake)


def test_one_who_says_nothing_does_not_push_out_whoever_comes_for_the_last_place(room: ConnectionRoom) -> None:
    busy = enter(room, 7, idle=False)
    [client, *silent] = begin(room, 2)
    assert room.enter(client)
    assert ends([*busy, client, *silent]) == [""] * 9
    assert not room.enter(silent[0])


def test_so_many_leave_in_order_and_the_rest_are_cut(room: ConnectionRoom) -> None:
    peers = enter(room, MOST_LEAVING + 9, idle=True)
    assert ends(peers) == ["closed"] * MOST_LEAVING + ["cut"] + [""] * 8
    for peer in peers[: MOST_LEAVING + 1]:
        room.leave(peer)
    enter(room, 1, idle=True)
    assert peers[MOST_LEAVING + 1].ended == "closed"
