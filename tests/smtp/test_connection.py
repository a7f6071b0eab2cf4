"""One session with a next hop, against a scripted one: greeting, timers, TLS, AUTH, goodbye."""

import base64
import gc
import hmac
import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest

from gwrelay.errors import ConnectionLost
from gwrelay.message.envelope import Envelope, Recipient
from gwrelay.message.outcome import Kind
from gwrelay.smtp.connection import TIMEOUTS_S, Connection
from gwrelay.smtp.transaction import Transaction, send
from support.authority import Authority, make_authority
from support.peer import DROP, EXTENSIONS, POLITE, RESET, STALL, Pause, Peer
from support.processes import await_true

MX = "mx.peer.example"

#: Long enough for anything on loopback, short enough for a failing test.
PATIENCE_S = 10.0
#: A stage's whole time in the tests that let it run out, and what that may take at most.
SHORT_S = 0.15
SOON_S = 3.0


def connection(source: str = "", reply_max_bytes: int = 64 * 1024, **short: float) -> Connection:
    timeouts_s = dict.fromkeys(TIMEOUTS_S, PATIENCE_S) | short
    return Connection(
        "gw.example", timeouts_s=timeouts_s, source=source, reply_max_bytes=reply_max_bytes
    )


def opened(peer: Peer, **short: float) -> Connection:
    made = connection(**short)
    assert made.open(*peer.address, MX).is_positive
    return made


def greeted(peer: Peer, **short: float) -> Connection:
    made = opened(peer, **short)
    assert made.ehlo().code == 250
    return made


def lost(action: Callable[[], object]) -> ConnectionLost:
    """The loss that `action` ends in, and soon."""
    started = time.monotonic()
    with pytest.raises(ConnectionLost) as caught:
        action()
    assert time.monotonic() - started < SOON_S
    return caught.value


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


# -- STARTTLS -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"), MX)


@pytest.fixture
def tls_peer(authority: Authority) -> Iterator[Peer]:
    extensions = (*EXTENSIONS, "AUTH PLAIN LOGIN")
    with Peer(tls=authority.server(), extensions=extensions) as made:
        yield made


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_starttls_verifies_the_exchange_and_names_it(tls_peer: Peer, authority: Authority) -> None:
    named: list[str | None] = []
    assert tls_peer.tls is not None
    tls_peer.tls.sni_callback = lambda _sock, name, _context: named.append(name)
    made = greeted(tls_peer)

    assert made.starttls(authority.client()).code == 220
    assert made.is_encrypted
    assert made.ehlo().code == 250
    assert named == [MX]
    made.quit()


def test_everything_ehlo_said_is_forgotten_after_tls(tls_peer: Peer, authority: Authority) -> None:
    made = greeted(tls_peer)
    assert made.offers("starttls")
    made.starttls(authority.client())

    for extension in ("starttls", "pipelining", "size", "auth"):
        assert not made.offers(extension)
    assert made.size_limit_bytes == 0
    made.ehlo()
    assert made.offers("pipelining")
    assert not made.offers("starttls")
    assert tls_peer.verbs() == ["EHLO", "STARTTLS", "EHLO"]


def test_a_large_message_and_a_second_one_go_over_tls(tls_peer: Peer, authority: Authority) -> None:
    """Session tickets arrive unasked, and must not pass for something the server said."""
    made = greeted(tls_peer)
    made.starttls(authority.client())
    made.ehlo()
    content = b"x" * 78 + b"\r\n"
    for pieces in ([content * 1000] * 10, [content]):
        envelope = Envelope("a@b.example", (Recipient("c@d.example"),))
        sending = Transaction(envelope, envelope.recipients, sum(map(len, pieces)), pieces)
        assert made.is_quiet()
        assert [told.kind for told in send(made, sending)] == [Kind.DELIVERED]

    assert [len(arrival.content) for arrival in tls_peer.messages] == [800_000, 80]
    assert all(arrival.tls for arrival in tls_peer.messages)


def test_an_unverified_context_takes_any_certificate(tls_peer: Peer) -> None:
    made = connection()
    made.open(*tls_peer.address, "other.example")
    made.ehlo()
    made.starttls(unverified())
    assert made.is_encrypted


@pytest.mark.parametrize(
    ("exchange", "trusted", "reason"),
    [("other.example", True, "hostname mismatch"), (MX, False, "self-signed|unable to get")],
)
def test_a_wrong_certificate_loses_the_connection_and_says_why(
    tls_peer: Peer, authority: Authority, exchange: str, trusted: bool, reason: str
) -> None:
    made = connection()
    made.open(*tls_peer.address, exchange)
    made.ehlo()
    context = authority.client() if trusted else ssl.create_default_context()
    with pytest.raises(ConnectionLost, match=f"(?i){reason}") as caught:
        made.starttls(context)
    assert caught.value.stage == "starttls"
    assert not made.is_open
    assert not made.is_encrypted


@pytest.mark.parametrize("exchange", ["", ".", ".example", "a..example", "x" * 64 + ".example"])
def test_an_exchange_that_tls_cannot_name_loses_the_connection(
    tls_peer: Peer, authority: Authority, exchange: str
) -> None:
    made = connection()
    made.open(*tls_peer.address, exchange)
    made.ehlo()
    assert lost(lambda: made.starttls(authority.client())).stage == "starttls"
    assert not made.is_open
    gc.collect()  # the exception holds the socket that ssl was about to wrap


@pytest.mark.parametrize("refusal", ["454 4.7.0 not now", "501 5.5.4 eh", "421 4.3.2 bye"])
def test_a_refused_starttls_is_a_reply(tls_peer: Peer, authority: Authority, refusal: str) -> None:
    tls_peer.once("STARTTLS", refusal)
    made = greeted(tls_peer)
    assert str(made.starttls(authority.client())) == refusal
    assert not made.is_encrypted
    assert made.stage == "starttls"


def test_plaintext_behind_the_220_is_refused(tls_peer: Peer, authority: Authority) -> None:
    """faults 15, CVE-2021-38371"""
    tls_peer.once("STARTTLS", b"220 go\r\n250-injected\r\n250 AUTH PLAIN\r\n")
    made = greeted(tls_peer)
    assert lost(lambda: made.starttls(authority.client())).stage == "starttls"
    assert not made.is_open
    assert not made.is_encrypted


def test_plaintext_instead_of_a_handshake_is_refused(peer: Peer, authority: Authority) -> None:
    peer.always("STARTTLS", (b"220 go\r\n", Pause(0.05), b"250 injected\r\n", POLITE))
    peer.extensions += ("STARTTLS",)
    made = greeted(peer)
    assert lost(lambda: made.starttls(authority.client())).stage == "starttls"
    assert not made.is_open


@pytest.mark.parametrize("answer", [("220 go", STALL), STALL])
def test_a_handshake_that_hangs_ends_at_its_time(
    tls_peer: Peer, authority: Authority, answer: object
) -> None:
    tls_peer.once("STARTTLS", answer)
    made = greeted(tls_peer, starttls=SHORT_S)
    told = lost(lambda: made.starttls(authority.client()))
    assert told.stage == "starttls"
    assert "timed out" in told.reason
    assert not made.is_open


@pytest.mark.parametrize("answer", [("220 go", DROP), ("220 go", RESET), DROP])
def test_a_handshake_that_breaks_loses_the_connection(
    tls_peer: Peer, authority: Authority, answer: object
) -> None:
    tls_peer.once("STARTTLS", answer)
    made = greeted(tls_peer)
    assert lost(lambda: made.starttls(authority.client())).stage == "starttls"
    assert not made.is_open


def test_starttls_that_is_not_offered_never_goes_on_in_the_clear(
    peer: Peer, authority: Authority
) -> None:
    made = greeted(peer)
    assert lost(lambda: made.starttls(authority.client())).stage == "starttls"
    assert not made.is_encrypted
    assert "STARTTLS" not in peer.verbs()


# -- AUTH ---------------------------------------------------------------------------------

CHALLENGE = base64.b64encode(b"<1896.697170952@peer.example>").decode()


def cram_md5_answer(username: str, password: str) -> str:
    digest = hmac.new(password.encode(), base64.b64decode(CHALLENGE), "md5").hexdigest()
    return base64.b64encode(f"{username} {digest}".encode()).decode()


def with_auth(mechanisms: str) -> Peer:
    return Peer(extensions=(*EXTENSIONS, f"AUTH {mechanisms}"))


@pytest.mark.parametrize("mechanisms", ["PLAIN", "LOGIN", "LOGIN PLAIN", "SCRAM-SHA-256 PLAIN"])
def test_auth_by_a_mechanism_both_know(mechanisms: str) -> None:
    with with_auth(mechanisms) as peer:
        made = greeted(peer)
        assert made.login("user", "secret").code == 235
        assert made.stage == "auth"


def test_auth_by_cram_md5_never_says_the_password() -> None:
    with with_auth("PLAIN CRAM-MD5") as peer:
        answer = cram_md5_answer("user", "secret")
        peer.once("AUTH", f"334 {CHALLENGE}").once(answer.upper(), "235 2.7.0 welcome")
        assert greeted(peer).login("user", "secret").code == 235
        assert [c.line for c in peer.commands[1:]] == [b"AUTH CRAM-MD5", answer.encode()]


@pytest.mark.parametrize("refusal", ["535 5.7.8 no", "454 4.7.0 later", "534 5.7.9 too weak"])
def test_refused_credentials_are_a_reply(refusal: str) -> None:
    with with_auth("PLAIN LOGIN") as peer:
        peer.always("AUTH", refusal)
        assert str(greeted(peer).login("user", "wrong")) == refusal


def test_after_a_refused_mechanism_the_next_is_tried() -> None:
    with with_auth("PLAIN LOGIN") as peer:
        peer.once("AUTH", "535 5.7.8 not by PLAIN")
        assert greeted(peer).login("user", "secret").code == 235
        assert peer.verbs().count("AUTH") == 2


@pytest.mark.parametrize("mechanisms", ["", "GSSAPI", "XOAUTH2 NTLM"])
def test_no_common_mechanism_defers_before_anything_is_said(mechanisms: str) -> None:
    with with_auth(mechanisms) if mechanisms else Peer() as peer:
        reply = greeted(peer).login("user", "secret")
        assert reply.is_temporary
        assert reply.status == "4.7.0"
        assert "AUTH" not in peer.verbs()


@pytest.mark.parametrize("challenge", ["334 a", "334 abcde", "334 abc"])
def test_a_challenge_that_is_no_base64_defers(challenge: str) -> None:
    with with_auth("CRAM-MD5") as peer:
        peer.once("AUTH", challenge)
        reply = greeted(peer).login("user", "secret")
        assert reply.is_temporary
        assert reply.status == "4.7.0"


@pytest.mark.parametrize("mechanism", ["PLAIN", "CRAM-MD5"])
def test_credentials_that_cannot_be_sent_defer(mechanism: str) -> None:
    with with_auth(mechanism) as peer:
        peer.once("AUTH", f"334 {CHALLENGE}")
        reply = greeted(peer).login("user", "geheimnißvoll")
        assert reply.is_temporary
        assert reply.status == "4.7.0"


def test_endless_challenges_end_and_defer() -> None:
    answer = base64.b64encode(b"\0user\0secret").decode()
    with with_auth("PLAIN") as peer:
        peer.always("AUTH", "334 ").always(answer.upper(), "334 ")
        reply = greeted(peer).login("user", "secret")
        assert reply.is_temporary
        assert len(peer.commands) < 20


@pytest.mark.parametrize("answer", [DROP, STALL])
def test_a_connection_lost_in_auth_is_lost_at_auth(answer: object) -> None:
    with with_auth("PLAIN") as peer:
        peer.once("AUTH", answer)
        made = greeted(peer, auth=SHORT_S)
        assert lost(lambda: made.login("user", "secret")).stage == "auth"


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


def test_a_421_over_tls_makes_it_unquiet(tls_peer: Peer, authority: Authority) -> None:
    made = greeted(tls_peer)
    made.starttls(authority.client())
    tls_peer.once("EHLO", (POLITE, Pause(0.05), "421 4.4.2 idle too long"))
    made.ehlo()
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


def test_quit_over_tls_waits_for_nobody_either(tls_peer: Peer, authority: Authority) -> None:
    tls_peer.once("QUIT", STALL)
    made = greeted(tls_peer)
    made.starttls(authority.client())
    made.quit()
    assert not made.is_open
    tls_peer.wait_for(lambda p: p.verbs()[-1] == "QUIT" and p.open == 0)


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
