"""One session with a next hop, against a scripted one: greeting, timers, goodbye."""

import resource
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from gwrelay.smtp.connection import TIMEOUTS_S, Connection
from gwrelay.waiting import Patience
from support import sessions
from support.peer import DROP, POLITE, RESET, STALL, Pause, Peer
from support.processes import await_true
from support.sessions import (
    MX,
    PATIENCE_S,
    SHORT_S,
    SOON_S,
    connection,
    greeted,
    lost,
    opened,
    record,
)


@pytest.fixture(params=[None, Patience], ids=["as sockets do", "patience"], autouse=True)
def how_to_wait(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "how_to_wait", request.param)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as made:
        yield made


def can_bind(host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as sock:
            sock.bind((host, 0))
    except OSError:
        return False
    return True


LOOPBACKS = [host for host in ("127.0.0.1", "::1") if can_bind(host)]

# -- opening ------------------------------------------------------------------------------


@pytest.mark.parametrize("host", LOOPBACKS)
def test_the_banner_comes_back_as_a_reply(host: str) -> None:
    with Peer(host) as peer:
        made = connection()
        reply = made.open(*peer.address, MX)

        assert (reply.code, reply.text) == (220, "peer.example ESMTP")
        assert (made.exchange, made.address, made.port) == (MX, host, peer.port)
        assert made.is_open
        assert not made.is_encrypted
        assert not made.spoiled
        made.close()
        assert not made.is_open


def test_whatever_goes_out_or_comes_in_moves(peer: Peer) -> None:
    made = connection()
    moves = [made.moves]
    made.open(*peer.address, MX)
    moves.append(made.moves)
    made.send("ehlo", b"EHLO gw.example\r\n")
    moves.append(made.moves)
    made.read("ehlo")
    moves.append(made.moves)
    assert sorted(set(moves)) == moves
    made.close()


def test_small_writes_are_not_held_back(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = record(monkeypatch)
    opened(peer)
    assert sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_each_stage_has_the_time_that_is_due_to_it() -> None:
    """RFC 5321 4.5.3.2; STARTTLS, RSET and QUIT are nothing to wait long for."""
    due_s = {"banner": 300, "mail": 300, "rcpt": 300, "data": 120, "content": 180, "dot": 600}
    assert {stage: TIMEOUTS_S[stage] for stage in due_s} == due_s


def test_no_name_is_looked_up_for_a_connection(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_arguments: object, **_options: object) -> str:
        raise AssertionError("a DNS look-up")

    for name in ("getfqdn", "gethostname", "gethostbyaddr", "getnameinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, forbidden)
    greeted(peer).quit()
    peer.wait_for(lambda p: p.verbs() == ["EHLO", "QUIT"])
    assert peer.commands[0].line.lower() == b"ehlo gw.example"


@pytest.mark.parametrize(
    ("banner", "code", "status", "spoiled"),
    [
        ("554 5.7.1 go away", 554, "5.7.1", True),
        ("450 4.3.2 later", 450, "4.3.2", True),
        ("421 4.3.2 too busy", 421, "4.3.2", True),
        ("354 what", 354, "", True),
        ("220-hello\n220 there", 220, "", False),
    ],
)
def test_a_banner_that_refuses_is_a_reply_and_no_exception(
    peer: Peer, banner: str, code: int, status: str, spoiled: bool
) -> None:
    peer.once("CONNECT", banner)
    made = connection()
    reply = made.open(*peer.address, MX)
    assert (reply.code, reply.status) == (code, status)
    assert made.stage == "banner"
    assert made.spoiled is spoiled
    made.close()


@pytest.mark.parametrize(
    "banner",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"2_0 x\r\n", b"\0\0\0\0\n", b"220-a\r\n" * 500, b"x" * 9000,
     DROP, RESET],
    ids=["ssh", "underscore", "nul", "endless lines", "endless line", "close", "reset"],
)  # fmt: skip
def test_a_banner_that_is_none_loses_the_connection(peer: Peer, banner: object) -> None:
    peer.once("CONNECT", banner)
    made = connection()
    # A reset may come before the system has told us of the connection.
    stages = ("connect", "banner") if banner is RESET else ("banner",)
    assert lost(lambda: made.open(*peer.address, MX)).stage in stages
    assert not made.is_open


def test_a_refused_connection_says_so_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    told = lost(lambda: connection().open("127.0.0.1", port, MX))
    assert (told.stage, told.reason) == ("connect", "connection refused")


def test_a_connect_that_is_not_answered_ends_at_its_time() -> None:
    """A full backlog: the kernel leaves further SYNs without an answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        try:
            told = lost(lambda: connection(connect=SHORT_S).open(*listener.getsockname(), MX))
        finally:
            for filler in fillers:
                filler.close()
    assert (told.stage, told.reason, told.ours) == ("connect", "timed out", False)


def test_the_source_address_is_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = connection(source="127.0.0.2", banner=SHORT_S)
        lost(lambda: made.open(*listener.getsockname(), MX))
        sock, client = listener.accept()
        sock.close()
    assert client[0] == "127.0.0.2"


@pytest.mark.parametrize("source", ["192.0.2.1", "::1"])
def test_a_source_address_that_is_not_ours_is_no_fault_of_the_host(peer: Peer, source: str) -> None:
    made = connection(source=source)
    told = lost(lambda: made.open(*peer.address, MX))
    assert told.stage == "connect"
    assert told.ours
    assert source in told.reason
    assert not made.is_open
    assert peer.connections == 0


def test_no_descriptor_left_is_no_fault_of_the_host(peer: Peer) -> None:
    made = connection()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        told = lost(lambda: made.open(*peer.address, MX))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (told.stage, told.reason) == ("connect", "too many open files")
    assert told.ours


# -- EHLO, HELO, what is offered ----------------------------------------------------------


def test_ehlo_says_what_is_offered(peer: Peer) -> None:
    made = greeted(peer)
    for extension in ("pipelining", "size", "8bitmime", "enhancedstatuscodes", "dsn"):
        assert made.offers(extension)
    for extension in ("smtputf8", "starttls", "auth", "peer.example", ""):
        assert not made.offers(extension)


def test_nothing_is_offered_before_ehlo_and_nothing_after_helo(peer: Peer) -> None:
    made = opened(peer)
    assert not made.offers("pipelining")
    assert made.helo().code == 250
    assert not made.offers("pipelining")
    assert made.size_limit_bytes == 0
    assert peer.verbs() == ["HELO"]


@pytest.mark.parametrize(
    "answer", ["500 5.5.2 what?", "502 5.5.1 no", "421 4.3.2 busy", "450 later", "354 eh"]
)
def test_a_refused_ehlo_is_a_reply_and_offers_nothing(peer: Peer, answer: str) -> None:
    peer.once("EHLO", answer)
    made = opened(peer)
    reply = made.ehlo()
    assert str(reply) == answer
    assert made.stage == "ehlo"
    assert not made.offers("size")


def test_helo_follows_a_refused_ehlo_in_the_same_session(peer: Peer) -> None:
    peer.once("EHLO", "502 5.5.1 never heard")
    made = opened(peer)
    made.ehlo()
    assert made.helo().is_positive
    assert peer.connections == 1


@pytest.mark.parametrize(
    ("announced", "limit"),
    [
        ("SIZE 1000", 1000),
        ("size 1000", 1000),
        ("SIZE 0", 0),
        ("SIZE", 0),
        ("SIZE 99999999999999999999", 99999999999999999999),
        ("SIZE " + "9" * 5000, 0),
        ("SIZE abc", 0),
        ("SIZE -1", 0),
        ("SIZE +5", 0),
        ("SIZE 1_000", 0),
        ("SIZE 1000 octets", 0),
        ("SIZE \u0661\u0662\u0663", 0),
        ("DSN", 0),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_size_limit_is_one_only_in_plain_digits(announced: str, limit: int) -> None:
    with Peer(extensions=(announced,)) as peer:
        assert greeted(peer).size_limit_bytes == limit


# -- timers and hostile replies -----------------------------------------------------------

STAGES: list[tuple[str, str, Callable[[Connection], object]]] = [
    ("EHLO", "ehlo", lambda c: c.ehlo()),
    ("HELO", "ehlo", lambda c: c.helo()),
    ("MAIL", "mail", lambda c: c.command("mail", b"MAIL FROM:<>\r\n")),
    ("RSET", "rset", lambda c: c.command("rset", b"RSET\r\n")),
]


@pytest.mark.parametrize(("verb", "stage", "action"), STAGES)
def test_a_stage_that_is_not_answered_ends_at_its_own_time(
    peer: Peer, verb: str, stage: str, action: Callable[[Connection], object]
) -> None:
    peer.once(verb, STALL)
    made = opened(peer, **{stage: SHORT_S})
    told = lost(lambda: action(made))
    assert (told.stage, told.reason) == (stage, "timed out")
    assert not made.is_open


def test_a_silent_banner_ends_at_its_time(peer: Peer) -> None:
    peer.once("CONNECT", STALL)
    told = lost(lambda: connection(banner=SHORT_S).open(*peer.address, MX))
    assert (told.stage, told.reason) == ("banner", "timed out")


@pytest.mark.parametrize(
    "trickle", [[b"2", b"2", b"0", b" "] + [b"x"] * 400, [b"220-", b"x\r\n"] * 200]
)
def test_a_reply_that_trickles_ends_when_the_stage_does(peer: Peer, trickle: list[bytes]) -> None:
    peer.once("CONNECT", tuple(step for drop in trickle for step in (drop, Pause(0.03))))
    told = lost(lambda: connection(banner=SHORT_S).open(*peer.address, MX))
    assert (told.stage, told.reason) == ("banner", "timed out")


def test_a_byte_that_came_late_buys_no_further_time(peer: Peer) -> None:
    stage_s = 0.5
    peer.once("CONNECT", (b"2", Pause(stage_s * 0.8), b"2", STALL))
    started = time.monotonic()
    lost(lambda: connection(banner=stage_s).open(*peer.address, MX))
    assert time.monotonic() - started < stage_s * 1.6


def test_a_reply_in_pieces_within_its_time_is_a_reply(peer: Peer) -> None:
    peer.once("EHLO", (b"25", Pause(0.01), b"0-a\r", Pause(0.01), b"\n250 SIZE 7", POLITE))
    made = opened(peer)
    assert made.ehlo().code == 250


@pytest.mark.parametrize(
    "answer",
    [b"250-x\r\n" * 300, b"250 " + b"x" * 9000, b"250-a\r\n550 b\r\n", b"2_5 a\r\n", b"+25 a\r\n",
     "٢٥٠ a\r\n".encode(), b"999 a\r\n", b"000 a\r\n", b"250 a\0\r\n", DROP, RESET],
    ids=["lines", "line", "change", "2_5", "+25", "arabic", "999", "000", "nul", "close", "reset"],
)  # fmt: skip
def test_a_hostile_reply_loses_the_connection_at_its_stage(peer: Peer, answer: object) -> None:
    peer.once("RSET", answer)
    made = greeted(peer)
    assert lost(lambda: made.command("rset", b"RSET\r\n")).stage == "rset"
    assert not made.is_open


def test_the_size_of_a_reply_is_bounded_as_configured(peer: Peer) -> None:
    made = connection(reply_max_bytes=100)
    made.open(*peer.address, MX)
    assert "100 bytes" in lost(made.ehlo).reason


@pytest.mark.parametrize(
    "banner", ["220 one\n220 two", "220 one\n250 two", "220 one\n421 4.3.2 two"]
)
def test_a_reply_before_its_command_does_not_answer_it(peer: Peer, banner: str) -> None:
    peer.once("CONNECT", banner.encode().replace(b"\n", b"\r\n") + b"\r\n")
    made = opened(peer)
    assert lost(made.ehlo).stage == "ehlo"
    assert not made.is_open
    assert peer.verbs() == []


def test_a_closed_connection_stays_lost(peer: Peer) -> None:
    made = greeted(peer)
    made.close()
    assert lost(lambda: made.command("mail", b"MAIL FROM:<>\r\n")).stage == "mail"
    assert lost(lambda: made.read("rset")).stage == "rset"


@pytest.mark.parametrize(
    ("reply", "moot", "spoiled"),
    [
        ("250 ok", False, False),
        ("450 later", False, False),
        ("550 no", False, False),
        ("503 5.5.1 out of step", False, True),
        ("503 5.5.1 out of step", True, False),
        ("555 what", False, True),
        ("354 eh", True, True),
        ("421 bye", False, True),
        ("421 bye", True, True),
    ],
)
def test_a_session_is_spoiled_by_what_says_so(
    peer: Peer, reply: str, moot: bool, spoiled: bool
) -> None:
    peer.once("RCPT", reply)
    made = greeted(peer)
    made.command("mail", b"MAIL FROM:<>\r\n")
    made.send("rcpt", b"RCPT TO:<a@b.example>\r\n")
    made.read("rcpt", moot=moot)
    assert made.spoiled is spoiled


# -- idle, and goodbye --------------------------------------------------------------------


def test_an_idle_session_is_quiet_and_stays_usable(peer: Peer) -> None:
    made = greeted(peer)
    assert made.is_quiet()
    assert made.is_quiet()
    assert made.command("rset", b"RSET\r\n").is_positive
    assert made.is_quiet()


@pytest.mark.parametrize("pause", [(), (Pause(0.05),)])
@pytest.mark.parametrize("unasked", ["421 4.4.2 idle too long", "250 2.0.0 what?"])
def test_what_was_said_unasked_makes_it_unquiet(
    peer: Peer, pause: tuple[object, ...], unasked: str
) -> None:
    peer.once("EHLO", (POLITE, *pause, unasked))
    made = greeted(peer)
    await_true(lambda: not made.is_quiet(), "it is noticed")


@pytest.mark.parametrize("end", [DROP, RESET])
def test_a_close_meanwhile_makes_it_unquiet(peer: Peer, end: object) -> None:
    peer.once("EHLO", (POLITE, end))
    made = greeted(peer)
    await_true(lambda: not made.is_quiet(), "it is noticed")


def test_a_session_that_is_closed_is_not_quiet(peer: Peer) -> None:
    made = greeted(peer)
    made.close()
    assert not made.is_quiet()


def test_quit_is_said_and_not_waited_for(peer: Peer) -> None:
    peer.once("QUIT", STALL)
    made = greeted(peer)
    started = time.monotonic()
    made.quit()

    assert time.monotonic() - started < SOON_S
    assert not made.is_open
    peer.wait_for(lambda p: p.verbs() == ["EHLO", "QUIT"] and p.open == 0)


def test_quit_after_a_loss_and_twice_is_no_trouble(peer: Peer) -> None:
    peer.once("EHLO", DROP)
    made = opened(peer)
    lost(made.ehlo)
    made.quit()
    made.quit()
    connection().quit()


def test_the_age_of_a_session_counts_from_its_making(peer: Peer) -> None:
    made = opened(peer)
    first = made.age_s
    assert 0 <= first < PATIENCE_S
    assert made.age_s >= first
