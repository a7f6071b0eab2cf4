"""kill -9 at any moment: what was answered 250 arrives."""

import json
import random
import subprocess
import sys
import threading
from typing import Any

from support.clients import Load, submit
from support.gateway import Gateway, StartGateway, expected_once
from support.peer import STALL, Peer

ROUNDS = 5


def test_every_message_answered_250_arrives_though_the_gateway_is_killed_again_and_again(
    start_gateway: StartGateway, peer: Peer
) -> None:
    options = ["--retry", "500ms", "--in-doubt-wait", "1s"]
    gateway = start_gateway("--smarthost", peer.spec, *options)
    chance = random.Random()
    moment = threading.Event()
    with Load(gateway.port) as load:
        for _ in range(ROUNDS):
            already = len(load.acknowledged)
            gateway.wait_until(lambda n=already: len(load.acknowledged) > n + 20, "under load")
            # Nothing to wait for: the moment of the kill must be nobody's choice.
            moment.wait(chance.uniform(0.0, 0.5))
            gateway.kill()
            gateway.start()
            load.port = gateway.port
        load.stop()
        acknowledged = load.acknowledged
        gateway.wait_until(
            lambda: acknowledged <= peer.arrived().keys(), "all acknowledged mail", timeout=30
        )


def test_the_same_while_the_log_is_compacted_under_mail_that_stays(
    start_gateway: StartGateway, peer: Peer
) -> None:
    """Segments of a megabyte: most of what is in them is delivered at once, some has to wait."""
    late = [f"late{n}@there.example" for n in range(40)]
    for recipient in late:
        peer.recipient(recipient, *["450 4.2.0 later"] * 4, "250 2.1.5 now")
    options = ["--segment-size", "1M", "--compact-ratio", "0.3", "--retry", "1s"]
    options += ["--in-doubt-wait", "1s"]
    gateway = start_gateway("--smarthost", peer.spec, *options)
    chance = random.Random()
    moment = threading.Event()
    with Load(gateway.port, threads=4, size=(4000, 20_000)) as load:
        for n in range(ROUNDS):
            for recipient in late[n * 8 : n * 8 + 8]:
                content = b"Subject: late\r\n\r\n" + b"y" * 70 + b"\r\n" * 100
                submit(gateway.port, "me@here.example", [recipient], content)
            already = len(load.acknowledged)
            gateway.wait_until(lambda n=already: len(load.acknowledged) > n + 100, "under load")
            moment.wait(chance.uniform(0.0, 0.5))
            gateway.kill()
            gateway.start()
            load.port = gateway.port
        load.stop()
        wanted = {*load.acknowledged, *late}
        gateway.wait_until(lambda: wanted <= peer.arrived().keys(), "all of it", timeout=60)
    # Which of its lives had something worth it when it came to that is chance.
    logs = [path.read_text() for path in gateway.directory.glob("gateway-*.log")]
    assert any("segments compacted" in log for log in logs)


def test_deferred_mail_is_still_there_after_a_kill(start_gateway: StartGateway, peer: Peer) -> None:
    peer.once("RCPT", "450 4.2.0 later")
    gateway = start_gateway("--smarthost", peer.spec, "--retry", "1s")
    submit(gateway.port, "me@here.example", ["you@there.example"])
    gateway.wait_for("deferred")
    gateway.kill()
    assert not peer.messages
    gateway.start()
    peer.wait_for_messages(1)
    gateway.wait_for("delivered", recipient="you@there.example")


def test_nothing_is_sent_again_after_a_kill_of_an_idle_gateway(
    start_gateway: StartGateway, peer: Peer
) -> None:
    gateway = start_gateway("--smarthost", peer.spec)
    recipients = [f"user{n}@there.example" for n in range(10)]
    for recipient in recipients:
        submit(gateway.port, "me@here.example", [recipient])
    gateway.wait_for("delivered", count=10)
    # The promise itself is a time: within a second, what is done is done for good.
    threading.Event().wait(1.0)
    gateway.kill()
    gateway.start()
    submit(gateway.port, "me@here.example", ["last@there.example"])
    gateway.wait_for("delivered", recipient="last@there.example")
    expected_once([*recipients, "last@there.example"], peer.arrived())


def test_after_a_partial_delivery_and_a_kill_only_the_rest_is_sent(
    start_gateway: StartGateway, peer: Peer
) -> None:
    peer.recipient("later@there.example", "450 4.2.0 later", "250 2.1.5 now")
    gateway = start_gateway("--smarthost", peer.spec, "--retry", "2s")
    submit(gateway.port, "me@here.example", ["now@there.example", "later@there.example"])
    gateway.wait_for("deferred", recipient="later@there.example")
    threading.Event().wait(1.0)  # as above: durable within a second
    gateway.kill()
    gateway.start()
    gateway.wait_for("delivered", recipient="later@there.example")
    expected_once(["now@there.example", "later@there.example"], peer.arrived())


def dumped(gateway: Gateway) -> list[dict[str, Any]]:
    """What is open in the spool, as operators are shown it."""
    command = [sys.executable, "-m", "gwrelay", "spool", "dump", "--spool", str(gateway.spool)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return [part for line in done.stdout.splitlines() for part in json.loads(line)["open"]]


def test_what_a_kill_caught_between_dot_and_reply_is_in_doubt_at_the_host_it_was_sent_to(
    start_gateway: StartGateway, peer: Peer
) -> None:
    with Peer() as first:
        first.once("MAIL", "451 4.3.0 not now")
        peer.once(".", STALL)
        smarthosts = ("--smarthost", first.spec, "--smarthost", peer.spec)
        gateway = start_gateway(*smarthosts, "--in-doubt-wait", "2s")
        submit(gateway.port, "me@here.example", ["you@there.example"])
        peer.wait_for(lambda peer: "." in peer.verbs())
        gateway.kill()
        [part] = dumped(gateway)
        doubt = part["doubt"]
        assert (doubt["address"], doubt["port"]) == peer.address
        assert part["due_at"] == doubt["since"] + 2
        assert part["attempts"] == 1
        gateway.start()
        [told] = gateway.wait_for("deferred", in_doubt=True)
        assert (told["recipient"], told["attempt"]) == ("you@there.example", 1)
        assert (told["address"], told["due_at"]) == (doubt["address"], part["due_at"])
        assert "the gateway ended" in told["reply"]
        gateway.wait_for("delivered", recipient="you@there.example", attempt=2)
        assert first.connections == 1, "another host was asked first"
        [arrival] = peer.messages
        assert arrival.at >= doubt["since"] + 2
