"""The front door, with clients over real sockets: timers, refusals, and what 250 stands for.

What SMTP means is tests/smtp/test_session*.py's business; here is what the listener adds.
"""

import textwrap

import pytest

from support.patched import run_patched

SETUP = """
import socket, sys, time
from collections import Counter
from ipaddress import ip_network

import gevent

from gwrelay.processes.board import Board
from gwrelay.errors import StoreFailed, StoreFull
from gwrelay.listener import Doors, FreeSpaceGate, Listener
from gwrelay.message.reply import Reply
from gwrelay.notation import Endpoint, FreeSpace
from gwrelay.processes.ports import open_ports
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.smtp.session import PIECE_BYTES, Policy

accepted = []


class Store(MemoryStore):
    # What accept() raises, what add_piece() raises, and which ids were discarded.
    refusal = piece_refusal = None

    def __init__(self):
        super().__init__()
        self.discarded = []

    def accept(self, new):
        if self.refusal is not None:
            raise self.refusal
        super().accept(new)

    def add_piece(self, message_id, number, piece):
        if self.piece_refusal is not None:
            raise self.piece_refusal
        super().add_piece(message_id, number, piece)

    def discard(self, message_id):
        self.discarded.append(message_id)
        super().discard(message_id)


store = Store()
queue = Queue(store)
column = Board(-1, 1).column(0)
column.open()


def listen(**changes):
    policy = Policy("gw.test", changes.pop("max_message_size", 10_000_000))
    settings = dict(
        policy=policy,
        relay_from=[ip_network("127.0.0.0/8")],
        client_timeout_s=20.0,
        max_connections=10,
        column=column,
        intake=lambda: None,
        accepted=lambda message, client, tls: accepted.append((message, client)),
        handshakes=Counter(),
    )
    [port] = open_ports([Endpoint("127.0.0.1", 0)])
    listener = Listener(port, queue, Doors(**(settings | changes)))
    listener.start()
    return listener


class Client:
    def __init__(self, listener, room=0):
        self.sock = socket.socket()
        self.sock.settimeout(10)
        if room:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.sock.connect(("127.0.0.1", listener.endpoint.port))
        self.lines = self.sock.makefile("rb")

    def reply(self):
        while True:
            line = self.lines.readline()
            if line[3:4] != b"-":
                return line.decode().rstrip("\\r\\n")

    def say(self, *lines):
        for line in lines:
            self.sock.sendall(line.encode() + b"\\r\\n")
            last = self.reply()
        return last

    def submit(self, content):
        self.say("MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>", "DATA")
        self.sock.sendall(content + b"\\r\\n.\\r\\n")
        return self.reply()


def greeted(listener, client=None):
    client = client or Client(listener)
    assert client.reply() == "220 gw.test ESMTP"
    client.say("EHLO client.test")
    return client
"""


def run(body: str) -> None:
    run_patched(SETUP + textwrap.dedent(body))


def test_a_message_is_accepted_with_a_received_field_on_top() -> None:
    run("""
        client = greeted(listen())
        reply = client.submit(b"Subject: x\\r\\n\\r\\nhello")
        [(message, address)] = accepted
        assert reply.startswith("250 2.0.0 Ok: queued as "), reply
        assert address == "127.0.0.1"
        content = b"".join(queue.get_content(message.id))
        top = b"Received: from client.test ([127.0.0.1])\\r\\n\\tby gw.test"
        assert content.startswith(top), content
        assert content.endswith(b"+0000\\r\\nSubject: x\\r\\n\\r\\nhello\\r\\n"), content
        assert len(content) == message.size_bytes
    """)


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ("StoreFull('no room')", "452 4.3.1"),
        ("StoreFailed('EIO')", "451 4.3.0"),
    ],
)
def test_what_cannot_be_made_durable_is_refused_and_not_delivered(refusal: str, said: str) -> None:
    run(f"""
        client = greeted(listen())
        store.refusal = {refusal}
        reply = client.submit(b"Subject: x\\r\\n\\r\\nhello")
        assert reply.startswith({said!r}), reply
        assert accepted == [] and len(queue) == 0
        store.refusal = None
        assert client.submit(b"Subject: x\\r\\n\\r\\nagain").startswith("250 ")
    """)


def test_a_bug_is_a_451_and_costs_one_session() -> None:
    run("""
        listener = listen()
        client = greeted(listener)
        store.refusal = RuntimeError("a bug")
        reply = client.submit(b"Subject: x\\r\\n\\r\\nhello")
        assert reply.startswith("451 4.3.0"), reply
        assert "bug" not in reply
        store.refusal = None
        assert greeted(listener).submit(b"Subject: x\\r\\n\\r\\nagain").startswith("250 ")
    """)


def test_a_large_message_is_laid_aside_in_pieces_and_comes_back_whole() -> None:
    run("""
        line = b"0123456789" * 7 + b"\\r\\n"
        content = b"Subject: large\\r\\n\\r\\n" + line * (5 * PIECE_BYTES // len(line))
        reply = greeted(listen()).submit(content)
        assert reply.startswith("250 "), reply
        [(message, _)] = accepted
        pieces = list(queue.get_content(message.id))
        assert len(pieces) > 3
        whole = b"".join(pieces)
        assert whole.count(b"Received:") == 1
        assert whole.endswith(content + b"\\r\\n")
    """)


@pytest.mark.parametrize("refusal", ["StoreFull('no room')", "StoreFailed('EIO')"])
def test_a_piece_that_cannot_be_written_refuses_the_message_at_its_end(refusal: str) -> None:
    run(f"""
        client = greeted(listen())
        store.piece_refusal = {refusal}
        reply = client.submit(b"x" * 70 + b"\\r\\n" * PIECE_BYTES)
        assert reply[:3] in ("451", "452"), reply
        store.piece_refusal = None
        assert accepted == [] and not store._pieces
        assert client.submit(b"Subject: small").startswith("250 ")
    """)


def test_pieces_are_discarded_when_the_client_vanishes_half_way() -> None:
    run("""
        listener = listen()
        client = greeted(listener)
        client.say("MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>", "DATA")
        client.sock.sendall((b"x" * 70 + b"\\r\\n") * (3 * PIECE_BYTES // 72))
        with gevent.Timeout(10):
            while not store._pieces:
                gevent.sleep(0.01)
            client.lines.close()
            client.sock.close()
            while not listener.is_empty:
                gevent.sleep(0.01)
        assert len(store.discarded) == 1 and not store._pieces
        assert accepted == []
    """)


def test_a_message_above_the_limit_leaves_no_pieces_behind() -> None:
    run("""
        client = greeted(listen(max_message_size=4 * PIECE_BYTES))
        reply = client.submit((b"x" * 70 + b"\\r\\n") * (5 * PIECE_BYTES // 72))
        assert reply.startswith("552 5.3.4"), reply
        assert not store._pieces and accepted == []
    """)


def test_a_silent_client_is_told_and_left() -> None:
    run("""
        client = greeted(listen(client_timeout_s=0.2))
        assert client.reply().startswith("421 4.4.2")
        assert client.lines.read() == b""
    """)


def test_a_command_that_trickles_in_does_not_renew_its_time() -> None:
    run("""
        client = greeted(listen(client_timeout_s=0.4))

        def trickle():
            try:
                for octet in b"NOOP" * 100:
                    client.sock.sendall(bytes([octet]))
                    gevent.sleep(0.05)
            except OSError:
                pass  # told to go

        gevent.spawn(trickle)
        started = time.monotonic()
        assert client.reply().startswith("421 4.4.2")
        assert time.monotonic() - started < 3
    """)


DEAF = """
policy = Policy("gw.test", 10_000_000, max_recipients=1_000_000)
count = 250_000


def deaf(listener):
    # Says more than there is room for the answers to, and listens to none.
    client = greeted(listener, Client(listener, room=65_536))
    commands = b"MAIL FROM:<a@b.test>\\r\\n" + b"RCPT TO:<c@d.test>\\r\\n" * count
    client.saying = gevent.spawn(client.sock.sendall, commands)
    return client


"""


def test_a_client_that_listens_late_hears_every_reply() -> None:
    run(
        DEAF
        + """
client = deaf(listen(policy=policy))
client.saying.join(timeout=10)
for _ in range(count + 1):
    assert client.reply().startswith("250 2.1.")
assert client.say("RSET").startswith("250")
"""
    )


def test_a_client_that_never_listens_is_left() -> None:
    run(
        DEAF
        + """
listener = listen(policy=policy, client_timeout_s=0.3)
client = deaf(listener)
with gevent.Timeout(10):
    while not listener.is_empty:
        gevent.sleep(0.01)
"""
    )


def test_content_that_trickles_in_does_not_hold_a_session_for_ever() -> None:
    run("""
        client = greeted(listen(client_timeout_s=0.4))
        client.say("MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>", "DATA")

        def trickle():
            try:
                while True:
                    client.sock.sendall(b"x")
                    gevent.sleep(0.05)
            except OSError:
                pass  # told to go

        gevent.spawn(trickle)
        started = time.monotonic()
        assert client.reply().startswith("421 4.4.2")
        assert time.monotonic() - started < 3
        assert accepted == []
    """)


def test_one_client_too_many_is_told_to_come_back() -> None:
    run("""
        listener = listen(max_connections=2)
        clients = [greeted(listener) for _ in range(2)]
        assert Client(listener).reply().startswith("421 4.7.0")
        clients[0].say("QUIT")
        with gevent.Timeout(10):
            while len(listener._clients) > 1:
                gevent.sleep(0.01)
        greeted(listener)
    """)


def test_a_client_from_elsewhere_may_not_relay() -> None:
    run("""
        client = greeted(listen(relay_from=[ip_network("192.0.2.0/24")]))
        client.say("MAIL FROM:<a@b.test>")
        assert client.say("RCPT TO:<c@d.test>").startswith("550 5.7.1")
    """)


def test_mail_is_refused_while_the_intake_says_so() -> None:
    run("""
        answers = [Reply(452, "4.3.1", "full"), None]
        client = greeted(listen(intake=lambda: answers.pop(0)))
        assert client.say("MAIL FROM:<a@b.test>") == "452 4.3.1 full"
        assert client.say("MAIL FROM:<a@b.test>").startswith("250 ")
    """)


def test_too_little_free_space_refuses_mail_and_enough_does_not() -> None:
    run("""
        assert FreeSpaceGate("/", FreeSpace(0.0, 1 << 60))().code == 452
        assert FreeSpaceGate("/", FreeSpace(0.0, 1))() is None
        assert FreeSpaceGate("/", FreeSpace(1.0, 0))().status == "4.3.1"
    """)


def test_when_it_stops_the_idle_hear_421_and_an_open_transaction_is_finished() -> None:
    run("""
        listener = listen()
        idle, busy = greeted(listener), greeted(listener)
        busy.say("MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>", "DATA")
        listener.stop_accepting()
        assert idle.reply().startswith("421 4.3.2")
        busy.sock.sendall(b"Subject: last\\r\\n.\\r\\n")
        assert busy.reply().startswith("250 ")
        assert busy.reply().startswith("421 4.3.2")
        assert len(accepted) == 1
        with gevent.Timeout(10):
            while not listener.is_empty:
                gevent.sleep(0.01)
        try:
            socket.create_connection(("127.0.0.1", int(busy.sock.getpeername()[1])), 1)
        except OSError:
            pass
        else:
            raise AssertionError("it still accepts")
    """)


def test_many_messages_pipelined_in_one_segment_are_all_answered() -> None:
    run("""
        client = greeted(listen())
        envelope = b"MAIL FROM:<a@b.test>\\r\\nRCPT TO:<c@d.test>\\r\\nDATA\\r\\n"
        for _ in range(3):
            client.sock.sendall(envelope)
            assert [client.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
            client.sock.sendall(b"Subject: x\\r\\n.\\r\\nNOOP\\r\\nNOOP\\r\\n")
            assert [client.reply()[:3] for _ in range(3)] == ["250"] * 3
        assert len(accepted) == 3
    """)
