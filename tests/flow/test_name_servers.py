"""MX routing with real name servers: which exchange is asked, and which is left alone.

The exchanges are peers on addresses of loopback, all on one port.
"""

import email
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.clients import submit
from support.gateway import StartGateway, expected_once
from support.peer import DROP, Peer
from support.processes import free_port
from support.servers import Dnsmasq, Unbound

#: Exchange → address.  `home` takes the mail for the senders: the DSNs.
HOSTS = {
    "first.example": "127.0.0.2",
    "second.example": "127.0.0.3",
    "home.example": "127.0.0.4",
    "bare.example": "127.0.0.5",
}
#: Domain, preference, exchange.
EXCHANGES = (
    ("dest.example", 10, "first.example"),
    ("dest.example", 20, "second.example"),
    ("even.example", 10, "first.example"),
    ("even.example", 10, "second.example"),
    ("here.example", 10, "home.example"),
    ("dangling.example", 10, "nowhere.example"),
)
SENDER = "me@here.example"

Peers = dict[str, Peer]


@pytest.fixture
def peers() -> Iterator[Peers]:
    """A peer for each of HOSTS, by the first label of its name."""
    port = free_port(*HOSTS.values())
    with ExitStack() as stack:
        yield {
            name.partition(".")[0]: stack.enter_context(Peer(address, port, name=name))
            for name, address in HOSTS.items()
        }


def zone() -> list[str]:
    records = [f"{name}. 300 IN A {address}" for name, address in HOSTS.items()]
    records += [f"{domain}. 300 IN MX {n} {host}." for domain, n, host in EXCHANGES]
    return [*records, "null.example. 300 IN MX 0 ."]


def routed_by(name_server: Unbound | Dnsmasq, peers: Peers) -> list[str]:
    """Flags of a gateway that finds its exchanges by asking `name_server`."""
    port = str(peers["first"].port)
    return ["--resolver", name_server.spec, "--smtp-port", port, "--deny-host", "none"]


@pytest.fixture
def unbound(open_directory: Path) -> Iterator[Unbound]:
    with Unbound(open_directory / "unbound", zone()) as running:
        yield running


@pytest.fixture
def dnsmasq(open_directory: Path) -> Iterator[Dnsmasq]:
    with Dnsmasq(open_directory / "dnsmasq", EXCHANGES, [*HOSTS.items()]) as running:
        yield running


@pytest.fixture(params=["unbound", "dnsmasq"])
def flags(request: pytest.FixtureRequest, peers: Peers) -> list[str]:
    return routed_by(request.getfixturevalue(request.param), peers)


@pytest.fixture
def unbound_flags(unbound: Unbound, peers: Peers) -> list[str]:
    return routed_by(unbound, peers)


def test_mail_goes_to_the_most_preferred_exchange(
    start_gateway: StartGateway, flags: list[str], peers: Peers
) -> None:
    gateway = start_gateway(*flags)
    recipients = [f"user{n}@dest.example" for n in range(5)]
    for recipient in recipients:
        submit(gateway.port, SENDER, [recipient])
    peers["first"].wait_for_messages(5)
    expected_once(recipients, peers["first"].arrived())
    assert peers["second"].connections == 0
    [delivered] = gateway.wait_for("delivered", recipient="user0@dest.example")
    assert delivered["exchange"].rstrip(".") == "first.example"
    assert delivered["address"].startswith("127.0.0.2")


def test_a_domain_without_mx_gets_its_mail_at_its_own_address(
    start_gateway: StartGateway, flags: list[str], peers: Peers
) -> None:
    gateway = start_gateway(*flags)
    submit(gateway.port, SENDER, ["user@bare.example"])
    peers["bare"].wait_for_messages(1)


def test_a_domain_that_does_not_exist_bounces_at_once(
    start_gateway: StartGateway, flags: list[str], peers: Peers
) -> None:
    gateway = start_gateway(*flags)
    submit(gateway.port, SENDER, ["user@missing.example"])
    peers["home"].wait_for_messages(1)
    assert status_in(peers["home"].messages[0].content) == "5.1.2"


def test_a_null_mx_bounces_at_once(
    start_gateway: StartGateway, unbound_flags: list[str], peers: Peers
) -> None:
    gateway = start_gateway(*unbound_flags)
    submit(gateway.port, SENDER, ["user@null.example"])
    peers["home"].wait_for_messages(1)
    assert status_in(peers["home"].messages[0].content) == "5.1.10"


def status_in(report: bytes) -> str:
    """Status of the first recipient a DSN reports (RFC 3464)."""
    status = email.message_from_bytes(report).get_payload()[1]
    return status.get_payload()[1]["Status"]


def test_each_of_several_destinations_gets_its_part_of_a_message(
    start_gateway: StartGateway, flags: list[str], peers: Peers
) -> None:
    gateway = start_gateway(*flags)
    recipients = ["a@dest.example", "b@dest.example", "c@here.example", "d@bare.example"]
    submit(gateway.port, SENDER, recipients)
    gateway.wait_for("delivered", count=4)
    expected_once(recipients[:2], peers["first"].arrived())
    expected_once(recipients[2:3], peers["home"].arrived())
    expected_once(recipients[3:], peers["bare"].arrived())


def test_equal_preferences_share_the_mail(
    start_gateway: StartGateway, unbound_flags: list[str], peers: Peers
) -> None:
    gateway = start_gateway(*unbound_flags, "--messages-per-connection", "1")
    recipients = [f"user{n}@even.example" for n in range(40)]
    for recipient in recipients:
        submit(gateway.port, SENDER, [recipient])
    gateway.wait_for("delivered", count=40)
    expected_once(recipients, peers["first"].arrived() + peers["second"].arrived())
    # By chance alone, 40 messages miss one of the two once in 10**12 runs.
    assert peers["first"].messages
    assert peers["second"].messages


def test_a_name_server_that_refuses_to_answer_defers_and_never_bounces(
    start_gateway: StartGateway, dnsmasq: Dnsmasq, peers: Peers
) -> None:
    gateway = start_gateway(*routed_by(dnsmasq, peers))
    submit(gateway.port, SENDER, ["user@unknown.invalid"])
    [deferred] = gateway.wait_for("deferred", recipient="user@unknown.invalid")
    assert deferred["reply"].startswith("4")


# -- one of two next hops is dead ---------------------------------------------------------


@pytest.mark.parametrize("death", ["refuses connections", "answers 421", "hangs up"])
def test_a_dead_exchange_is_passed_over_and_left_alone(
    start_gateway: StartGateway, unbound_flags: list[str], peers: Peers, death: str
) -> None:
    first, second = peers["first"], peers["second"]
    if death == "refuses connections":
        first.stop()
    else:
        first.always("CONNECT", DROP if death == "hangs up" else ("421 4.3.2 down", DROP))
    gateway = start_gateway(*unbound_flags, "--mx-bad-time", "1h..1h", "--retry", "300ms")
    recipients = [f"user{n}@dest.example" for n in range(10)]
    for n, recipient in enumerate(recipients):
        submit(gateway.port, SENDER, [recipient])
        second.wait_for_messages(n + 1)
    expected_once(recipients, second.arrived())
    assert first.connections <= 1


def test_a_dead_exchange_is_used_again_once_its_mark_has_expired(
    start_gateway: StartGateway, unbound_flags: list[str], peers: Peers
) -> None:
    first, second = peers["first"], peers["second"]
    first.once("CONNECT", ("421 4.3.2 down", DROP))
    flags = ["--mx-bad-time", "2s..2s", "--messages-per-connection", "1", "--retry", "300ms"]
    gateway = start_gateway(*unbound_flags, *flags)
    deadline = time.monotonic() + 10
    sent = 0
    while not first.messages:
        assert time.monotonic() < deadline, "the exchange that came back was never used again"
        submit(gateway.port, SENDER, [f"user{sent}@dest.example"])
        sent += 1
        gateway.wait_for("delivered", count=sent)
    assert second.messages, "the dead exchange's mail went nowhere meanwhile"
    failed_at, used_again_at = first.connected_at[:2]
    # A mark may end some 15 % early, so that many do not end together.
    assert 1.6 < used_again_at - failed_at < 5
    expected_once(
        [f"user{n}@dest.example" for n in range(sent)], first.arrived() + second.arrived()
    )


def test_when_all_exchanges_are_dead_mail_waits_and_arrives_later(
    start_gateway: StartGateway, unbound_flags: list[str], peers: Peers
) -> None:
    peers["first"].stop()
    peers["second"].stop()
    gateway = start_gateway(*unbound_flags, "--mx-bad-time", "1s..1s", "--retry", "500ms")
    recipients = [f"user{n}@dest.example" for n in range(5)]
    for recipient in recipients:
        submit(gateway.port, SENDER, [recipient])
    gateway.wait_for("deferred")
    peers["second"].start()
    peers["second"].wait_for_messages(5)
    expected_once(recipients, peers["second"].arrived())
    assert not gateway.events("bounced")


def test_a_dead_smart_host_is_passed_over_for_the_next_one(start_gateway: StartGateway) -> None:
    with Peer() as dead, Peer() as living:
        dead.stop()
        flags = ["--smarthost", dead.spec, "--smarthost", living.spec, "--mx-bad-time", "1h..1h"]
        gateway = start_gateway(*flags)
        submit(gateway.port, SENDER, ["user@dest.example"])
        living.wait_for_messages(1)


def test_an_exchange_on_loopback_is_denied_unless_allowed(
    start_gateway: StartGateway, unbound: Unbound, peers: Peers
) -> None:
    port = str(peers["first"].port)
    gateway = start_gateway("--resolver", unbound.spec, "--smtp-port", port)
    submit(gateway.port, "", ["user@dest.example"])
    [bounced] = gateway.wait_for("bounced")
    assert "5.4.4" in bounced["reply"]
    assert all(peer.connections == 0 for peer in peers.values())


# -- address literals -------------------------------------------------------------------------


def test_mail_for_an_address_literal_is_carried_to_that_address(
    start_gateway: StartGateway, unbound_flags: list[str], peers: Peers
) -> None:
    gateway = start_gateway(*unbound_flags)
    submit(gateway.port, SENDER, ["user@[127.0.0.5]", "user@dest.example"])
    peers["bare"].wait_for_messages(1)
    expected_once(["user@[127.0.0.5]"], peers["bare"].arrived())
    peers["first"].wait_for_messages(1)


def test_a_literal_at_a_denied_address_bounces(
    start_gateway: StartGateway, unbound: Unbound, peers: Peers
) -> None:
    port = str(peers["bare"].port)
    gateway = start_gateway("--resolver", unbound.spec, "--smtp-port", port)
    submit(gateway.port, "", ["user@[127.0.0.5]"])
    [bounced] = gateway.wait_for("bounced")
    assert "5.4.4" in bounced["reply"]
    assert peers["bare"].connections == 0


def test_a_literal_that_is_our_own_address_bounces_as_a_loop(
    start_gateway: StartGateway, unbound: Unbound
) -> None:
    port = str(free_port())
    listen = ["--listen", f"127.0.0.1:{port}", "--smtp-port", port]
    gateway = start_gateway(*listen, "--resolver", unbound.spec, "--deny-host", "none")
    submit(gateway.port, "", ["user@[127.0.0.1]"])
    [bounced] = gateway.wait_for("bounced")
    assert "5.4.6" in bounced["reply"]
