"""TLS of a session with a next hop, against a scripted one (faults 14 to 22)."""

import gc
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gwrelay.errors import ConnectionLost, SessionRefused
from gwrelay.message.envelope import Envelope, Recipient
from gwrelay.message.outcome import Kind
from gwrelay.smtp.tls import TlsSocket, client_context
from gwrelay.smtp.transaction import Transaction, send
from support.authority import Authority, make_authority, self_signed
from support.peer import DROP, EXTENSIONS, POLITE, RESET, STALL, Pause, Peer
from support.processes import accepts, await_true, free_port
from support.sessions import MX, SHORT_S, SOON_S, connection, greeted, lost
from support.trickle import Trickle


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as made:
        yield made


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"), MX)


@pytest.fixture
def tls_peer(authority: Authority) -> Iterator[Peer]:
    extensions = (*EXTENSIONS, "AUTH PLAIN LOGIN")
    with Peer(tls=authority.server(), extensions=extensions) as made:
        yield made


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
    made.starttls(client_context(verify=False))
    assert made.is_encrypted
    assert not made.is_verified


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
    told = lost(lambda: made.starttls(authority.client()))
    assert isinstance(told, SessionRefused)
    assert (told.stage, told.status) == ("starttls", "4.7.4")
    assert not made.is_encrypted
    assert not made.is_open
    assert "STARTTLS" not in peer.verbs()


@pytest.mark.parametrize("answer", ["250 2.0.0 fine", "200 yes", "251 2.0.0 elsewhere"])
def test_a_yes_that_is_no_go_ahead_never_goes_on_in_the_clear(
    tls_peer: Peer, authority: Authority, answer: str
) -> None:
    tls_peer.once("STARTTLS", answer)
    made = greeted(tls_peer)
    assert lost(lambda: made.starttls(authority.client())).stage == "starttls"
    assert not made.is_open
    assert not made.is_encrypted


def test_what_was_agreed_is_told(tls_peer: Peer, authority: Authority) -> None:
    made = greeted(tls_peer)
    made.starttls(authority.client())
    assert re.fullmatch(r"TLSv1\.3 TLS_\w+ verified", made.tls)
    other = greeted(tls_peer)
    other.starttls(client_context(verify=False))
    assert re.fullmatch(r"TLSv1\.3 TLS_\w+ unverified", other.tls)
    assert greeted(tls_peer).tls == ""


def test_an_expired_certificate_loses_the_connection(authority: Authority) -> None:
    with Peer(tls=authority.certify(MX, days=-1).server()) as expired:
        told = lost(lambda: greeted(expired).starttls(authority.client()))
        assert "expired" in told.reason
        made = greeted(expired)
        made.starttls(client_context(verify=False))
        assert made.ehlo().is_positive
        made.quit()


def test_a_self_signed_certificate_loses_the_connection(
    tmp_path: Path, authority: Authority
) -> None:
    own = self_signed(tmp_path / "own.pem", tmp_path / "own.key", MX)
    with Peer(tls=own.server()) as peer:
        assert "self-signed" in lost(lambda: greeted(peer).starttls(authority.client())).reason
        made = greeted(peer)
        made.starttls(client_context(verify=False))
        assert made.ehlo().is_positive
        made.quit()


def test_a_given_ca_file_is_trusted_and_nothing_else(
    tls_peer: Peer, authority: Authority, tmp_path: Path
) -> None:
    made = greeted(tls_peer)
    made.starttls(client_context(verify=True, ca_file=str(authority.ca)))
    assert made.is_verified
    other = self_signed(tmp_path / "own.pem", tmp_path / "own.key", "other.example")
    context = client_context(verify=True, ca_file=str(other.ca))
    assert "unable to get" in lost(lambda: greeted(tls_peer).starttls(context)).reason


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_old_version_is_refused_even_unverified(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    """faults 22"""
    context = authority.server()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with Peer(tls=context) as old:
        told = lost(lambda: greeted(old).starttls(client_context(verify=False)))
    assert told.stage == "starttls"
    assert told.status == "4.7.5"


def test_the_least_version_can_be_raised(authority: Authority) -> None:
    context = authority.server()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with Peer(tls=context) as older:
        lost(lambda: greeted(older).starttls(client_context(verify=False, minimum="1.3")))
        made = greeted(older)
        made.starttls(client_context(verify=False, minimum="1.2"))
        assert made.tls.startswith("TLSv1.2 ")
        made.quit()


def test_a_next_hop_named_by_its_address_is_verified_by_it(authority: Authority) -> None:
    named: list[str | None] = []
    context = authority.certify("127.0.0.1").server()
    context.sni_callback = lambda _sock, name, _context: named.append(name)
    with Peer(tls=context) as peer:
        for exchange in ("127.0.0.1", "[127.0.0.1]"):
            made = connection()
            made.open(*peer.address, exchange)
            made.ehlo()
            made.starttls(authority.client())
            assert made.is_verified
            made.quit()
    assert named == [None, None]  # RFC 6066 3: no addresses in SNI


# -- implicit TLS -------------------------------------------------------------------------


@pytest.fixture
def tls_port(authority: Authority) -> Iterator[Peer]:
    with Peer(tls=authority.server(), implicit_tls=True) as made:
        yield made


def test_implicit_tls_protects_the_banner_too(tls_port: Peer, authority: Authority) -> None:
    made = connection()
    assert made.open(*tls_port.address, MX, implicit_tls=authority.client()).code == 220
    assert made.is_verified
    assert made.ehlo().is_positive
    assert not made.offers("starttls")
    made.quit()
    tls_port.wait_for(lambda p: p.verbs() == ["EHLO", "QUIT"])


def test_implicit_tls_to_a_port_without_it_is_lost_in_the_handshake(
    peer: Peer, authority: Authority
) -> None:
    made = connection()
    told = lost(lambda: made.open(*peer.address, MX, implicit_tls=authority.client()))
    assert told.stage == "starttls"
    assert not made.is_open
    assert peer.verbs() == []


# -- resumption ---------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_resumed(authority: Authority, version: ssl.TLSVersion) -> None:
    server = authority.server()
    server.maximum_version = version
    context = authority.client()
    with Peer(tls=server) as peer:
        session, resumed = None, []
        for _ in range(3):
            made = greeted(peer)
            made.starttls(context, session)
            made.ehlo()
            resumed.append(made.is_resumed)
            session = made.tls_session
            made.quit()
    assert resumed == [False, True, True]


def test_there_is_no_session_to_resume_without_tls(peer: Peer) -> None:
    assert greeted(peer).tls_session is None


# -- peers that trickle and flood ---------------------------------------------------------


@pytest.mark.parametrize("marker", [b"220 2.0.0 go ahead\r\n", b"PIPELINING"])
def test_a_handshake_that_trickles_ends_at_its_time(
    tls_peer: Peer, authority: Authority, marker: bytes
) -> None:
    """faults 20: neither reply nor handshake gets more time for each byte that comes."""
    with Trickle(tls_peer.address, marker) as slow:
        made = connection(starttls=SHORT_S)
        made.open(*slow.address, MX)
        made.ehlo()
        told = lost(lambda: made.starttls(authority.client()))
    assert told.stage == "starttls"
    assert "timed out" in told.reason


def test_an_implicit_handshake_that_trickles_ends_at_its_time(
    tls_port: Peer, authority: Authority
) -> None:
    with Trickle(tls_port.address) as slow:
        slow.slow.set()
        made = connection(starttls=SHORT_S)
        told = lost(lambda: made.open(*slow.address, MX, implicit_tls=authority.client()))
    assert told.stage == "starttls"


def test_a_reply_that_trickles_through_tls_ends_at_its_time(
    tls_peer: Peer, authority: Authority
) -> None:
    with Trickle(tls_peer.address) as slow:
        made = connection(ehlo=1.0)
        made.open(*slow.address, MX)
        made.ehlo()
        made.starttls(authority.client())
        made.ehlo()
        slow.slow.set()
        told = lost(lambda: made.command("ehlo", b"NOOP\r\n"))
    assert told.stage == "ehlo"
    assert "timed out" in told.reason


def test_a_next_hop_that_reads_nothing_ends_the_send_at_its_time(
    tls_peer: Peer, authority: Authority
) -> None:
    made = greeted(tls_peer, content=SHORT_S)
    made.starttls(authority.client())
    tls_peer.once("EHLO", Pause(SOON_S))
    made.send("ehlo", b"EHLO gw.example\r\n")
    told = lost(lambda: made.send("content", b"x" * 64_000_000))
    assert told.stage == "content"
    assert "timed out" in told.reason


def test_tls_without_content_has_an_end(authority: Authority) -> None:
    """Session tickets without number, each of which costs us work and brings nothing."""
    server = authority.server()
    server.num_tickets = 5000
    with Peer(tls=server) as peer:
        made = greeted(peer)
        made.starttls(client_context(verify=False))
        told = lost(made.ehlo)
    assert "without content" in told.reason


def test_a_server_that_begins_the_handshake_again_is_left(authority: Authority) -> None:
    """Renegotiation, in TLS 1.2 (fault 22): refused, and what openssl makes of that is an end."""
    port = free_port()
    command = ["openssl", "s_server", "-tls1_2", "-accept", f"127.0.0.1:{port}"]
    command += ["-cert", str(authority.certificate), "-key", str(authority.key)]
    command += ["-naccept", "2"]  # the one that sees whether it listens, and ours
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as server:
        assert server.stdin is not None
        try:
            await_true(lambda: accepts("127.0.0.1", port), "openssl listens")
            with socket.create_connection(("127.0.0.1", port)) as sock:
                tls = TlsSocket(sock, client_context(verify=False), MX)
                tls.settimeout(5)
                tls.handshake()
                server.stdin.write(b"220 mx\n")
                server.stdin.flush()
                assert tls.recv(100) == b"220 mx\n"
                server.stdin.write(b"r\n")  # its command for this
                server.stdin.flush()
                with pytest.raises(ssl.SSLError):
                    tls.recv(100)
            said, _ = server.communicate(timeout=10)
        finally:
            server.kill()
        assert b"no renegotiation" in said


# -- idle, and goodbye --------------------------------------------------------------------


def test_a_421_over_tls_makes_it_unquiet(tls_peer: Peer, authority: Authority) -> None:
    made = greeted(tls_peer)
    made.starttls(authority.client())
    tls_peer.once("EHLO", (POLITE, Pause(0.05), "421 4.4.2 idle too long"))
    made.ehlo()
    await_true(lambda: not made.is_quiet(), "it is noticed")


def test_quit_over_tls_waits_for_nobody_either(tls_peer: Peer, authority: Authority) -> None:
    tls_peer.once("QUIT", STALL)
    made = greeted(tls_peer)
    made.starttls(authority.client())
    made.quit()
    assert not made.is_open
    tls_peer.wait_for(lambda p: p.verbs()[-1] == "QUIT" and p.open == 0)
