"""What next hops say, and what becomes of the mail: delivered, tried again, or bounced."""

import email
import email.message
from collections import Counter

import pytest

from support.clients import submit
from support.gateway import Gateway, StartGateway, expected_once, without_received
from support.peer import DROP, EXTENSIONS, RESET, Pause, Peer

SENDER = "me@here.example"
YOU = "you@there.example"
CONTENT = b"Subject: about it\r\nX-Mine: kept\r\n\r\nHello.\r\n"


@pytest.fixture
def gateway(start_gateway: StartGateway, peer: Peer) -> Gateway:
    """One that soon tries again."""
    return start_gateway(
        "--smarthost",
        peer.spec,
        "--retry",
        "300ms",
        "--in-doubt-wait",
        "300ms",
        "--mx-bad-time",
        "200ms",
    )


def report_for(peer: Peer, sender: str = SENDER) -> email.message.Message:
    """The DSN that `sender` got, once it is there; checked for what all of them have in common."""
    peer.wait_for(lambda p: p.arrived()[sender])
    arrival = peer.message_to(sender)
    assert arrival.reverse_path == ""
    report = email.message_from_bytes(arrival.content)
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    assert report["Auto-Submitted"].startswith("auto-")
    return report


def reported(report: email.message.Message) -> dict[str, email.message.Message]:
    """The fields about each recipient, by mailbox (RFC 3464 2.3)."""
    blocks = report.get_payload()[1].get_payload()
    return {block["Final-Recipient"].partition(";")[2].strip(): block for block in blocks[1:]}


def test_a_delivered_message_has_its_events(gateway: Gateway, peer: Peer) -> None:
    submit(gateway.port, SENDER, [YOU], CONTENT)
    [delivered] = gateway.wait_for("delivered")
    [accepted] = gateway.events("accepted")
    assert accepted["recipients"] == [YOU]
    assert accepted["reverse_path"] == SENDER
    assert delivered["id"] == accepted["id"]
    assert delivered["recipient"] == YOU
    assert delivered["attempt"] == 1
    assert delivered["reply"] == "250 2.0.0 taken"
    assert delivered["address"].startswith("127.0.0.1")
    assert delivered["delay"] >= 0
    assert without_received(peer.messages[0].content) == CONTENT


#: Where a next hop can say "not now".
TEMPORARY = {
    "banner": ("CONNECT", ("421 4.3.2 not now", DROP)),
    "EHLO": ("EHLO", ("421 4.3.2 not now", DROP)),
    "MAIL": ("MAIL", "451 4.3.0 not now"),
    "RCPT": ("RCPT", "450 4.2.0 not now"),
    "DATA": ("DATA", "451 4.3.0 not now"),
    "dot": (".", "451 4.3.0 not now"),
    "421 at RCPT": ("RCPT", ("421 4.3.2 not now", DROP)),
    "hang-up at MAIL": ("MAIL", DROP),
    "reset in content": ("CONTENT", RESET),
    "nonsense": ("MAIL", b"SSH-2.0 hello\r\n"),
    "250 for 354": ("DATA", ("250 2.0.0 what content?", DROP)),
}


@pytest.mark.parametrize(("stage", "answer"), TEMPORARY.values(), ids=TEMPORARY)
def test_a_temporary_trouble_is_tried_again_and_delivered_once(
    gateway: Gateway, peer: Peer, stage: str, answer: object
) -> None:
    peer.once(stage, answer)
    submit(gateway.port, SENDER, [YOU], CONTENT)
    [delivered] = gateway.wait_for("delivered", recipient=YOU)
    assert delivered["attempt"] == 2
    assert len(gateway.events("deferred", recipient=YOU)) == 1
    assert [message.recipients for message in peer.messages] == [(YOU,)]
    assert without_received(peer.messages[0].content) == CONTENT


def test_what_is_in_doubt_goes_to_the_same_host_first(
    start_gateway: StartGateway, peer: Peer
) -> None:
    with Peer() as other:
        smarthosts = ("--smarthost", peer.spec, "--smarthost", other.spec)
        gateway = start_gateway(*smarthosts, "--in-doubt-wait", "300ms")
        peer.once(".", DROP)
        submit(gateway.port, SENDER, [YOU], CONTENT)
        [deferred] = gateway.wait_for("deferred")
        assert deferred["in_doubt"] is True
        [delivered] = gateway.wait_for("delivered")
        assert not delivered.get("in_doubt")
        assert other.connections == 0
    assert "possible duplicate" in gateway.log


PERMANENT = {
    "MAIL": ("MAIL", "550 5.7.1 not from you"),
    "RCPT": ("RCPT", "550 5.1.1 no such mailbox"),
    "DATA": ("DATA", "554 5.7.1 no"),
    "dot": (".", "554 5.6.0 not that content"),
}


@pytest.mark.parametrize(("stage", "answer"), PERMANENT.values(), ids=PERMANENT)
def test_a_refusal_is_reported_to_the_reverse_path(
    gateway: Gateway, peer: Peer, stage: str, answer: str
) -> None:
    peer.once(stage, answer)
    submit(gateway.port, SENDER, [YOU], CONTENT)
    [bounced] = gateway.wait_for("bounced")
    assert bounced["recipient"] == YOU
    assert bounced["reply"] == answer
    report = report_for(peer)
    block = reported(report)[YOU]
    assert block["Action"] == "failed"
    assert block["Status"] == answer.split()[1]
    assert answer in block["Diagnostic-Code"]
    assert "X-Mine: kept" in report.get_payload()[2].get_payload()
    assert YOU not in peer.arrived()
    [accepted] = [event for event in gateway.events("accepted") if "dsn_of" in event]
    assert accepted["dsn_of"] == bounced["id"]


def test_a_null_reverse_path_is_never_bounced_to(gateway: Gateway, peer: Peer) -> None:
    peer.recipient(YOU, "550 5.1.1 no such mailbox")
    submit(gateway.port, "", [YOU], CONTENT)
    gateway.wait_for("bounced")
    submit(gateway.port, SENDER, ["other@there.example"], CONTENT)
    gateway.wait_for("delivered", recipient="other@there.example")
    expected_once(["other@there.example"], peer.arrived())
    assert len(gateway.events("accepted")) == 2


def test_a_refused_report_is_not_reported(gateway: Gateway, peer: Peer) -> None:
    peer.recipient(YOU, "550 5.1.1 no such mailbox").recipient(SENDER, "550 5.1.1 nor me")
    submit(gateway.port, SENDER, [YOU], CONTENT)
    gateway.wait_for("bounced", recipient=SENDER)
    submit(gateway.port, SENDER, ["other@there.example"], CONTENT)
    gateway.wait_for("delivered", recipient="other@there.example")
    assert len(gateway.events("accepted")) == 3


def test_what_is_too_old_is_given_up_and_reported(start_gateway: StartGateway, peer: Peer) -> None:
    flags = ["--retry", "300ms", "--lifetime", "1500ms"]
    gateway = start_gateway("--smarthost", peer.spec, *flags)
    peer.recipient(YOU, "450 4.2.2 mailbox full")
    submit(gateway.port, SENDER, [YOU], CONTENT)
    [expired] = gateway.wait_for("expired")
    assert expired["recipient"] == YOU
    block = reported(report_for(peer))[YOU]
    assert block["Status"] == "4.4.7"
    assert "mailbox full" in block["Diagnostic-Code"]
    assert len(gateway.events("deferred", recipient=YOU)) >= 2


def test_each_recipient_has_its_own_fate_exactly_once(gateway: Gateway, peer: Peer) -> None:
    good = [f"good{n}@there.example" for n in range(5)]
    later = [f"later{n}@there.example" for n in range(3)]
    gone = [f"gone{n}@there.example" for n in range(2)]
    for recipient in later:
        peer.recipient(recipient, "450 4.2.0 later", "250 2.1.5 now")
    for recipient in gone:
        peer.recipient(recipient, "550 5.1.1 gone")
    submit(gateway.port, SENDER, [*good, *gone, *later], CONTENT)
    for recipient in [*good, *later]:
        gateway.wait_for("delivered", recipient=recipient)
    assert set(reported(report_for(peer))) == set(gone)
    expected_once([*good, *later, SENDER], peer.arrived())
    assert Counter(event["event"] for event in gateway.events()) == Counter(
        accepted=2, delivered=9, deferred=3, bounced=2
    )


# -- connections --------------------------------------------------------------------------


def test_a_connection_carries_as_many_messages_as_allowed(
    start_gateway: StartGateway, peer: Peer
) -> None:
    flags = ["--messages-per-connection", "5", "--site-concurrency", "1"]
    gateway = start_gateway("--smarthost", peer.spec, *flags)
    for n in range(20):
        submit(gateway.port, SENDER, [f"user{n}@there.example"])
    peer.wait_for_messages(20)
    assert Counter(message.session for message in peer.messages) == {1: 5, 2: 5, 3: 5, 4: 5}


def test_no_more_sessions_to_a_site_than_allowed(start_gateway: StartGateway, peer: Peer) -> None:
    peer.always(".", (Pause(0.1), "250 2.0.0 slowly"))
    gateway = start_gateway("--smarthost", peer.spec, "--site-concurrency", "4")
    for n in range(40):
        submit(gateway.port, SENDER, [f"user{n}@there.example"])
    peer.wait_for_messages(40)
    assert 2 <= peer.most_open <= 4


def test_a_stalled_next_hop_is_left_when_its_stage_times_out(
    start_gateway: StartGateway,
) -> None:
    with Peer() as stalled, Peer() as living:
        stalled.always("CONNECT", (Pause(60), "220 too late"))
        flags = ["--smarthost", stalled.spec, "--smarthost", living.spec]
        gateway = start_gateway(*flags, "--banner-timeout", "500ms", "--retry", "300ms")
        submit(gateway.port, SENDER, [YOU])
        living.wait_for_messages(1)


# -- content ------------------------------------------------------------------------------


@pytest.mark.parametrize("pipelining", [True, False])
def test_a_large_message_arrives_unchanged(start_gateway: StartGateway, pipelining: bool) -> None:
    extensions = EXTENSIONS if pipelining else EXTENSIONS[1:]
    with Peer(extensions=extensions) as peer:
        gateway = start_gateway("--smarthost", peer.spec)
        lines = b"".join(b"." * (n % 80) + b"\r\n" for n in range(200_000))
        content = b"Subject: large\r\n\r\n" + lines
        submit(gateway.port, SENDER, [YOU], content)
        peer.wait_for_messages(1, timeout=30)
        assert without_received(peer.messages[0].content) == content


def test_a_message_larger_than_the_next_hop_takes_bounces_unsent(
    start_gateway: StartGateway,
) -> None:
    with Peer(extensions=("PIPELINING", "SIZE 2000")) as peer:
        gateway = start_gateway("--smarthost", peer.spec)
        submit(gateway.port, SENDER, [YOU], b"Subject: big\r\n\r\n" + b"x" * 2000 + b"\r\n")
        [bounced] = gateway.wait_for("bounced", recipient=YOU)
        assert "5.3.4" in bounced["reply"]
        assert YOU not in [command.mailbox for command in peer.commands]


def test_8_bit_content_is_converted_for_a_next_hop_of_7_bits(start_gateway: StartGateway) -> None:
    with Peer(extensions=("PIPELINING", "SIZE")) as peer:
        gateway = start_gateway("--smarthost", peer.spec)
        content = "Subject: 8\r\n\r\nGrüße\r\n".encode()
        submit(gateway.port, "", [YOU], content, mail_parameters="BODY=8BITMIME")
        [arrival] = peer.wait_for_messages(1)
    assert arrival.content.isascii()
    assert email.message_from_bytes(arrival.content).get_payload(decode=True) == (
        "Grüße\r\n".encode()
    )


def test_8_bit_content_that_cannot_be_converted_bounces(start_gateway: StartGateway) -> None:
    with Peer(extensions=("PIPELINING", "SIZE")) as peer:
        gateway = start_gateway("--smarthost", peer.spec)
        content = "Subject: Grüße\r\n\r\nhello\r\n".encode()
        submit(gateway.port, "", [YOU], content, mail_parameters="BODY=8BITMIME")
        [bounced] = gateway.wait_for("bounced", recipient=YOU)
        assert "5.6.3" in bounced["reply"]
        assert not peer.messages


def test_dsn_parameters_reach_a_next_hop_that_knows_them(gateway: Gateway, peer: Peer) -> None:
    submit(
        gateway.port,
        SENDER,
        [YOU],
        CONTENT,
        mail_parameters="RET=HDRS ENVID=QQ314159",
        rcpt_parameters="NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;You@Old.example",
    )
    [arrival] = peer.wait_for_messages(1)
    assert "RET=HDRS ENVID=QQ314159" in arrival.mail_parameters
    [parameters] = arrival.rcpt_parameters
    assert parameters == "NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;You@Old.example"


def test_a_success_that_the_next_hop_will_not_report_is_reported_by_us(
    start_gateway: StartGateway,
) -> None:
    with Peer(extensions=("PIPELINING", "SIZE")) as peer:
        gateway = start_gateway("--smarthost", peer.spec)
        submit(gateway.port, SENDER, [YOU], CONTENT, rcpt_parameters="NOTIFY=SUCCESS")
        original, arrival = peer.wait_for_messages(2)
        assert (original.reverse_path, arrival.reverse_path) == (SENDER, "")
        [status] = [
            part.get_payload()[1]
            for part in email.message_from_bytes(arrival.content).walk()
            if part.get_content_type() == "message/delivery-status"
        ]
        assert status["Action"] == "relayed"
        assert status["Final-Recipient"] == f"rfc822; {YOU}"
        assert status["Status"] == "2.1.9"
