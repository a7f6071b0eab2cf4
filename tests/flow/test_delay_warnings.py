"""Warnings of delay, from `--delay-warning` to the sender's mailbox: one for each message that
waits, whether it is tried or put off, and over kill -9."""

import json
import subprocess
import sys
from email import message_from_bytes
from email.message import Message
from email.utils import parsedate_to_datetime

from flufl.bounce import all_failures

from support.clients import submit
from support.dns_server import DNSServer
from support.gateway import Gateway, StartGateway
from support.peer import Arrival, Peer
from support.relaying import nobody_listens

SENDER = "me@here.example"
YOU = "you@there.example"
GREYLISTED = "450 4.2.1 greylisted, come back"
#: Far sooner than in life, and late enough for a message to be deferred once before.
DELAY = ("--delay-warning", "1s", "--retry", "300ms", "--jitter", "0%")


def warnings(peer: Peer) -> list[Arrival]:
    """What came to the sender."""
    return [message for message in peer.messages if message.recipients == (SENDER,)]


def about(warning: Arrival) -> tuple[Message, dict[str, Message]]:
    """Its fields about the message, and those about each recipient."""
    of_the_message, *blocks = message_from_bytes(warning.content).get_payload()[1].get_payload()
    return of_the_message, {b["Final-Recipient"].removeprefix("rfc822; "): b for b in blocks}


def shown(gateway: Gateway, name: str, *flags: str) -> str:
    """`gwrelay queue show`: what the spool holds of a message."""
    command = [sys.executable, "-m", "gwrelay", "queue", "show", name, *flags, "--spool"]
    done = subprocess.run([*command, str(gateway.spool)], capture_output=True, check=True)
    return done.stdout.decode()


def test_a_sender_hears_once_that_his_message_waits_also_over_a_kill(
    start_gateway: StartGateway, peer: Peer
) -> None:
    never, others = "never@there.example", "asks-for-others@there.example"
    for mailbox in (YOU, never, others):
        peer.recipient(mailbox, GREYLISTED)
    gateway = start_gateway("--smarthost", peer.spec, *DELAY, "--lifetime", "1h")
    for mailbox, notify in ((YOU, ""), (never, "NEVER"), (others, "FAILURE,SUCCESS")):
        parameters = f"NOTIFY={notify}" if notify else ""
        submit(gateway.port, SENDER, [mailbox], rcpt_parameters=parameters)
    submit(gateway.port, "", [YOU])
    peer.wait_for(warnings)
    [accepted] = gateway.wait_for("accepted", delayed=[YOU])
    attempts = len(gateway.events("deferred", recipient=YOU))
    gateway.kill()

    [waits] = gateway.events("accepted", recipients=[YOU], reverse_path=SENDER)
    assert accepted["dsn_of"] == waits["id"]
    assert accepted["time"] - waits["time"] >= 1
    [warning] = warnings(peer)
    assert warning.reverse_path == ""
    parsed = message_from_bytes(warning.content)
    assert parsed["Subject"] == "Mail delayed; nothing need be done"
    assert all_failures(parsed) == ({YOU.encode()}, set()), "temporary, to list managers"
    assert b"Subject: test\r\n" in warning.content
    assert b"Hello." not in warning.content
    of_the_message, of_the_recipients = about(warning)
    assert of_the_message["X-Gwrelay-Id"] == waits["id"]
    fields = of_the_recipients[YOU]
    assert (fields["Action"], fields["Status"]) == ("delayed", "4.2.1")
    assert fields["Diagnostic-Code"] == f"smtp; {GREYLISTED}"
    assert fields["Remote-MTA"] == "dns; 127.0.0.1"
    until = parsedate_to_datetime(fields["Will-Retry-Until"]).timestamp()
    assert abs(until - waits["time"] - 3600) < 2
    assert "late; its sender was told so" in shown(gateway, waits["id"])
    [part] = json.loads(shown(gateway, waits["id"], "--json"))["parts"]
    assert part["warned"] is True

    gateway.start()
    gateway.wait_for("deferred", recipient=YOU, count=attempts + 6)
    peer.recipient(YOU, "250 2.1.5 now")
    gateway.wait_for("delivered", recipient=YOU, count=2)
    assert gateway.terminate() == 0
    assert len(warnings(peer)) == 1
    assert len([e for e in gateway.events("accepted") if "dsn_of" in e]) == 1


def test_one_report_is_of_all_who_wait_with_the_words_each_of_them_got(
    start_gateway: StartGateway, peer: Peer
) -> None:
    full = "full@elsewhere.example"
    peer.recipient(YOU, GREYLISTED)
    peer.recipient(full, "452 4.2.2 mailbox full")
    peer.recipient("gone@there.example", "550 5.1.1 nobody")
    gateway = start_gateway("--smarthost", peer.spec, *DELAY)
    there = "there@there.example"
    submit(gateway.port, SENDER, [YOU, full, there, "gone@there.example"])
    peer.wait_for(lambda p: len(warnings(p)) == 2)
    bounce, warning = warnings(peer)
    assert list(about(bounce)[1]) == ["gone@there.example"]
    said = {mailbox: block["Diagnostic-Code"] for mailbox, block in about(warning)[1].items()}
    assert said == {YOU: f"smtp; {GREYLISTED}", full: "smtp; 452 4.2.2 mailbox full"}
    for mailbox in (YOU, full):
        attempts = len(gateway.events("deferred", recipient=mailbox))
        gateway.wait_for("deferred", recipient=mailbox, count=attempts + 3)
    assert len(warnings(peer)) == 2


def test_a_sender_hears_of_mail_that_is_put_off_while_its_host_is_down(
    start_gateway: StartGateway,
) -> None:
    """Without an attempt of its own."""
    address, port = nobody_listens()
    zone = {
        "there.example": {"MX": ["10 mx.there.example."]},
        "mx.there.example": {"A": [address]},
        "here.example": {"MX": ["10 mx.here.example."]},
        "mx.here.example": {"A": ["127.0.0.2"]},
    }
    with DNSServer(zone) as names, Peer("127.0.0.2", port) as peer:
        where = ["--resolver", names.address, "--smtp-port", str(port), "--deny-host", "none"]
        shape = ["--site-concurrency", "1", "--mx-bad-time", "1s..1s"]
        gateway = start_gateway(*where, *shape, *DELAY)
        for _ in range(5):
            submit(gateway.port, SENDER, [YOU])
        arrived = peer.wait_for_messages(5, timeout=20)
        events = gateway.events()
    untried = 0
    for event in (e for e in events if "delayed" in e):
        before = events[: events.index(event)]
        untried += not [
            e for e in before if e["event"] == "deferred" and e["id"] == event["dsn_of"]
        ]
    assert untried, "all were tried before their senders were warned"
    ids = {about(warning)[0]["X-Gwrelay-Id"] for warning in arrived}
    assert ids == {e["id"] for e in events if e["event"] == "accepted" and "dsn_of" not in e}
    for warning in arrived:
        [fields] = about(warning)[1].values()
        assert (fields["Action"], fields["Status"]) == ("delayed", "4.4.1")
        assert "connection refused" in fields["Diagnostic-Code"].lower()
