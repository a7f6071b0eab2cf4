"""With several workers, what one site gets is what the flags say for all of them together."""

import json
import os
import signal
import threading
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest

from support.clients import submit
from support.commands import gwrelay
from support.gateway import Gateway, StartGateway, expected_once
from support.peer import STALL, Peer

WORKERS = ["--workers", "3"]


@pytest.fixture
def recipients() -> list[str]:
    return [f"u{n}@b.example" for n in range(12)]


def status(gateway: Gateway) -> Any:
    return json.loads(gwrelay("status", "--json", at=gateway).stdout)


def submit_at_once(gateway: Gateway, recipients: list[str]) -> None:
    """From as many connections, so that all workers have some."""
    threads = [
        threading.Thread(target=submit, args=(gateway.port, "me@a.example", [one]))
        for one in recipients
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_all_workers_together_have_no_more_sessions_with_a_site_than_it_may_have(
    start_gateway: StartGateway, peer: Peer, recipients: list[str]
) -> None:
    peer.always("MAIL", STALL)
    limits = ["--site-concurrency", "4", "--site-concurrency-initial", "4"]
    gateway = start_gateway("--smarthost", peer.spec, *WORKERS, *limits)
    submit_at_once(gateway, recipients)
    peer.wait_for(lambda p: p.verbs().count("MAIL") >= 4)
    held = status(gateway)
    assert sum(worker["waiting"] + worker["relaying"] > 0 for worker in held["workers"]) >= 2
    assert peer.most_open == 4
    listed = gwrelay("queue", "list", "--json", at=gateway).stdout.decode().splitlines()
    whys = {json.loads(line)["why"] for line in listed}
    assert any("may have" in why and "in use" in why for why in whys), whys


def test_sessions_that_idle_make_way_for_those_of_other_workers(
    start_gateway: StartGateway, peer: Peer, recipients: list[str]
) -> None:
    limits = ["--site-concurrency", "1", "--idle-timeout", "1h"]
    gateway = start_gateway("--smarthost", peer.spec, *WORKERS, *limits)
    for recipient in recipients:
        submit(gateway.port, "me@a.example", [recipient])
    peer.wait_for_messages(len(recipients))
    expected_once(recipients, peer.arrived())
    # The peer may see the beginning of one before the end of another.
    assert peer.most_open <= 2


def test_a_worker_that_is_killed_leaves_its_sessions_to_others(
    start_gateway: StartGateway, peer: Peer, recipients: list[str]
) -> None:
    peer.once("MAIL", STALL)
    gateway = start_gateway("--smarthost", peer.spec, *WORKERS, "--site-concurrency", "1")
    submit_at_once(gateway, recipients)
    peer.wait_for(lambda p: "MAIL" in p.verbs())
    workers = status(gateway)["workers"]
    numbers = [one["worker"] for one in workers]
    [busy] = [numbers.index(one["worker"]) for one in workers if one["relayers"]]
    os.kill(gateway.worker_pids[busy], signal.SIGKILL)
    peer.wait_for_messages(len(recipients))
    expected_once(recipients, peer.arrived())


@pytest.mark.parametrize("flag", ["--site-message-rate", "--global-message-rate"])
def test_a_rate_is_that_of_all_workers(
    start_gateway: StartGateway, peer: Peer, recipients: list[str], flag: str
) -> None:
    gateway = start_gateway("--smarthost", peer.spec, *WORKERS, flag, "5/s")
    submit_at_once(gateway, recipients[:8])
    messages = peer.wait_for_messages(8)
    times = sorted(message.at for message in messages)
    assert all(later - earlier > 0.15 for earlier, later in pairwise(times)), times


def test_a_host_that_one_worker_finds_down_is_left_alone_by_all(
    start_gateway: StartGateway, recipients: list[str]
) -> None:
    with Peer() as peer:
        spec = peer.spec
    gateway = start_gateway("--smarthost", spec, *WORKERS, "--mx-bad-time", "1h..1h")
    submit(gateway.port, "me@a.example", [recipients[0]])
    gateway.wait_for("deferred")
    with ExitStack() as stack:
        stack.enter_context(peer)
        submit_at_once(gateway, recipients[1:])
        gateway.wait_until(
            lambda: status(gateway)["waiting"] == len(recipients), "all to wait for the mark"
        )
        assert not peer.connections
        assert len(gateway.events("deferred")) == 1
        marked = json.loads(gwrelay("mx", "bad", "--json", at=gateway).stdout)["marks"]
        gwrelay("mx", "mark-good", marked[0]["host"], at=gateway)
        peer.wait_for_messages(len(recipients))
    expected_once(recipients, peer.arrived())
