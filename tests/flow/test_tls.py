"""TLS and AUTH of the gateway with real servers: a CA made here, Postfix, Dovecot and Exim."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.authority import Authority, make_authority
from support.clients import submit
from support.gateway import Event, Gateway, StartGateway
from support.peer import Peer
from support.processes import free_port
from support.servers import Dovecot, Exim, Postfix, Unbound

RECIPIENT = "you@dest.example"
PASSWORD = "right, ünd long"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Vouches for the smart host 127.0.0.1."""
    return make_authority(tmp_path_factory.mktemp("authority"), "127.0.0.1")


def in_postfix(authority: Authority) -> dict[str, str]:
    return {
        "smtpd_tls_security_level": "may",
        "smtpd_tls_cert_file": str(authority.certificate),
        "smtpd_tls_key_file": str(authority.key),
        "smtpd_tls_received_header": "yes",
        "smtpd_tls_loglevel": "1",
    }


@pytest.fixture
def postfix(open_directory: Path, peer: Peer, authority: Authority) -> Iterator[Postfix]:
    """Offers STARTTLS; what it takes goes on to `peer`."""
    with Postfix(open_directory / "postfix", peer.spec, in_postfix(authority)) as running:
        yield running


def send_one(gateway: Gateway, recipient: str = RECIPIENT) -> Event:
    """What became of one message in its first attempt."""
    submit(gateway.port, "me@here.example", [recipient])
    gateway.wait_until(
        lambda: [e for e in gateway.events(recipient=recipient) if "stage" in e], "an attempt"
    )
    return next(e for e in gateway.events(recipient=recipient) if "stage" in e)


@pytest.mark.parametrize(
    ("flags", "kind", "tls"),
    [
        ([], "delivered", "unverified"),
        (["--tls", "off"], "delivered", ""),
        (["--tls", "encrypt"], "delivered", "unverified"),
        (["--tls", "verify", "--tls-ca", "CA"], "delivered", "verified"),
        (["--tls", "verify"], "deferred", ""),
        (["--tls", "encrypt", "--tls-min", "1.3"], "delivered", "unverified"),
    ],
    ids=" ".join,
)
def test_postfix_is_spoken_to_as_the_level_has_it(
    flags: list[str],
    kind: str,
    tls: str,
    start_gateway: StartGateway,
    postfix: Postfix,
    peer: Peer,
    authority: Authority,
) -> None:
    flags = [str(authority.ca) if flag == "CA" else flag for flag in flags]
    event = send_one(start_gateway("--smarthost", postfix.spec, *flags))
    assert event["event"] == kind, event
    version, _, rest = event["tls"].partition(" ")
    assert rest.endswith(tls)
    assert version == ("TLSv1.3" if tls else "")
    if kind == "deferred":
        assert event["stage"] == "starttls"
        assert "4.7.5 TLS failed: unable to get local issuer certificate" in event["reply"]
        assert peer.messages == []
    else:
        peer.wait_for_messages(1)
        assert (b"(using TLSv1.3" in peer.messages[0].content) is bool(tls)


def test_sessions_with_postfix_are_resumed(start_gateway: StartGateway, postfix: Postfix) -> None:
    gateway = start_gateway("--smarthost", postfix.spec, "--messages-per-connection", "1")
    for n in range(5):
        assert send_one(gateway, f"u{n}@dest.example")["event"] == "delivered"
    assert postfix.running is not None
    log = postfix.running.output
    assert log.count("TLS connection established") == 5, log
    # What Postfix says of a signature only where one was made: in a full handshake.
    assert log.count(" server-digest ") == 1, log


@pytest.mark.parametrize(
    ("mechanism", "password"),
    [
        ("plain", PASSWORD),
        ("login", PASSWORD),
        ("cram-md5", PASSWORD),
        ("scram-sha-256", PASSWORD),
        ("plain", "wrong"),
        ("scram-sha-256", "wrong"),
    ],
)
def test_postfix_with_dovecot_is_logged_in_to(
    mechanism: str,
    password: str,
    start_gateway: StartGateway,
    open_directory: Path,
    tmp_path: Path,
    peer: Peer,
    authority: Authority,
) -> None:
    directory = open_directory / "postfix"
    socket = directory / "queue/private/auth"
    auth = tmp_path / "auth"
    auth.touch(mode=0o600)
    auth.write_text(f"127.0.0.1 me {password}\n")
    with ExitStack() as stack:
        user = "me", f"{{PLAIN}}{PASSWORD}"
        postfix = Postfix(directory, peer.spec, in_postfix(authority) | Dovecot.SMTPD)
        stack.enter_context(Dovecot(open_directory / "dovecot", socket, mechanism, user))
        stack.enter_context(postfix)
        gateway = start_gateway(
            *("--smarthost", postfix.spec, "--smarthost-auth", str(auth)),
            *("--tls", "verify", "--tls-ca", str(authority.ca)),
        )
        event = send_one(gateway)
        if password == "wrong":
            assert event["event"] == "deferred"
            assert event["stage"] == "auth"
            assert event["reply"].startswith("535 5.7.8")
            assert peer.messages == []
            assert PASSWORD not in gateway.log + str(gateway.events())
        else:
            assert event["event"] == "delivered", event
            peer.wait_for_messages(1)


def test_a_password_does_not_go_where_there_is_no_tls(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    auth = tmp_path / "auth"
    auth.touch(mode=0o600)
    auth.write_text("127.0.0.1 me secret\n")
    with Peer(extensions=("AUTH PLAIN LOGIN",)) as peer:
        flags = ["--smarthost", peer.spec, "--smarthost-auth", str(auth)]
        event = send_one(start_gateway(*flags))
        assert event["event"] == "deferred"
        assert event["stage"] == "auth"
        assert "AUTH" not in peer.verbs()
        allowed = send_one(start_gateway(*flags, "--auth-without-tls", "yes"))
        assert allowed["event"] == "delivered"
        assert peer.messages[0].user


def test_implicit_tls_to_postfix(
    start_gateway: StartGateway, open_directory: Path, peer: Peer, authority: Authority
) -> None:
    settings = in_postfix(authority) | {"smtpd_tls_wrappermode": "yes"}
    with Postfix(open_directory / "postfix", peer.spec, settings) as postfix:
        gateway = start_gateway(
            *("--smarthost", f"tls:{postfix.spec}"),
            *("--tls", "verify", "--tls-ca", str(authority.ca)),
        )
        event = send_one(gateway)
        assert event["event"] == "delivered", event
        assert event["tls"].endswith(" verified")


def test_exim_is_spoken_to_in_tls(
    start_gateway: StartGateway, open_directory: Path, peer: Peer, authority: Authority
) -> None:
    """Another TLS library than ours: Debian builds Exim with GnuTLS."""
    copies = open_directory / "exim.pem", open_directory / "exim.key"
    for source, copy in zip((authority.certificate, authority.key), copies, strict=True):
        shutil.copyfile(source, copy)
        copy.chmod(0o644)
    with Exim(open_directory / "exim", peer.spec, copies) as exim:
        flags = ["--smarthost", exim.spec, "--tls", "verify", "--tls-ca", str(authority.ca)]
        gateway = start_gateway(*flags, "--messages-per-connection", "1")
        for n in range(3):
            event = send_one(gateway, f"u{n}@dest.example")
            assert event["event"] == "delivered", event
            assert event["tls"].endswith(" verified")
        peer.wait_for_messages(3)


def test_each_destination_has_the_level_its_table_says(
    start_gateway: StartGateway, open_directory: Path, tmp_path: Path, authority: Authority
) -> None:
    """By MX: what is verified is the exchange's name."""
    right = authority.certify("mx.right.example")
    hosts = {"127.0.0.2": right, "127.0.0.3": right, "127.0.0.4": None}
    port = free_port(*hosts)
    zone = []
    for address, name in zip(hosts, ("right", "wrong", "bare"), strict=True):
        zone.append(f"mx.{name}.example. 300 IN A {address}")
        zone += [f"{d}{name}.example. 300 IN MX 1 mx.{name}.example." for d in ("", "strict-")]
    config = tmp_path / "gw.toml"
    tables = [f'[destination."strict-{n}.example"]\ntls = "verify"\n' for n in ("right", "wrong")]
    config.write_text("".join(tables) + '[destination."strict-bare.example"]\ntls = "encrypt"\n')
    with ExitStack() as stack:
        for address, certified in hosts.items():
            tls = certified.server() if certified else None
            stack.enter_context(Peer(address, port, tls=tls))
        unbound = stack.enter_context(Unbound(open_directory / "unbound", zone))
        gateway = start_gateway(
            *("--config", str(config), "--tls-ca", str(authority.ca)),
            *("--resolver", unbound.spec, "--smtp-port", str(port), "--deny-host", "none"),
        )
        expected = {
            "right": ("delivered", "unverified"),
            "strict-right": ("delivered", "verified"),
            "wrong": ("delivered", "unverified"),
            "strict-wrong": ("deferred", ""),
            "bare": ("delivered", ""),
            "strict-bare": ("deferred", ""),
        }
        for name, (kind, tls) in expected.items():
            event = send_one(gateway, f"you@{name}.example")
            assert (event["event"], event["tls"].rpartition(" ")[2]) == (kind, tls), event


def test_a_file_of_passwords_that_others_may_read_stops_the_start(tmp_path: Path) -> None:
    auth = tmp_path / "auth"
    auth.write_text("127.0.0.1 me secret\n")
    auth.chmod(0o644)
    gateway = Gateway(
        tmp_path, "--smarthost", "127.0.0.1", "--smarthost-auth", str(auth), "--tls", "encrypt"
    )
    assert gateway.launch().popen.wait(20) == 2
    assert "others may read it (mode 0644)" in gateway.log
