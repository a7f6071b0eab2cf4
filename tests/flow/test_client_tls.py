"""Clients of the gateway under TLS: real ones, hostile ones, and a certificate that changes."""

import contextlib
import os
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from support.authority import Authority, certificate_at, make_authority, openssl
from support.clients import expect, transact
from support.gateway import Gateway, StartGateway
from support.metrics import free_port, read_metrics
from support.peer import Peer
from support.processes import await_true, program, run
from support.servers import Postfix

NAME = "gw.example"
RECIPIENT = "you@there.example"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"), NAME)


class Ports(NamedTuple):
    """Of a gateway: STARTTLS, and TLS from the first byte."""

    plain: int
    tls: int


def flags_for(authority: Authority) -> list[str]:
    return ["--tls-cert", str(authority.certificate), "--tls-key", str(authority.key)]


def ports_of(gateway: Gateway) -> Ports:
    return Ports(*map(int, re.findall(r"127\.0\.0\.1:(\d+)[,;]", gateway.log)[:2]))


@pytest.fixture
def gateway(start_gateway: StartGateway, peer: Peer, authority: Authority) -> Gateway:
    more = ["--smarthost", peer.spec, "--listen", "tls:127.0.0.1:0", "--client-timeout", "2s"]
    return start_gateway(*more, *flags_for(authority))


def client_context(authority: Authority, **versions: ssl.TLSVersion) -> ssl.SSLContext:
    context = authority.client()
    context.maximum_version = versions.get("only", ssl.TLSVersion.MAXIMUM_SUPPORTED)
    context.minimum_version = versions.get("only", ssl.TLSVersion.TLSv1_2)
    return context


def received(peer: Peer) -> str:
    """The field that the gateway put on top, but for its end."""
    peer.wait_for_messages(1)
    return " ".join(peer.messages[0].content.decode("latin-1").split("\r\n\t")[:3])


# -- clients that people have ----------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit"])
def test_smtplib_hands_in_mail_under_tls_with_a_certificate_it_verifies(
    gateway: Gateway, peer: Peer, authority: Authority, implicit: bool, version: ssl.TLSVersion
) -> None:
    context, ports = client_context(authority, only=version), ports_of(gateway)
    # It verifies the name that it connects to: ours is in no DNS.
    names = {NAME: "127.0.0.1"}
    with resolving(names):
        if implicit:
            client: smtplib.SMTP = smtplib.SMTP_SSL(NAME, ports.tls, "client.example",
                                                    context=context, timeout=10)  # fmt: skip
        else:
            client = smtplib.SMTP(NAME, ports.plain, "client.example", timeout=10)
            expect(client, "EHLO client.example")
            assert client.starttls(context=context)[0] == 220
    with client:
        offered = expect(client, "EHLO client.example")
        assert "STARTTLS" not in offered
        content = b"Subject: x\r\n\r\n" + b"0123456789" * 7 * 40_000 + b"\r\n.\r\n"
        content = content.replace(b"9012", b"\r\n.9")
        transact(client, "me@here.example", [RECIPIENT], content)
        transact(client, "me@here.example", [RECIPIENT], b"Subject: second\r\n\r\n")
    peer.wait_for_messages(2)
    events = gateway.wait_for("accepted", count=2)
    for event in events:
        assert event["tls"].startswith(version.name.replace("_", ".") + " ")
    name, cipher = events[0]["tls"].split(" ")
    said = f" (using {name} with cipher {cipher}) by {NAME} with ESMTPS id "
    assert said in received(peer)
    assert max(peer.messages, key=lambda m: len(m.content)).content.endswith(content)


@contextlib.contextmanager
def resolving(names: dict[str, str]) -> Iterator[None]:
    """Names that smtplib looks up in this process."""
    real = socket.getaddrinfo

    def lookup(host: str, *arguments: object, **more: object) -> object:
        return real(names.get(host, host), *arguments, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lookup)
        yield


@pytest.mark.parametrize(("flag", "port"), [("--tls", "plain"), ("--tls-on-connect", "tls")])
def test_swaks_sends_under_tls(gateway: Gateway, peer: Peer, flag: str, port: str) -> None:
    if "=== TLS supported" not in run([program("swaks"), "--support"]):
        pytest.skip("this swaks has no TLS: apt-get install libnet-ssleay-perl")
    where = ["--server", "127.0.0.1", "--port", str(getattr(ports_of(gateway), port))]
    who = ["--ehlo", "client.example", "--from", "me@here.example", "--to", RECIPIENT]
    transcript = run([program("swaks"), *where, *who, flag])
    started = re.search(r"TLS started with cipher (TLSv1.3):(\w+):", transcript)
    assert started is not None, transcript
    said = f"(using {started[1]} with cipher {started[2]}) by {NAME} with ESMTPS id "
    assert said in received(peer)


def test_openssl_verifies_our_chain_after_starttls(gateway: Gateway, authority: Authority) -> None:
    words = ["openssl", "s_client", "-connect", f"127.0.0.1:{ports_of(gateway).plain}"]
    words += ["-starttls", "smtp", "-CAfile", str(authority.ca), "-verify_return_error", "-quiet"]
    words += ["-verify_hostname", NAME]
    done = subprocess.run(words, input=b"QUIT\r\n", capture_output=True, timeout=20)
    assert b"221 2.0.0" in done.stdout, (done.stdout, done.stderr)


def test_postfix_that_demands_tls_relays_through_us_and_resumes_its_sessions(
    gateway: Gateway, peer: Peer, authority: Authority, open_directory: Path
) -> None:
    settings = {
        "smtp_tls_security_level": "encrypt",
        "smtp_tls_loglevel": "1",
        "smtp_tls_session_cache_database": f"btree:{open_directory}/postfix/state/scache",
        "smtp_connection_cache_on_demand": "no",
    }
    with Postfix(
        open_directory / "postfix", f"127.0.0.1:{ports_of(gateway).plain}", settings
    ) as mta:
        for n in range(3):
            mta.sendmail("me@here.example", [RECIPIENT], b"Subject: x\n\nhello\n")
            peer.wait_for_messages(n + 1)
        assert mta.running is not None
        assert mta.running.output.count("TLS connection established to 127.0.0.1") == 3
        # What Postfix says of a signature only where one was made: in a full handshake.
        assert mta.running.output.count(" server-digest ") == 1
    assert "with ESMTPS id" in received(peer)


def test_mail_in_the_clear_is_taken_as_before(gateway: Gateway, peer: Peer) -> None:
    with smtplib.SMTP("127.0.0.1", ports_of(gateway).plain, "client.example") as client:
        assert "STARTTLS" in expect(client, "EHLO client.example")
        transact(client, "me@here.example", [RECIPIENT], b"Subject: x\r\n\r\n")
    assert "with ESMTP id" in received(peer)
    assert "(using " not in received(peer)
    assert gateway.wait_for("accepted")[0]["tls"] == ""


# -- clients that nobody wants ---------------------------------------------------------------


def connected(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), 10)
    sock.settimeout(10)
    return sock


def reply(sock: socket.socket) -> bytes:
    said = b""
    while not re.search(rb"^\d{3} .*\r\n\Z", said, re.MULTILINE):
        chunk = sock.recv(4096)
        assert chunk, said
        said += chunk
    return said


def after_starttls(port: int, behind: bytes = b"") -> socket.socket:
    """In the clear still; `behind` left in one segment with STARTTLS."""
    sock = connected(port)
    reply(sock)
    sock.sendall(b"EHLO client.example\r\n")
    reply(sock)
    sock.sendall(b"STARTTLS\r\n" + behind)
    assert reply(sock) == b"220 2.0.0 ready for TLS\r\n"
    return sock


INJECTED = b"RSET\r\nMAIL FROM:<evil@x.example>\r\nRCPT TO:<you@there.example>\r\n"


def test_what_is_injected_behind_starttls_is_never_obeyed(
    gateway: Gateway, authority: Authority
) -> None:
    sock = after_starttls(ports_of(gateway).plain, INJECTED)
    with client_context(authority).wrap_socket(sock, server_hostname=NAME) as secured:
        secured.sendall(b"NOOP\r\n")
        assert reply(secured) == b"250 2.0.0 ok\r\n"
        secured.sendall(b"RCPT TO:<you@there.example>\r\n")
        assert reply(secured).startswith(b"503 ")
        secured.sendall(b"QUIT\r\n")
        assert reply(secured).startswith(b"221 ")
        # The end is said in TLS: nothing was cut off.
        assert secured.recv(1) == b""
        secured.unwrap()


def hung_up(sock: socket.socket) -> bytes:
    """All that still came until the other end closed."""
    came = b""
    with contextlib.suppress(ConnectionError):
        while chunk := sock.recv(4096):
            came += chunk
    return came


@pytest.mark.parametrize(
    "said",
    [b"EHLO client.example\r\n" * 3, b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 4000],
    ids=["SMTP", "HTTP", "zeros"],
)
def test_plain_text_where_tls_is_due_is_hung_up_on_and_logged_once(
    gateway: Gateway, said: bytes
) -> None:
    ports = ports_of(gateway)
    for sock in (connected(ports.tls), after_starttls(ports.plain)):
        with sock:
            sock.sendall(said)
            assert b"250" not in hung_up(sock)
    gateway.wait_until(lambda: gateway.log.count("127.0.0.1: no TLS: ") == 2)
    assert "Traceback" not in gateway.log


def test_a_handshake_that_stalls_or_trickles_is_hung_up_on_and_holds_up_nobody(
    gateway: Gateway, peer: Peer
) -> None:
    ports = ports_of(gateway)
    began = time.monotonic()
    stalled = [connected(ports.tls) for _ in range(20)]
    stalled += [after_starttls(ports.plain) for _ in range(20)]
    # The beginning of a hello, which never comes to its end.
    for sock in stalled[::2]:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
    with smtplib.SMTP("127.0.0.1", ports.plain, "client.example") as client:
        expect(client, "EHLO client.example")
        transact(client, "me@here.example", [RECIPIENT], b"Subject: x\r\n\r\n")
    while time.monotonic() - began < 1.5:
        for sock in stalled[::2]:
            sock.sendall(b"\x00")
        stalled[1].settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            stalled[1].recv(1)
    stalled[1].settimeout(10)
    for sock in stalled:
        hung_up(sock)
        sock.close()
    assert time.monotonic() - began < 8
    gateway.wait_until(lambda: gateway.log.count("127.0.0.1: no TLS: timed out") == 40)


def test_versions_that_are_too_old_are_refused(
    start_gateway: StartGateway, authority: Authority
) -> None:
    gateway = start_gateway(
        *flags_for(authority), "--listen", "tls:127.0.0.1:0", "--tls-min", "1.3"
    )
    context = client_context(authority, only=ssl.TLSVersion.TLSv1_2)
    with connected(ports_of(gateway).tls) as sock, pytest.raises(ssl.SSLError, match="PROTOCOL"):
        context.wrap_socket(sock, server_hostname=NAME)
    gateway.wait_until(lambda: "127.0.0.1: no TLS: unsupported protocol" in gateway.log)


def test_a_gateway_that_stops_says_so_under_tls_and_not_in_a_handshake(
    gateway: Gateway, authority: Authority
) -> None:
    ports = ports_of(gateway)
    half_way = after_starttls(ports.plain)
    sock = connected(ports.tls)
    secured = client_context(authority).wrap_socket(sock, server_hostname=NAME)
    reply(secured)
    gateway.process.send_signal(signal.SIGTERM)
    assert reply(secured).startswith(b"421 4.3.2")
    assert secured.recv(1) == b""
    assert b"421" not in hung_up(half_way)
    assert gateway.process.popen.wait(10) == 0
    assert "no TLS" not in gateway.log


def test_handshakes_are_counted_by_how_they_ended(
    start_gateway: StartGateway, authority: Authority
) -> None:
    page = free_port()
    more = ["--listen", "tls:127.0.0.1:0", "--metrics", f"127.0.0.1:{page}", "--workers", "2"]
    gateway = start_gateway(*flags_for(authority), *more)
    ports = ports_of(gateway)

    def counted() -> tuple[float, float]:
        told = read_metrics(page)
        name = "client_tls_handshakes_total"
        return told[name, "done"], told[name, "failed"]

    assert counted() == (0, 0)
    for words in (["-starttls", "smtp", "-connect", f"127.0.0.1:{ports.plain}"],
                  ["-connect", f"127.0.0.1:{ports.tls}"]):  # fmt: skip
        words = ["openssl", "s_client", *words, "-quiet", "-tls1_2"]
        done = subprocess.run(words, input=b"QUIT\r\n", capture_output=True, timeout=20)
        assert b"221 2.0.0" in done.stdout, (done.stdout, done.stderr)
    assert counted() == (2, 0)
    # One that does not trust us, one that is too old, and one that leaves.
    with connected(ports.tls) as sock, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(sock, server_hostname=NAME)
    with connected(ports.tls) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        hung_up(sock)
    after_starttls(ports.plain).close()
    gateway.wait_until(lambda: gateway.log.count("127.0.0.1: no TLS: ") == 3)
    assert counted() == (2, 3)


# -- the certificate -------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_brings_a_new_certificate_and_a_bad_one_does_not_take_its_place(
    start_gateway: StartGateway, authority: Authority, tmp_path: Path, workers: str
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(of: Authority) -> None:
        certificate.write_bytes(of.certificate.read_bytes())
        key.touch(mode=0o600)
        key.write_bytes(of.key.read_bytes())

    install(authority)
    files = ["--tls-cert", str(certificate), "--tls-key", str(key)]
    gateway = start_gateway(*files, "--listen", "tls:127.0.0.1:0", "--workers", workers)
    port = ports_of(gateway).tls
    first = certificate_at(port)

    install(authority.certify("second.example"))
    gateway.process.send_signal(signal.SIGHUP)
    await_true(lambda: first not in {certificate_at(port) for _ in range(6)}, lambda: gateway.log)
    second = certificate_at(port)

    certificate.write_bytes(b"half a fi")
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_until(lambda: "clients are shown the certificate from before" in gateway.log)
    assert {certificate_at(port) for _ in range(6)} == {second}
    # One that dies is started with what can be used.
    os.kill(gateway.worker_pids[0], signal.SIGKILL)
    gateway.wait_until(lambda: "it is started again" in gateway.log)
    gateway.wait_until(lambda: len(gateway.worker_pids) == int(workers))
    assert {certificate_at(port) for _ in range(6)} == {second}


def test_a_start_with_a_bad_certificate_ends_with_status_2_and_one_line(
    tmp_path: Path, authority: Authority
) -> None:
    gateway = Gateway(tmp_path / "gateway", *flags_for(authority.certify("other.example")))
    other = tmp_path / "encrypted.key"
    openssl("ec", "-in", authority.key, "-aes128", "-passout", "pass:x", "-out", other)
    running = gateway.launch("--tls-key", str(other))
    assert running.popen.wait(20) == 2
    [line] = [line for line in running.output.splitlines() if "error" in line]
    assert f"--tls-key {other}: it is encrypted" in line
