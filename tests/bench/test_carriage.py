"""Sending through a relay and waiting for it: what is taken, refused, and never answered."""

import io
import time

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer
from rich.console import Console

from gwrelay_bench.behaviour import Behaviour
from gwrelay_bench.carriage import Carriage
from gwrelay_bench.sink import Sink
from gwrelay_bench.source import load

QUIET = Console(file=io.StringIO())


def alive() -> None:
    """The check of a relay that runs."""


def test_all_that_is_accepted_and_arrives_is_noted_as_sent() -> None:
    sink = Sink()
    with Carriage(("127.0.0.1", sink.listen()), alive, sink, QUIET) as carriage:
        started = time.time()
        seconds = carriage.carry("load", list(load(50, 100, 2, "b.example")), 4)
    sink.close()
    assert (len(carriage.sent), carriage.failures, len(sink.arrivals)) == (50, [], 50)
    assert 0 < seconds <= time.time() - started


def test_a_refused_message_is_a_failure_in_words() -> None:
    sink = Sink(Behaviour(refuse={"b.example": "550 5.7.1 relaying denied"}))
    relay = ("127.0.0.1", sink.listen())
    with Carriage(relay, alive, sink, QUIET, patience_s=0.1) as carriage:
        carriage.carry("load", list(load(1, 100, 1, "b.example")), 1)
    sink.close()
    assert carriage.sent == []
    assert any("relaying denied" in failure for failure in carriage.failures)


def test_a_relay_that_never_answers_is_a_failure_and_no_wait_without_end() -> None:
    def say_nothing(connection: socket.socket, _: object) -> None:
        connection.recv(1)

    server = StreamServer(("127.0.0.1", 0), say_nothing)
    server.start()
    relay = ("127.0.0.1", server.server_port)
    with Carriage(relay, alive, Sink(), QUIET, patience_s=0.2) as carriage:
        carriage.carry("load", list(load(2, 100, 1, "b.example")), 1)
    server.stop(timeout=0)
    assert carriage.sent == []
    assert carriage.failures == [f"<s{n}@source.example>: the relay never answered" for n in (0, 1)]


def test_a_dead_relay_ends_the_wait_at_once() -> None:
    class DeadError(Exception):
        pass

    def dead() -> None:
        raise DeadError

    sink = Sink()
    relay = ("127.0.0.1", sink.listen())
    with pytest.raises(DeadError), Carriage(relay, dead, sink, QUIET) as carriage:
        carriage.carry("load", list(load(1, 100, 1, "b.example")), 1)
    sink.close()
    gevent.sleep(0)
