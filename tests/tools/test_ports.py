"""Ports that are free."""

from __future__ import annotations

import socket

import pytest

from kivactl.tools import ports


def test_nobody_listens_on_a_free_port_nor_will_a_connection_take_it() -> None:
    for _ in range(20):
        port = ports.free_port()
        assert port < 32_768, "from there on Linux gives ports to connections, unless told otherwise"
        with socket.socket() as one:
            one.bind((ports.LOOPBACK, port))


def test_a_pair_has_both_ports_free_and_below_those_of_connections() -> None:
    for _ in range(20):
        port = ports.free_pair()
        assert port + 1 < 32_768, "from there on Linux gives ports to connections, unless told otherwise"
        with socket.socket() as one, socket.socket() as other:
            one.bind((ports.LOOPBACK, port))
            other.bind((ports.LOOPBACK, port + 1))


def test_a_port_whose_neighbour_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = ports.free_pair()
    with socket.socket() as neighbour:
        neighbour.bind((ports.LOOPBACK, taken + 1))
        free = ports.free_pair()
        chances = iter((taken, free))
        monkeypatch.setattr("random.SystemRandom.choice", lambda *_: next(chances))
        assert ports.free_pair() == free
