"""`gwrelay suspend`, and the flags that limit what a site gets, as the next hop sees them."""

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from support.clients import submit
from support.commands import gwrelay
from support.dns_server import DNSServer
from support.gateway import Gateway, StartGateway
from support.peer import Peer

ZONE = {
    "one.example": {"MX": ["10 mx.one.example."]},
    "two.example": {"MX": ["10 mx.one.example."]},
    "mx.one.example": {"A": ["127.0.0.1"]},
}


@pytest.fixture
def names() -> Iterator[DNSServer]:
    with DNSServer(ZONE) as running:
        yield running


@pytest.fixture
def where(names: DNSServer, peer: Peer) -> list[str]:
    return [
        *("--resolver", names.address, "--smtp-port", str(peer.port)),
        *("--deny-host", "none", "--jitter", "0%"),
    ]


def suspend(*arguments: str, at: Gateway, status: int = 0) -> Any:
    done = gwrelay("suspend", *arguments, "--json", status=status, at=at)
    return json.loads(done.stdout) if done.stdout else done.stderr.decode()


def text(*arguments: str, at: Gateway) -> str:
    return gwrelay(*arguments, at=at).stdout.decode()


def wait_until_parked(gateway: Gateway, count: int) -> None:
    def parked() -> bool:
        listed = suspend("list", at=gateway)["suspended"]
        return sum(one["parked"] for one in listed) == count

    gateway.wait_until(parked, f"{count} to be parked")


def test_a_suspended_domain_waits_and_says_why_and_goes_when_it_is_cancelled(
    start_gateway: StartGateway, where: list[str], peer: Peer
) -> None:
    gateway = start_gateway(*where)
    added = suspend("add", "One.Example.", "--for", "2h", "--reason", "on strike", at=gateway)
    assert (added["kind"], added["name"], added["reason"]) == ("domain", "one.example", "on strike")
    assert added["until"] - added["since"] == 7200
    submit(gateway.port, "me@a.example", ["u@one.example", "v@two.example"])
    peer.wait_for_messages(1)
    wait_until_parked(gateway, 1)
    assert list(peer.arrived()) == ["v@two.example"], "though it shares the exchange"
    [mail] = json.loads(f"[{text('queue', 'list', '--json', at=gateway)}]")
    assert mail["why"] == "domain:one.example is suspended by an operator: on strike"
    [part] = json.loads(text("explain", mail["id"], "--json", at=gateway))["parts"]
    assert part["blocker"]["kind"] == "suspended"
    assert part["blocker"]["until"] == added["until"]
    assert "suspended since" in text("suspend", "list", at=gateway)
    assert suspend("cancel", "domain:one.example", at=gateway) == {"ended": 1}
    peer.wait_for_messages(2)
    assert suspend("list", at=gateway) == {"suspended": []}


def test_a_suspended_exchange_keeps_all_its_domains_waiting_over_a_restart(
    start_gateway: StartGateway, where: list[str], peer: Peer
) -> None:
    gateway = start_gateway(*where)
    suspend("add", "site:mx.one.example", at=gateway)
    submit(gateway.port, "me@a.example", ["u@one.example", "v@two.example"])
    wait_until_parked(gateway, 2)
    gateway.kill()
    gateway.start()
    wait_until_parked(gateway, 2)
    assert not peer.connections
    assert suspend("cancel", "--all", at=gateway) == {"ended": 1}
    peer.wait_for_messages(2)


def test_a_suspension_ends_by_itself(
    start_gateway: StartGateway, where: list[str], peer: Peer
) -> None:
    gateway = start_gateway(*where)
    added = suspend("add", "one.example", "--for", "1s", at=gateway)
    submit(gateway.port, "me@a.example", ["u@one.example"])
    [message] = peer.wait_for_messages(1)
    assert message.at >= added["until"]
    assert "the suspension of domain:one.example is over" in gateway.log


def test_without_a_gateway_what_will_be_suspended_is_listed(
    start_gateway: StartGateway, where: list[str]
) -> None:
    gateway = start_gateway(*where)
    suspend("add", "one.example", "--for", "1h", at=gateway)
    gateway.terminate()
    [one] = suspend("list", at=gateway, status=4)["suspended"]
    assert (one["kind"], one["name"], one["parked"]) == ("domain", "one.example", None)
    gwrelay("suspend", "add", "two.example", at=gateway, status=4)


MISTAKES = {
    "no such kind": (("add", "tenant:x"), 2, "write domain:example.com, or site:"),
    "no domain": (("add", "domain:a b"), 2, "is not a domain"),
    "no duration": (("add", "one.example", "--for", "soon"), 2, "--for: 'soon'"),
    "nothing named": (("cancel",), 2, "name what is suspended, or give --all"),
    "both": (("cancel", "one.example", "--all"), 2, "name what is suspended, or give --all"),
    "not suspended": (("cancel", "one.example"), 1, "not suspended: domain:one.example"),
    "nothing is": (("cancel", "--all"), 1, "nothing is suspended"),
}


def test_mistakes_are_told_and_change_nothing(
    start_gateway: StartGateway, where: list[str]
) -> None:
    gateway = start_gateway(*where)
    for words, status, said in MISTAKES.values():
        done = gwrelay("suspend", *words, at=gateway, status=status)
        assert said in done.stderr.decode(), words
    assert suspend("list", at=gateway) == {"suspended": []}


def test_a_file_of_suspensions_that_makes_no_sense_keeps_serve_from_starting(
    start_gateway: StartGateway, where: list[str], tmp_path: Path
) -> None:
    gateway = start_gateway(*where)
    gateway.terminate()
    file = gateway.spool / "suspensions.json"
    file.write_text("[{")
    done = gwrelay("serve", *where, "--listen", "127.0.0.1:0", at=gateway, status=2)
    assert "mend it, or remove it to end all suspensions" in done.stderr.decode()


# -- rates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--site-message-rate", "--global-message-rate"])
def test_messages_go_no_faster_than_their_rate_over_one_session(
    start_gateway: StartGateway, peer: Peer, flag: str
) -> None:
    gateway = start_gateway("--smarthost", peer.spec, flag, "5/s", "--site-concurrency", "1")
    for n in range(4):
        submit(gateway.port, "me@a.example", [f"u{n}@one.example"])
    messages = peer.wait_for_messages(4)
    times = sorted(message.at for message in messages)
    # The clock of the peer sees them up to a burst early.
    assert all(later - earlier > 0.15 for earlier, later in pairwise(times)), times
    assert peer.connections == 1


def test_connections_are_opened_no_faster_than_their_rate(
    start_gateway: StartGateway, peer: Peer
) -> None:
    flags = ["--site-connection-rate", "5/s", "--messages-per-connection", "1"]
    gateway = start_gateway("--smarthost", peer.spec, *flags)
    for n in range(4):
        submit(gateway.port, "me@a.example", [f"u{n}@one.example"])
    messages = peer.wait_for_messages(4)
    assert peer.connections == 4
    times = sorted(message.at for message in messages)
    assert times[-1] - times[0] > 0.5


def test_what_waits_for_a_rate_says_so(start_gateway: StartGateway, peer: Peer) -> None:
    gateway = start_gateway("--smarthost", peer.spec, "--site-message-rate", "1/h")
    for n in range(2):
        submit(gateway.port, "me@a.example", [f"u{n}@one.example"])
    peer.wait_for_messages(1)
    [mail] = json.loads(f"[{text('queue', 'list', '--json', at=gateway)}]")
    [part] = json.loads(text("explain", mail["id"], "--json", at=gateway))["parts"]
    assert part["blocker"]["kind"] == "rate"
    assert "--site-message-rate" in part["blocker"]["text"]
    assert 3000 < part["blocker"]["until"] - time.time() <= 3600
    assert "limits: 20 sessions, 1 messages per hour" in text("explain", mail["id"], at=gateway)


def test_a_destination_has_limits_of_its_own_in_the_file(
    start_gateway: StartGateway, where: list[str], peer: Peer, tmp_path: Path
) -> None:
    file = tmp_path / "gwrelay.toml"
    file.write_text('[destination."one.example"]\nsite-message-rate = "1/h"\n')
    gateway = start_gateway(*where, "--config", str(file), "--rollup", "domain")
    for n in range(3):
        submit(gateway.port, "me@a.example", [f"u{n}@one.example"])
        submit(gateway.port, "me@a.example", [f"u{n}@two.example"])
    peer.wait_for(lambda p: sum("two" in one for one in p.arrived()) == 3)
    assert sum("one.example" in one for one in peer.arrived()) == 1
