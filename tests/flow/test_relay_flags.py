"""What the flags about sessions and their time do, as the next hop sees it.

The rules behind them are tables in tests/relay and tests/smtp; here it is shown that the command
line reaches them.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.clients import submit
from support.gateway import Gateway, StartGateway, expected_once
from support.peer import DROP, EXTENSIONS, POLITE, STALL, Pause, Peer, Slow

SENDER = "me@here.example"
YOU = "you@there.example"
#: Far sooner than any default of the flags under test, and late enough for a busy machine.
SOON_S = 6.0


def users(count: int) -> list[str]:
    return [f"user{n}@there.example" for n in range(count)]


def send(gateway: Gateway, recipient: str, kind: str = "delivered") -> None:
    """One message, from the null reverse-path, and what becomes of it."""
    submit(gateway.port, "", [recipient])
    gateway.wait_for(kind, recipient=recipient)


# -- transactions -------------------------------------------------------------------------


def test_no_transaction_has_more_recipients_than_allowed(
    start_gateway: StartGateway, peer: Peer
) -> None:
    gateway = start_gateway("--smarthost", peer.spec, "--recipients-per-message", "2")
    submit(gateway.port, SENDER, users(5))
    peer.wait_for(lambda p: p.arrived().total() >= 5)
    assert [len(message.recipients) for message in peer.messages] == [2, 2, 1]
    assert peer.connections == 1
    expected_once(users(5), peer.arrived())


@pytest.mark.parametrize(
    ("pipelining", "sent"),
    [("yes", ["EHLO", "MAIL", "RCPT", "DATA"]), ("no", ["EHLO", "MAIL"])],
)
def test_commands_wait_for_replies_unless_pipelining_is_on(
    start_gateway: StartGateway, peer: Peer, pipelining: str, sent: list[str]
) -> None:
    """Where MAIL is refused, only what was sent before that was known comes behind it."""
    peer.once("MAIL", "550 5.7.1 not from you")
    flags = ["--pipelining", pipelining, "--idle-timeout", "0"]
    gateway = start_gateway("--smarthost", peer.spec, *flags)
    send(gateway, YOU, "bounced")
    peer.wait_for(lambda p: not p.open)
    assert peer.verbs() == [*sent, "QUIT"]


#: How often RSET is said when the first of three messages is refused, and how many sessions it
#: takes to carry them.
RSET_MODES = {"auto": (1, 1), "always": (2, 1), "never": (0, 2)}


@pytest.mark.parametrize(("mode", "expected"), RSET_MODES.items(), ids=RSET_MODES)
def test_rset_is_said_as_often_as_its_mode_has_it(
    start_gateway: StartGateway, peer: Peer, mode: str, expected: tuple[int, int]
) -> None:
    refused, *others = users(3)
    peer.recipient(refused, "550 5.1.1 nobody")
    gateway = start_gateway("--smarthost", peer.spec, "--rset-mode", mode)
    send(gateway, refused, "bounced")
    for recipient in others:
        send(gateway, recipient)
    assert (peer.verbs().count("RSET"), peer.connections) == expected


# -- sessions -----------------------------------------------------------------------------


def test_nothing_new_begins_in_a_session_past_its_lifetime(
    start_gateway: StartGateway, peer: Peer
) -> None:
    peer.once(".", (Pause(0.6), POLITE))
    flags = ["--connection-lifetime", "500ms", "--site-concurrency", "1"]
    gateway = start_gateway("--smarthost", peer.spec, *flags)
    first, second = users(2)
    submit(gateway.port, SENDER, [first])
    peer.wait_for(lambda p: "." in p.verbs())
    submit(gateway.port, SENDER, [second])
    peer.wait_for_messages(2)
    assert [message.session for message in peer.messages] == [1, 2]
    peer.wait_for(lambda p: p.verbs(1)[-1] == "QUIT")


@pytest.mark.parametrize("idle_s", [0, 0.4])
def test_a_session_without_mail_is_closed_in_time(
    start_gateway: StartGateway, peer: Peer, idle_s: float
) -> None:
    flag = f"{idle_s * 1000:.0f}ms"
    gateway = start_gateway("--smarthost", peer.spec, "--idle-timeout", flag)
    submit(gateway.port, SENDER, [YOU])
    [message] = peer.wait_for_messages(1)
    peer.wait_for(lambda p: not p.open, SOON_S)
    assert time.time() - message.at >= idle_s
    assert peer.verbs()[-1] == "QUIT"


def test_sessions_come_from_the_source_address(start_gateway: StartGateway, peer: Peer) -> None:
    gateway = start_gateway("--smarthost", peer.spec, "--source", "127.0.0.2")
    send(gateway, YOU)
    assert peer.clients == ["127.0.0.2"]


def test_a_source_address_of_ipv6_reaches_only_hosts_of_ipv6(
    start_gateway: StartGateway, peer: Peer
) -> None:
    with Peer("::1") as other:
        smarthosts = ("--smarthost", peer.spec, "--smarthost", other.spec)
        gateway = start_gateway(*smarthosts, "--source", "::1")
        send(gateway, YOU)
        assert other.clients == ["::1"]
    assert peer.connections == 0


# -- replies ------------------------------------------------------------------------------

#: A reply of about 100 kB in 50 lines.
WORDY = "\n".join(["250-" + "x" * 2000] * 49 + ["250 done"])


@pytest.mark.parametrize(
    ("reply_max", "lines", "kind"),
    [
        ("512", "250-one\n" * 80 + "250 done", "deferred"),
        ("1K", "250-one\n" * 80 + "250 done", "delivered"),
        ("64K", WORDY, "deferred"),
        ("800K", WORDY, "delivered"),
    ],
    ids=lambda value: str(value)[:9],
)
def test_a_reply_is_read_up_to_its_greatest_size(
    start_gateway: StartGateway, peer: Peer, reply_max: str, lines: str, kind: str
) -> None:
    peer.always("MAIL", lines)
    gateway = start_gateway("--smarthost", peer.spec, "--reply-max", reply_max)
    submit(gateway.port, SENDER, [YOU])
    gateway.wait_until(lambda: [e for e in gateway.events() if "stage" in e], "an attempt")
    event = gateway.events()[-1]
    assert event["event"] == kind
    assert ("reply of more than" in event["reply"]) is (kind == "deferred")


def test_a_reply_without_end_is_cut_off(start_gateway: StartGateway, peer: Peer) -> None:
    peer.always("RCPT", (b"250-" + b"x" * 76 + b"\r\n") * 100_000)
    gateway = start_gateway("--smarthost", peer.spec, "--reply-max", "4K")
    submit(gateway.port, SENDER, [YOU])
    [deferred] = gateway.wait_for("deferred")
    assert deferred["stage"] == "rcpt"
    assert "reply of more than 4096 bytes" in deferred["reply"]
    peer.wait_for(lambda p: not p.open)


# -- time ---------------------------------------------------------------------------------

#: Flag, where the next hop falls silent, what it still says there, what else it offers, and the
#: stage it ends at.
SILENT = {
    "banner": ("--banner-timeout", "CONNECT", (), "", "banner"),
    "banner cut short": ("--banner-timeout", "CONNECT", (b"220 pe",), "", "banner"),
    "EHLO": ("--ehlo-timeout", "EHLO", (), "", "ehlo"),
    "EHLO cut short": ("--ehlo-timeout", "EHLO", (b"250-peer.example\r\n",), "", "ehlo"),
    "STARTTLS": ("--starttls-timeout", "STARTTLS", (), "STARTTLS", "starttls"),
    "handshake": ("--starttls-timeout", "STARTTLS", ("220 go",), "STARTTLS", "starttls"),
    "AUTH": ("--ehlo-timeout", "AUTH", (), "AUTH PLAIN", "auth"),
    "MAIL": ("--mail-timeout", "MAIL", (), "", "mail"),
    "RCPT": ("--rcpt-timeout", "RCPT", (), "", "rcpt"),
    "DATA": ("--data-timeout", "DATA", (), "", "data"),
    "dot": ("--dot-timeout", ".", (), "", "dot"),
}


@pytest.mark.parametrize(("flag", "at", "said", "offered", "stage"), SILENT.values(), ids=SILENT)
def test_a_silent_next_hop_is_left_at_the_time_of_its_stage(
    start_gateway: StartGateway,
    tmp_path: Path,
    flag: str,
    at: str,
    said: tuple[object, ...],
    offered: str,
    stage: str,
) -> None:
    auth = tmp_path / "auth"
    auth.write_text("127.0.0.1 user secret\n")
    auth.chmod(0o600)
    login = ("--smarthost-auth", str(auth), "--auth-without-tls", "yes")
    with Peer(extensions=(*EXTENSIONS, *([offered] if offered else []))) as peer:
        peer.always(at, (*said, STALL))
        flags = ["--smarthost", peer.spec, *(login if stage == "auth" else ())]
        gateway = start_gateway(*flags, flag, "400ms")
        submit(gateway.port, SENDER, [YOU])
        [deferred] = gateway.wait_for("deferred", timeout=SOON_S)
        peer.wait_for(lambda p: not p.open)
    assert deferred["stage"] == stage
    assert "timed out" in deferred["reply"]
    assert deferred["delay"] >= 0.4
    assert deferred.get("in_doubt", False) is (stage == "dot")


@contextmanager
def full_backlog() -> Iterator[str]:
    """HOST:PORT that leaves SYNs without an answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        try:
            yield "{}:{}".format(*listener.getsockname())
        finally:
            for filler in fillers:
                filler.close()


def test_a_host_that_does_not_take_the_connection_is_left_in_time(
    start_gateway: StartGateway,
) -> None:
    with full_backlog() as spec:
        gateway = start_gateway("--smarthost", spec, "--connect-timeout", "400ms")
        submit(gateway.port, SENDER, [YOU])
        [deferred] = gateway.wait_for("deferred", timeout=SOON_S)
    assert deferred["stage"] == "connect"
    assert "timed out" in deferred["reply"]
    assert deferred["delay"] >= 0.4


def test_a_next_hop_that_does_not_answer_rset_is_given_a_new_session(
    start_gateway: StartGateway, peer: Peer
) -> None:
    refused, taken = users(2)
    peer.recipient(refused, "550 5.1.1 nobody").always("RSET", STALL)
    gateway = start_gateway("--smarthost", peer.spec, "--rset-timeout", "400ms")
    send(gateway, refused, "bounced")
    submit(gateway.port, SENDER, [taken])
    [delivered] = gateway.wait_for("delivered", timeout=SOON_S)
    assert delivered["attempt"] == 1
    assert delivered["delay"] >= 0.4
    assert peer.messages[0].session == 2


#: Several times what fits on the way to a narrow peer, and many blocks.
LARGE = b"Subject: large\r\n\r\n" + (b"x" * 78 + b"\r\n") * 18_000


def test_a_next_hop_that_stops_reading_is_left_at_the_time_of_a_block(
    start_gateway: StartGateway,
) -> None:
    with Peer(narrow=True) as peer:
        peer.once("CONTENT", Pause(60))
        gateway = start_gateway("--smarthost", peer.spec, "--block-timeout", "400ms")
        submit(gateway.port, SENDER, [YOU], LARGE)
        [deferred] = gateway.wait_for("deferred", timeout=SOON_S)
    assert deferred["stage"] == "content"
    assert deferred["delay"] >= 0.4
    assert "in_doubt" not in deferred


@pytest.mark.parametrize(("rate", "kind"), [("500", "delivered"), ("1000000", "deferred")])
def test_content_must_be_taken_at_the_least_rate(
    start_gateway: StartGateway, rate: str, kind: str
) -> None:
    """The next hop takes each block within its time, and all of it in some three seconds."""
    with Peer(narrow=True) as peer:
        peer.once("DATA", ("354 go on", Slow(0.01, 4096)))
        flags = ["--block-timeout", "1s", "--min-data-rate", rate]
        gateway = start_gateway("--smarthost", peer.spec, *flags)
        submit(gateway.port, SENDER, [YOU], LARGE)
        gateway.wait_until(lambda: [e for e in gateway.events() if "stage" in e], "an attempt")
        event = gateway.events()[-1]
    assert event["event"] == kind
    assert event["delay"] >= 1
    assert event["stage"] == ("dot" if kind == "delivered" else "content")


# -- in doubt -----------------------------------------------------------------------------


@pytest.fixture
def other() -> Iterator[Peer]:
    """The next hop after the first."""
    with Peer() as running:
        yield running


def test_what_is_in_doubt_waits_and_then_goes_to_the_same_host(
    start_gateway: StartGateway, peer: Peer, other: Peer
) -> None:
    peer.once(".", DROP)
    flags = ["--in-doubt", "wait", "--in-doubt-wait", "1s", "--retry", "10ms"]
    gateway = start_gateway("--smarthost", peer.spec, "--smarthost", other.spec, *flags)
    submit(gateway.port, SENDER, [YOU])
    [arrival] = peer.wait_for_messages(1)
    [deferred] = gateway.wait_for("deferred", in_doubt=True)
    assert arrival.at >= deferred["time"] + 0.9
    gateway.wait_for("delivered", attempt=2)
    assert peer.connections == 2
    assert other.connections == 0


def test_what_is_in_doubt_goes_to_the_next_host_after_the_wait_if_the_same_is_gone(
    start_gateway: StartGateway, peer: Peer, other: Peer
) -> None:
    peer.once(".", DROP)
    flags = ["--in-doubt", "wait", "--in-doubt-wait", "1s", "--retry", "10ms"]
    gateway = start_gateway("--smarthost", peer.spec, "--smarthost", other.spec, *flags)
    submit(gateway.port, SENDER, [YOU])
    peer.wait_for(lambda p: "." in p.verbs() and not p.open)
    peer.stop()
    [arrival] = other.wait_for_messages(1)
    [deferred] = gateway.wait_for("deferred", in_doubt=True)
    assert arrival.at >= deferred["time"] + 0.9
    gateway.wait_for("delivered", attempt=2)


def test_what_is_in_doubt_is_tried_again_like_anything_else_if_so_told(
    start_gateway: StartGateway, peer: Peer, other: Peer
) -> None:
    peer.once(".", DROP)
    flags = ["--in-doubt", "retry", "--in-doubt-wait", "1h", "--retry", "300ms"]
    gateway = start_gateway("--smarthost", peer.spec, "--smarthost", other.spec, *flags)
    submit(gateway.port, SENDER, [YOU])
    [deferred] = gateway.wait_for("deferred", in_doubt=True)
    assert 0.2 < deferred["due_at"] - deferred["time"] < 0.4
    gateway.wait_for("delivered", attempt=2)
    expected_once([YOU], peer.arrived() + other.arrived())


def test_what_is_in_doubt_is_held_if_so_told_and_over_a_restart(
    start_gateway: StartGateway, peer: Peer
) -> None:
    peer.once(".", DROP)
    flags = ["--in-doubt", "hold", "--in-doubt-wait", "10ms", "--retry", "100ms"]
    gateway = start_gateway("--smarthost", peer.spec, *flags)
    submit(gateway.port, SENDER, [YOU])
    [held] = gateway.wait_for("held")
    assert held["recipient"] == YOU
    assert held["in_doubt"] is True
    assert held["reason"] == "in doubt: 127.0.0.1[127.0.0.1] may have taken it"
    others = users(2)
    for recipient in others:
        # Longer than it would take to try a message again that only waits.
        peer.recipient(recipient, *["450 4.2.0 later"] * 4, "250 2.1.5 now")
        send(gateway, recipient)
        assert gateway.terminate() == 0
        gateway.start()
    assert len(gateway.events(recipient=YOU)) == 1
    expected_once(others, peer.arrived())
