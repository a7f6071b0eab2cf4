"""Source and sink over loopback: in this process, and as the programs they are."""

import json
import re
import shutil
import signal
import smtplib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer

from gwrelay_bench.behaviour import Behaviour
from gwrelay_bench.sink import Sink
from gwrelay_bench.source import Source, load
from gwrelay_bench.submission import Receipt, Submission

SMTP_SOURCE = shutil.which("smtp-source", path="/usr/sbin:/usr/bin")
CONTENT = b"Subject: x\r\n\r\n.\r\n..\r\n\xff\r\n"


@contextmanager
def sinking(rules: Behaviour | None = None) -> Iterator[tuple[Sink, int]]:
    sink = Sink(rules, keep_content=True)
    try:
        yield sink, sink.listen()
    finally:
        sink.close()


def test_every_message_arrives_once_and_exactly() -> None:
    with sinking() as (sink, port):
        submissions = [
            Submission(f"s{n}@a.example", ("x@b.example", "y@b.example"), CONTENT * n)
            for n in range(1, 101)
        ]
        receipts = Source("127.0.0.1", port, sessions=7).run(submissions)
    assert all(receipt.accepted for receipt in receipts)
    assert sink.sessions == 7
    assert sorted((*a[2:4], a.content) for a in sink.arrivals) == sorted(submissions)


def test_a_receipt_tells_when_the_dot_left_and_when_it_was_answered() -> None:
    with sinking(Behaviour(delays={"DOT": 0.05})) as (_, port):
        receipt = Source("127.0.0.1", port, sessions=1).run(load(1, 100, 1, "b.example"))[0]
    assert 0.05 <= receipt.answered_at - receipt.sent_at < 5


def test_one_connection_for_each_message_when_none_is_kept() -> None:
    with sinking() as (sink, port):
        Source("127.0.0.1", port, sessions=3, kept=False).run(load(10, 100, 1, "b.example"))
    assert (len(sink.arrivals), sink.sessions) == (10, 10)


def test_refused_recipients_are_on_the_receipt() -> None:
    with sinking(Behaviour(refuse={"gone@b.example": "550 5.1.1 gone"})) as (sink, port):
        first, second = Source("127.0.0.1", port, sessions=1).run(
            [
                Submission("a@a.example", ("gone@b.example",), CONTENT),
                Submission("a@a.example", ("gone@b.example", "x@b.example"), CONTENT),
            ]
        )
    assert (first.code, first.refused) == (554, (("gone@b.example", "550 5.1.1 gone"),))
    assert (second.code, second.refused) == (250, (("gone@b.example", "550 5.1.1 gone"),))
    assert [arrival.recipients for arrival in sink.arrivals] == [("x@b.example",)]


def test_a_server_that_hangs_up_costs_one_message_each_time() -> None:
    def hang_up(connection: socket.socket, _: object) -> None:
        connection.sendall(b"220 hello\r\n")
        connection.recv(1000)

    server = StreamServer(("127.0.0.1", 0), hang_up)
    server.start()
    receipts = Source("127.0.0.1", server.server_port, sessions=1).run(load(2, 9, 1, "b.example"))
    server.stop(timeout=0)
    assert [receipt.code for receipt in receipts] == [0, 0]
    assert "session lost" in receipts[0].text


def test_a_server_without_pipelining_is_asked_one_command_at_a_time() -> None:
    seen: list[bytes] = []

    def answer_slowly(connection: socket.socket, _: object) -> None:
        connection.sendall(b"220 hello\r\n")
        for reply in (b"250 me\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"250 ok\r\n"):
            seen.append(connection.recv(1000))
            connection.sendall(reply)

    server = StreamServer(("127.0.0.1", 0), answer_slowly)
    server.start()
    receipts = Source("127.0.0.1", server.server_port, sessions=1).run(load(1, 9, 1, "b.example"))
    server.stop(timeout=0)
    assert receipts[0].accepted
    assert [line[:4] for line in seen[:4]] == [b"EHLO", b"MAIL", b"RCPT", b"DATA"]


def test_the_sink_takes_mail_from_smtplib() -> None:
    with sinking() as (sink, port):

        def send() -> None:
            with smtplib.SMTP("127.0.0.1", port, "client.example", timeout=10) as client:
                client.sendmail("a@a.example", ["x@b.example"], CONTENT, ["BODY=8BITMIME"])

        gevent.get_hub().threadpool.apply(send)
    assert [arrival.content for arrival in sink.arrivals] == [CONTENT]


@contextmanager
def sink_program(*arguments: str) -> Iterator[tuple[int, Callable[[], dict[str, int]]]]:
    """The sink as a process: its port, and a call that ends it and gives its summary."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gwrelay_bench.sink", "--listen", "127.0.0.1:0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(20, process.kill)
    watchdog.start()

    def end() -> dict[str, int]:
        process.send_signal(signal.SIGTERM)
        return dict(json.loads(process.communicate(timeout=10)[0]))

    try:
        assert process.stderr is not None
        ready = re.search(r":(\d+)$", process.stderr.readline())
        assert ready is not None
        yield int(ready[1]), end
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


@pytest.mark.skipif(SMTP_SOURCE is None, reason="needs smtp-source: apt-get install postfix")
def test_the_sink_takes_mail_from_smtp_source() -> None:
    with sink_program() as (port, end):
        assert SMTP_SOURCE is not None
        subprocess.run(
            [SMTP_SOURCE, "-d", "-s", "4", "-m", "200", "-l", "3000", f"127.0.0.1:{port}"],
            timeout=20,
            check=True,
        )
        assert end()["messages"] == 200


def test_every_receipt_is_noted_when_it_comes() -> None:
    noted: list[Receipt] = []
    with sinking() as (_, port):
        receipts = Source("127.0.0.1", port).run(load(30, 100, 1, "b.example"), noted.append)
    assert noted == receipts
