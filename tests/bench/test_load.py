"""The load generator and sink for throughput: what the ledger says is what happened."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gwrelay_bench.certificate import make_certificate
from gwrelay_bench.child import Child, running
from gwrelay_bench.ledger import (
    ACCEPTED,
    AGAIN,
    ANSWERED,
    ARRIVED,
    ENCRYPTED,
    SESSIONS,
    SPOILT,
    STRANGE,
    Ledger,
)
from gwrelay_bench.load import Load, Reception
from gwrelay_bench.loadtalk import Conversation
from gwrelay_bench.source import Source
from gwrelay_bench.submission import Submission, text_content
from support.peer import DROP, Peer

SIZE = 3000
CONTENT = text_content(SIZE)


@contextmanager
def sinking(ledger: Ledger, **settings: Any) -> Iterator[int]:
    with sink(ledger, **settings) as child:
        yield child.port


def sink(ledger: Ledger, **settings: Any) -> AbstractContextManager[Child]:
    words = (Reception(**settings), Load(ledger.messages, SIZE, 1))
    reception, load = (json.dumps(one._asdict()) for one in words)
    return running("gwrelay_bench.loadsink", reception, str(ledger.path), load)


def source(port: int, ledger: Ledger, sessions: int, **settings: Any) -> dict[str, Any]:
    """Runs to its end; what it says."""
    load = json.dumps(Load(ledger.messages, SIZE, sessions, **settings)._asdict())
    words = ["gwrelay_bench.loadsource", "127.0.0.1", str(port), str(ledger.path), load]
    done = subprocess.run(
        [sys.executable, "-m", *words], stdout=subprocess.PIPE, check=True, timeout=60
    )
    return dict(json.loads(done.stdout))


def counts(ledger: Ledger) -> dict[str, int]:
    names = {
        "answered": ANSWERED,
        "accepted": ACCEPTED,
        "arrived": ARRIVED,
        "again": AGAIN,
        "strange": STRANGE,
        "spoilt": SPOILT,
    }
    return {name: ledger.counters[place] for name, place in names.items()}


def all_well(messages: int) -> dict[str, int]:
    well = dict.fromkeys(("answered", "accepted", "arrived"), messages)
    return {**well, "again": 0, "strange": 0, "spoilt": 0}


@pytest.mark.parametrize(
    ("settings", "sessions"),
    [({}, 7), ({"per_connection": 1}, 200), ({"per_connection": 4}, 50), ({"domains": 9}, 7)],
    ids=["kept", "one for each message", "one for four", "many domains"],
)
def test_each_message_arrives_once_and_has_its_times(
    tmp_path: Path, settings: dict[str, int], sessions: int
) -> None:
    ledger, before = Ledger(tmp_path / "ledger", 200), time.time()
    with sinking(ledger) as port:
        said = source(port, ledger, 7, **settings)
    assert (said["lost"], said["said"]) == (0, [])
    assert counts(ledger) == all_well(200)
    assert ledger.missing() == []
    for number in range(200):
        sent_at, arrived_at = ledger.sent_at[number], ledger.arrived_at[number]
        assert before <= ledger.began_at <= sent_at <= ledger.answered_at[number] <= time.time()
        assert ledger.began_at <= arrived_at <= ledger.answered_at[number]
    assert sessions <= ledger.counters[SESSIONS] <= sessions + 7


def test_messages_are_for_all_domains_in_turn(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", 7)
    with Peer() as peer:
        source(peer.port, ledger, 2, domains=3)
        arrived = sorted(one.recipients[0] for one in peer.messages)
    assert arrived == [f"r{number}@d{number % 3}.example" for number in range(7)]


def test_under_tls_no_session_is_in_the_clear(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", 100)
    with sinking(ledger, certificate=make_certificate(tmp_path)) as port:
        source(port, ledger, 5, encrypts=True, per_connection=10)
    assert counts(ledger) == all_well(100)
    # Who comes when the last message is taken has not said STARTTLS by the end.
    assert 10 <= ledger.counters[ENCRYPTED] >= ledger.counters[SESSIONS] - 5


def test_a_source_that_is_to_encrypt_hands_nothing_over_in_the_clear(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", 10)
    with Peer() as peer:
        peer.always("STARTTLS", "502 5.5.1 no such command")
        said = source(peer.port, ledger, 2, encrypts=True)
    assert (counts(ledger)["accepted"], peer.messages) == (0, [])
    assert "502" in said["said"][0]


def test_a_message_that_is_not_taken_is_told_of_and_the_others_go_on(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", 30)
    with Peer() as peer:
        peer.recipient("r3@sink.example", "450 4.2.1 not now")
        peer.recipient("r9@sink.example", DROP)
        peer.once(".", "452 4.3.1 full")
        said = source(peer.port, ledger, 4)
        arrived = {recipient for one in peer.messages for recipient in one.recipients}
    assert counts(ledger)["answered"] == 30
    assert counts(ledger)["accepted"] == len(arrived) == 27
    assert said["lost"] == 3
    assert any("450 4.2.1 not now" in text for text in said["said"])
    assert any("452 4.3.1 full" in text for text in said["said"])


def test_without_a_relay_the_source_ends_and_says_why(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", 10)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        said = source(nobody.getsockname()[1], ledger, 2)
    assert counts(ledger)["accepted"] == 0
    assert "refused" in said["said"][0]


def test_a_server_without_pipelining_hears_one_command_at_a_time(tmp_path: Path) -> None:
    ledger, heard = Ledger(tmp_path / "ledger", 1), list[bytes]()
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            for reply in (b"220 hello", b"250 me", b"250 ok", b"250 ok", b"354 go", b"250 ok"):
                connection.sendall(reply + b"\r\n")
                heard.append(connection.recv(10_000))

    server = threading.Thread(target=answer)
    server.start()
    source(listener.getsockname()[1], ledger, 1)
    server.join(20)
    listener.close()
    assert counts(ledger)["accepted"] == 1
    assert [words[:4] for words in heard[:4]] == [b"EHLO", b"MAIL", b"RCPT", b"DATA"]
    assert all(words.count(b"\n") == 1 for words in heard[:4])


def test_at_a_rate_each_message_has_its_time(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", 20)
    with sinking(ledger) as port:
        source(port, ledger, 5, rate_per_s=100.0)
    assert counts(ledger) == all_well(20)
    for number in range(20):
        assert ledger.sent_at[number] >= ledger.began_at + number / 100


def test_each_reply_of_a_slow_sink_is_late_and_commands_share_one_delay(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", 3)
    with sinking(ledger, delay_s=0.1) as port:
        source(port, ledger, 1)
    # The greeting, EHLO, and two for the message.
    assert ledger.answered_at[0] >= ledger.began_at + 0.4
    assert ledger.sent_at[2] - ledger.answered_at[1] < 0.19
    for number in range(3):
        assert ledger.answered_at[number] - ledger.arrived_at[number] >= 0.1


def _hand_in(port: int, *submissions: Submission) -> None:
    assert all(receipt.accepted for receipt in Source("127.0.0.1", port).run(submissions))


def test_what_comes_again_or_is_not_ours_or_spoilt_is_counted(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", 4)
    one, two = ("r1@sink.example",), ("r2@sink.example", "r3@sink.example")
    with sinking(ledger) as port:
        _hand_in(
            port,
            Submission("s@a.example", one, b"Received: by us\r\n" + CONTENT),
            Submission("s@a.example", one, CONTENT),
            Submission("s@a.example", two, CONTENT[:-1][:-1] + b"!\r\n"),
            Submission("", ("r4@sink.example",), CONTENT),
            Submission("", ("somebody@sink.example",), CONTENT),
            Submission("", ("somebody@sink.example",), b""),
        )
    assert counts(ledger) == {
        "answered": 0,
        "accepted": 0,
        "arrived": 3,
        "again": 1,
        "strange": 3,
        "spoilt": 2,
    }
    assert ledger.missing() == [0]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000, 100_000])
@pytest.mark.parametrize("content", [CONTENT, b"x\r\n.\r", b""], ids=["text", "tricky", "empty"])
def test_the_sink_takes_commands_and_content_however_they_are_cut(
    content: bytes, size: int
) -> None:
    """And the next envelope behind the final dot, as a client may that pipelines."""
    found, envelope = list[tuple[bytes, bytes]](), b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d>\r\n"
    content += b"\r\n" if content[-1:] == b"\r" else b""

    def arrive(envelope: bytes, words: bytes, size: int) -> None:
        found.append((envelope, words[:size]))

    sink = Conversation(arrive, demands_tls=False)
    said = b"EHLO c.example\r\nNOOP\r\nMAIL FROM:<s@a.example>\r\nRSET\r\n"
    said += (envelope + b"DATA\r\n" + content + b".\r\n") * 3 + b"QUIT\r\n"
    heard = [sink.receive(said[start : start + size]) for start in range(0, len(said), size)]
    replies = b"".join([sink.greeting, *heard]).splitlines()
    codes = [line[:3] for line in replies if line[3:4] == b" "]
    mail = [b"250", b"250", b"354", b"250"]
    assert codes == [b"220", b"250", b"250", b"250", b"250", *mail * 3, b"221"]
    assert found == [(envelope, content)] * 3
    assert sink.closes


def test_what_comes_before_a_handshake_is_not_heard_after_it() -> None:
    sink = Conversation(lambda *_: None, demands_tls=True)
    assert b"250-STARTTLS" in sink.receive(b"EHLO c.example\r\n")
    assert sink.receive(b"STARTTLS\r\nNOOP\r\n") == b"220 2.0.0 go on\r\n"
    assert sink.encrypts
    assert b"STARTTLS" not in sink.receive(b"EHLO c.example\r\n")


def test_a_sink_that_demands_tls_takes_nothing_before_it() -> None:
    found = list[bytes]()
    sink = Conversation(lambda envelope, *_: found.append(envelope), demands_tls=True)
    envelope = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
    assert sink.receive(envelope) == b"530 5.7.0 STARTTLS first\r\n" * 3
    sink.receive(b"STARTTLS\r\n")
    assert sink.receive(b"DATA\r\n") == b"503 5.5.1 not now\r\n"
    assert sink.receive(envelope)[-14:] == b"354 go ahead\r\n"
    sink.receive(b".\r\n")
    assert len(found) == 1


def test_what_was_reset_is_no_part_of_the_envelope() -> None:
    found = list[bytes]()
    sink = Conversation(lambda envelope, *_: found.append(envelope), demands_tls=False)
    envelope = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
    sink.receive(envelope + b"RSET\r\n" + envelope + b"DATA\r\n")
    sink.receive(b".\r\n")
    assert found == [envelope]


def test_the_sink_takes_no_core_from_what_it_measures(tmp_path: Path) -> None:
    with sink(Ledger(tmp_path / "ledger", 1)) as child:
        assert os.sched_getscheduler(child.pid) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) != os.SCHED_BATCH
