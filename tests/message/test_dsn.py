"""Reports read back by the standard library's parser (RFC 3464, 3461, 6533, 3834)."""

import email.policy
import re
from email import message_from_bytes
from email.message import EmailMessage
from email.utils import formatdate, parsedate_to_datetime

import pytest
from flufl.bounce import all_failures
from hypothesis import given
from hypothesis import strategies as st

from gwrelay.errors import ConnectionLost
from gwrelay.message import dsn, outcome
from gwrelay.message.dsn import HEADERS_MAX_BYTES, Failure, Report
from gwrelay.message.envelope import Envelope, Recipient, message_name
from gwrelay.message.outcome import Kind, Outcome
from gwrelay.message.reply import Reply

NOW = 1_709_210_096.75
ARRIVED_AT = NOW - 3600
HEADERS = b"From: a@b.example\r\nSubject: hello\r\n"
NOBODY = outcome.of_reply("rcpt", Reply(550, "5.1.1", "nobody here"), "mx.d.example", "192.0.2.1")
GREYLISTED = outcome.of_reply("rcpt", Reply(451, "4.7.1", "greylisted"), "mx.d.example")


def failure(
    address: str = "c@d.example", told: Outcome = NOBODY, *, orcpt: str = "", expired: bool = False
) -> Failure:
    return Failure(Recipient(address, orcpt=orcpt), told, expired)


def saying(text: str) -> Failure:
    return failure(told=outcome.of_reply("rcpt", Reply(550, "5.7.1", text), "mx.d.example"))


def report(
    *failures: Failure,
    reverse_path: str = "a@b.example",
    envid: str = "",
    headers: bytes = HEADERS,
    retry_until: float = 0.0,
) -> Report:
    failures = failures or (failure(),)
    envelope = Envelope(reverse_path, tuple(f.recipient for f in failures), envid=envid)
    return Report(
        "gw.example", 7000, NOW, 6000, ARRIVED_AT, envelope, failures, headers, retry_until
    )


def parsed(made: Report) -> EmailMessage:
    message = message_from_bytes(dsn.build(made), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert message.defects == []
    assert all(part.defects == [] for part in message.walk())
    return message


def parts(made: Report) -> tuple[EmailMessage, EmailMessage, EmailMessage]:
    people, machines, original = parsed(made).iter_parts()
    return people, machines, original


def octets(part: EmailMessage) -> bytes:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content


def status_blocks(made: Report) -> list[EmailMessage]:
    """The fields about the message, then those about each recipient."""
    return parts(made)[1].get_payload()  # type: ignore[return-value]


def about_the_recipient(made: Report) -> dict[str, str]:
    _, block = status_blocks(made)
    # The same field twice would be somebody's injection.
    assert len(block.keys()) == len(set(block.keys()))
    return dict(block.items())


def test_a_report_is_a_multipart_report_of_three_parts() -> None:
    message = parsed(report())

    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert [part.get_content_type() for part in message.iter_parts()] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]


def test_its_header_says_who_to_whom_when_and_that_no_program_shall_answer() -> None:
    message = parsed(report())

    assert message["From"] == "Mail Delivery System <MAILER-DAEMON@gw.example>"
    assert message["To"] == "a@b.example"
    assert message["Auto-Submitted"] == "auto-replied"  # RFC 3834 5
    assert message["MIME-Version"] == "1.0"
    assert message["Message-ID"] == f"<{message_name(7000)}@gw.example>"
    assert parsedate_to_datetime(message["Date"]).timestamp() == int(NOW)
    assert message["Subject"]


def test_it_names_no_return_path_because_the_queue_sends_it_with_a_null_one() -> None:
    assert "Return-Path" not in parsed(report())


def test_the_first_block_is_about_the_message() -> None:
    block = status_blocks(report())[0]

    assert block["Reporting-MTA"] == "dns; gw.example"
    assert block["X-Gwrelay-Id"] == message_name(6000)
    assert parsedate_to_datetime(block["Arrival-Date"]).timestamp() == int(ARRIVED_AT)
    assert "Original-Envelope-Id" not in block


def test_each_further_block_is_about_one_recipient() -> None:
    refused = outcome.of_reply("rcpt", Reply(550, "5.7.1", "go away"), "mx2.d.example")
    blocks = status_blocks(report(failure(), failure("x@d.example", refused)))[1:]

    assert [b["Final-Recipient"] for b in blocks] == [
        "rfc822; c@d.example",
        "rfc822; x@d.example",
    ]
    assert [b["Action"] for b in blocks] == ["failed", "failed"]
    assert [b["Status"] for b in blocks] == ["5.1.1", "5.7.1"]
    assert [b["Remote-MTA"] for b in blocks] == ["dns; mx.d.example", "dns; mx2.d.example"]
    assert [b["Diagnostic-Code"] for b in blocks] == [
        "smtp; 550 5.1.1 nobody here",
        "smtp; 550 5.7.1 go away",
    ]
    for block in blocks:
        assert parsedate_to_datetime(block["Last-Attempt-Date"]).timestamp() == int(NOW)
        assert "Original-Recipient" not in block


def test_people_are_told_each_recipient_and_why() -> None:
    made = report(failure(), failure("x@d.example", GREYLISTED, expired=True))
    text = " ".join(parts(made)[0].get_content().split())

    assert "<c@d.example>: mx.d.example said: 550 5.1.1 nobody here" in text
    assert "<x@d.example>: could not be delivered in time" in text
    assert "451 4.7.1 greylisted" in text
    assert "gw.example" in text


def test_a_reply_without_an_enhanced_status_gets_the_general_one() -> None:
    told = outcome.of_reply("rcpt", Reply(550, "", "no"), "mx.d.example")
    assert about_the_recipient(report(failure(told=told)))["Status"] == "5.0.0"


RELAYED = outcome.of_reply("dot", Reply(250, "2.0.0", "queued"), "mx.d.example")._replace(
    relayed=True
)


def test_what_was_relayed_to_a_server_without_dsn_is_no_failure() -> None:
    made = report(failure(told=RELAYED))
    block = about_the_recipient(made)
    assert (block["Action"], block["Status"]) == ("relayed", "2.1.9")
    assert block["Remote-MTA"] == "dns; mx.d.example"
    assert parsed(made)["Subject"] == "Mail relayed"
    people = octets(parts(made)[0]).decode()
    assert "no further report will come" in people
    assert "could not be delivered" not in people


def test_failed_and_relayed_recipients_share_a_report_and_are_told_apart() -> None:
    made = report(failure("gone@d.example"), failure("there@d.example", RELAYED))
    _, gone, there = status_blocks(made)
    assert (gone["Action"], there["Action"]) == ("failed", "relayed")
    people = octets(parts(made)[0]).decode()
    failed, relayed = people.split("handed over")
    assert "gone@d.example" in failed
    assert "there@d.example" in relayed
    assert parsed(made)["Subject"] == "Undelivered mail returned to sender"


UNTIL = ARRIVED_AT + 432_000


def delayed(*failures: Failure) -> Report:
    """The warning about what waits."""
    return report(*(failures or [failure(told=GREYLISTED)]), retry_until=UNTIL)


def test_what_waits_is_delayed_and_says_until_when_it_is_tried() -> None:
    fields = about_the_recipient(delayed())
    assert fields["Action"] == "delayed"
    assert fields["Status"] == "4.7.1"
    assert fields["Remote-MTA"] == "dns; mx.d.example"
    assert fields["Diagnostic-Code"] == "smtp; 451 4.7.1 greylisted"
    assert parsedate_to_datetime(fields["Last-Attempt-Date"]).timestamp() == int(NOW)
    assert parsedate_to_datetime(fields["Will-Retry-Until"]).timestamp() == int(UNTIL)


def test_only_what_waits_says_until_when_it_is_tried() -> None:
    for told in (failure(), failure(told=GREYLISTED, expired=True), failure(told=RELAYED)):
        assert "Will-Retry-Until" not in about_the_recipient(delayed(told))


def test_what_was_not_tried_just_now_has_no_date_of_its_last_attempt() -> None:
    fields = about_the_recipient(delayed(failure(told=GREYLISTED)._replace(tried=False)))
    assert "Last-Attempt-Date" not in fields
    assert "Will-Retry-Until" in fields


REFUSED = outcome.of_loss(ConnectionLost("connect", "connection refused"), "mx.d.example")
LOST_AT_THE_DOT = outcome.of_loss(ConnectionLost("dot", "timed out"), "mx.d.example", "192.0.2.1")


@pytest.mark.parametrize(
    ("told", "status", "said"),
    [
        (GREYLISTED, "4.7.1", "mx.d.example said: 451 4.7.1 greylisted"),
        # The status of a delay is one of class 4, whatever was said (RFC 3463 2).
        (
            outcome.of_reply("banner", Reply(554, "5.7.1", "not you"), "mx.d.example"),
            "4.7.1",
            "mx.d.example said: 554 5.7.1 not you",
        ),
        (
            outcome.of_reply("rcpt", Reply(450, "", "later"), "mx.d.example"),
            "4.0.0",
            "mx.d.example said: 450 later",
        ),
        # Nobody said anything: then it is our word.
        (REFUSED, "4.4.1", "mx.d.example: 421 4.4.1 connection refused (in connect)"),
        (
            outcome.of_ours("dns", Reply(451, "4.4.3", "no name server answered")),
            "4.4.3",
            "451 4.4.3 no name server answered",
        ),
        (
            LOST_AT_THE_DOT,
            "4.4.2",
            "may have been delivered, for mx.d.example did not answer in the end: "
            "421 4.4.2 timed out (in dot) - possible duplicate",
        ),
    ],
    ids=["deferred", "host says no", "no status", "unreached", "no names", "in doubt"],
)
def test_a_delay_has_its_reason_in_the_words_of_who_said_it(
    told: Outcome, status: str, said: str
) -> None:
    made = delayed(failure(told=told))
    fields = about_the_recipient(made)
    assert (fields["Action"], fields["Status"]) == ("delayed", status)
    assert ("Remote-MTA" in fields) is told.heard
    assert f"<c@d.example>: {said}" in " ".join(parts(made)[0].get_content().split())


def test_who_is_warned_is_told_that_nothing_need_be_done() -> None:
    made = delayed()
    assert parsed(made)["Subject"] == "Mail delayed; nothing need be done"
    text = " ".join(parts(made)[0].get_content().split())
    assert "nothing need be done, least of all send it again" in text
    assert f"It will be tried until {formatdate(UNTIL)}." in text
    assert "could not be delivered" not in text
    assert octets(parts(made)[2]) == HEADERS
    assert max(map(len, lines_of(made))) < 100


def test_what_failed_and_what_waits_are_told_apart_and_the_subject_is_of_the_graver() -> None:
    made = delayed(
        failure("late@d.example", GREYLISTED),
        failure("gone@d.example"),
        failure("there@d.example", RELAYED),
    )
    assert [block["Action"] for block in status_blocks(made)[1:]] == [
        "delayed",
        "failed",
        "relayed",
    ]
    people = octets(parts(made)[0]).decode()
    gone, late, there = re.split("has not been delivered yet|handed over", people)
    assert "<gone@d.example>" in gone
    assert "<late@d.example>" in late
    assert "<there@d.example>" in there
    assert parsed(made)["Subject"] == "Undelivered mail returned to sender"
    late_and_there = delayed(failure(told=GREYLISTED), failure("t@d.example", RELAYED))
    assert parsed(late_and_there)["Subject"] == "Mail delayed; nothing need be done"


@pytest.mark.parametrize("address", ["c@d.example", "jörg@d.example"])
@pytest.mark.parametrize("reverse_path", ["a@b.example", "jörg@b.example"])
def test_a_warning_is_of_the_same_form_as_any_report(address: str, reverse_path: str) -> None:
    made = report(failure(address, GREYLISTED), reverse_path=reverse_path, retry_until=UNTIL)
    content = dsn.build(made)
    assert content.isascii() is reverse_path.isascii()
    assert b"\r\nAction: delayed\r\n" in content
    assert f"\r\nWill-Retry-Until: {formatdate(UNTIL)}\r\n".encode() in content


def test_what_expired_says_so_and_keeps_the_last_reply() -> None:
    fields = about_the_recipient(report(failure(told=GREYLISTED, expired=True)))
    assert fields["Status"] == "4.4.7"
    assert fields["Diagnostic-Code"] == "smtp; 451 4.7.1 greylisted"


def test_what_nobody_said_is_not_put_into_anybodys_mouth() -> None:
    too_large = outcome.of_ours("mail", Reply(552, "5.3.4", "too large"))
    fields = about_the_recipient(report(failure(told=too_large)))
    assert "Remote-MTA" not in fields
    assert fields["Diagnostic-Code"] == "x-gwrelay; 552 5.3.4 too large"
    assert fields["Status"] == "5.3.4"

    lost = outcome.of_loss(ConnectionLost("mail", "timed out"), "mx.d.example", "192.0.2.1")
    fields = about_the_recipient(report(failure(told=lost, expired=True)))
    assert "Remote-MTA" not in fields
    assert fields["Diagnostic-Code"].startswith("x-gwrelay; ")


@pytest.mark.parametrize(
    ("orcpt", "field"),
    [
        ("rfc822;c@d.example", "rfc822;c@d.example"),
        ("rfc822;c+2Bbox@d.example", "rfc822;c+box@d.example"),
        ("rfc822;a+20b+3Dc@d.example", "rfc822;a b=c@d.example"),
        ("x400;/c+3Dus", "x400;/c=us"),
    ],
)
def test_the_original_recipient_comes_back_decoded(orcpt: str, field: str) -> None:
    assert about_the_recipient(report(failure(orcpt=orcpt)))["Original-Recipient"] == field


def test_the_envelope_id_comes_back_decoded() -> None:
    assert status_blocks(report(envid="QQ+2B3+20x"))[0]["Original-Envelope-Id"] == "QQ+3 x"


@pytest.mark.parametrize("xtext", ["a+0D+0AAction:+20delivered", "a+0AAction: delivered+00"])
def test_xtext_opens_no_field(xtext: str) -> None:
    made = report(failure(orcpt=f"rfc822;{xtext}"), envid=xtext)
    assert about_the_recipient(made)["Action"] == "failed"
    assert "Action" not in status_blocks(made)[0]


@pytest.mark.parametrize(
    ("encoded", "text"),
    [("", ""), ("plain", "plain"), ("+2B", "+"), ("+2b", "+2b"), ("+", "+"), ("+2B2B", "+2B"),
     ("+3D+3D", "==")],
)  # fmt: skip
def test_xtext_is_decoded_once_and_what_is_none_stays(encoded: str, text: str) -> None:
    assert dsn.decode_xtext(encoded) == text


def test_the_original_comes_back_as_its_header_alone() -> None:
    headers = dsn.header_section(HEADERS + b"\r\nthe secret body\r\n")
    content = dsn.build(report(headers=headers))

    assert octets(parts(report(headers=headers))[2]) == HEADERS
    assert b"secret" not in content


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"", b""),
        (b"Subject: x\r\n", b"Subject: x\r\n"),
        (b"Subject: x\r\n\r\n", b"Subject: x\r\n"),
        (b"Subject: x\r\n\r\nbody\r\n\r\nmore\r\n", b"Subject: x\r\n"),
        (b"\r\nno header at all\r\n\r\nmore\r\n", b""),
        (b"Subject: x\r\nReceived: cut in the mid", b"Subject: x\r\n"),
        (b"X: " + b"x" * 60_000, b""),
    ],
)
def test_the_header_section_ends_at_the_first_empty_line(content: bytes, headers: bytes) -> None:
    assert dsn.header_section(content) == headers


@pytest.mark.parametrize("end", [b"", b"\r\nbody\r\n"])
def test_a_large_header_is_cut_between_lines(end: bytes) -> None:
    line = b"X-Line: %060d\r\n"
    headers = dsn.header_section(b"".join(line % n for n in range(5000)) + end)

    assert HEADERS_MAX_BYTES - 100 < len(headers) <= HEADERS_MAX_BYTES
    assert headers == b"".join(line % n for n in range(headers.count(b"\n")))


def test_a_header_of_exactly_the_limit_is_whole() -> None:
    headers = b"X: " + b"x" * (HEADERS_MAX_BYTES - 5) + b"\r\n"
    assert dsn.header_section(headers + b"\r\nbody") == headers
    assert dsn.header_section(b"x" + headers + b"\r\nbody") == b""


def lines_of(made: Report) -> list[bytes]:
    return dsn.build(made).split(b"\r\n")


@pytest.mark.parametrize(
    "made",
    [
        report(),
        report(saying("a\nb\r\nc\rd"), failure("x@d.example", GREYLISTED, expired=True)),
        report(failure("jörg@d.example")),
        report(headers=b""),
        report(failure(told=GREYLISTED), retry_until=NOW),
    ],
)
def test_lines_end_in_crlf_and_nothing_else_breaks_one(made: Report) -> None:
    assert lines_of(made)[-1] == b""
    for line in lines_of(made):
        assert b"\r" not in line
        assert b"\n" not in line


HOSTILE = [
    "no\r\nAction: delivered\r\nStatus: 2.0.0",
    "no\nAction: delivered",
    "no\rAction: delivered",
    "no\n\nFinal-Recipient: rfc822; other@d.example\nAction: failed",
    f"no\n--{message_name(7000)}/gw.example--\nMIME",
    f"x --{message_name(7000)}/gw.example-- " * 20,
    "\x1b[2J\x1b]0;owned\x07",
    "nul \x00 del \x7f nel \x85 ls \u2028 rtl \u202e",
    "no" * 5000,
    "no such user " * 800,
    "größe 大きい",
    "%s%n {0} ${x}",
    "",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_reply_text_is_one_short_printable_field(text: str) -> None:
    made = report(saying(text))
    fields = about_the_recipient(made)

    assert fields["Action"] == "failed"
    assert fields["Status"] == "5.7.1"
    assert fields["Final-Recipient"] == "rfc822; c@d.example"
    assert re.fullmatch(r"smtp; 550 5\.7\.1[ -~\r\n]*", fields["Diagnostic-Code"])
    assert len(fields["Diagnostic-Code"]) < 600
    # faults 121; RFC 5322 2.1.1
    assert all(re.fullmatch(rb"[ -~]{0,998}", line) for line in lines_of(made))


def test_long_reply_text_is_folded() -> None:
    made = report(saying("not today " * 100))
    assert max(map(len, lines_of(made))) < 100
    assert about_the_recipient(made)["Diagnostic-Code"].count("not today") > 30


def test_the_longest_names_fit_a_line() -> None:
    exchange = "x" * 63 + ".example" * 24
    told = outcome.of_reply("rcpt", Reply(550, "5.7.1", "n" * 600), exchange)
    made = report(failure("a" * 189 + "@" + "d" * 63, told), reverse_path="b" * 240 + "@e.example")
    assert max(map(len, lines_of(made))) <= 998


@pytest.mark.parametrize("exchange", ["mx\r\nAction: delivered", "mx\\010\x1b.example"])
def test_a_hostile_exchange_name_opens_no_field(exchange: str) -> None:
    told = outcome.of_reply("rcpt", Reply(550, "5.7.1", "no"), exchange)
    made = report(failure(told=told))
    assert about_the_recipient(made)["Action"] == "failed"
    assert all(re.fullmatch(rb"[ -~]*", line) for line in lines_of(made))


@given(st.text(max_size=600))
def test_no_reply_text_breaks_the_report(text: str) -> None:
    fields = about_the_recipient(report(saying(text)))
    assert (fields["Action"], fields["Status"]) == ("failed", "5.7.1")


@given(st.text(max_size=2000))
def test_printable_is_a_short_line_of_printable_ascii(text: str) -> None:
    assert re.fullmatch(r"[ -~]{0,500}", dsn.printable(text))


def test_an_original_with_8_bit_bytes_still_makes_a_7_bit_report() -> None:
    made = report(headers="Subject: größe\r\nX: ok\r\n".encode())

    assert dsn.build(made).isascii()
    assert octets(parts(made)[2]) == b"Subject: gr????e\r\nX: ok\r\n"
    assert not dsn.needs_smtputf8(made)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_an_ascii_report_declares_itself_7_bit(part: int) -> None:
    assert parts(report())[part]["Content-Transfer-Encoding"] == "7bit"


#: To somebody whose server must know SMTPUTF8, or he could not have sent it.
INTERNATIONAL = report(
    failure("jörg@d.example"),
    failure("c@d.example"),
    reverse_path="jörg@b.example",
    headers="Subject: größe\r\n".encode(),
)


def test_a_sender_beyond_ascii_gets_the_international_form() -> None:
    assert dsn.needs_smtputf8(INTERNATIONAL)
    message = message_from_bytes(dsn.build(INTERNATIONAL), policy=email.policy.default)
    kinds = [part.get_content_type() for part in message.walk()]
    assert message.get_content_type() == "multipart/report"
    assert "message/global-delivery-status" in kinds  # RFC 6533 4
    assert "message/global-headers" in kinds
    assert "Subject: größe\r\n".encode() in dsn.build(INTERNATIONAL)


def test_an_international_recipient_is_named_as_it_is() -> None:
    content = dsn.build(INTERNATIONAL).decode()
    assert "\r\nFinal-Recipient: utf-8; jörg@d.example\r\n" in content
    assert "\r\n<jörg@d.example>: " in content
    assert "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit" in content


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("jörg@d.example", r"j\x{F6}rg@d.example"),
        ("c@dömäin.example", r"c@d\x{F6}m\x{E4}in.example"),
        ("日本+a=b@d.example", r"\x{65E5}\x{672C}\x{2B}a\x{3D}b@d.example"),
        ("\U0001f4ec@d.example", r"\x{1F4EC}@d.example"),
    ],
)
def test_an_ascii_sender_gets_a_report_that_any_server_takes(address: str, written: str) -> None:
    """Or it could not be told that SMTPUTF8 was missing on the way (RFC 6533 3)."""
    made = report(failure(address), failure("a+b@d.example"))
    assert not dsn.needs_smtputf8(made)
    content = dsn.build(made)
    assert content.isascii()
    assert f"\r\nFinal-Recipient: utf-8; {written}\r\n".encode() in content
    assert f"\r\n<{written}>: ".encode() in content
    assert b"\r\nFinal-Recipient: rfc822; a+b@d.example\r\n" in content
    assert b"Content-Type: message/delivery-status\r\n" in content


def test_an_ascii_recipient_of_an_international_sender_stays_rfc822() -> None:
    content = dsn.build(INTERNATIONAL).decode()
    assert "\r\nFinal-Recipient: rfc822; c@d.example\r\n" in content
    assert "\r\nTo: <jörg@b.example>\r\n" in content


def test_an_all_ascii_report_needs_no_smtputf8() -> None:
    assert not dsn.needs_smtputf8(report())


def test_two_reports_do_not_share_a_boundary() -> None:
    one, other = parsed(report()), parsed(report()._replace(report_id=7001))
    assert one.get_boundary() != other.get_boundary()


# -- what other software makes of it --------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "failed"),
    [
        (
            report(failure("c@d.example"), failure("e@f.example", GREYLISTED, expired=True)),
            {b"c@d.example", b"e@f.example"},
        ),
        (report(failure("c@d.example"), headers=b""), {b"c@d.example"}),
        # The address it knows is the one that was given first.
        (report(failure("c@d.example", orcpt="rfc822;list@x.example")), {b"list@x.example"}),
    ],
    ids=["refused and expired", "no headers left", "sent on"],
)
def test_a_list_manager_sees_who_failed(made: Report, failed: set[bytes]) -> None:
    """flufl.bounce is what Mailman asks."""
    assert all_failures(parsed(made)) == (set(), failed)


def test_a_list_manager_takes_no_relayed_recipient_for_a_failed_one() -> None:
    relayed = NOBODY._replace(kind=Kind.DELIVERED, relayed=True, reply=Reply(250, "2.1.5", "ok"))
    temporary, permanent = all_failures(parsed(report(failure(told=relayed))))
    assert (temporary, permanent) == (set(), set())


def test_a_list_manager_takes_who_waits_for_a_temporary_failure() -> None:
    """And who is told in the same report to have failed for a permanent one."""
    waits, waits_too = failure("c@d.example", GREYLISTED), failure("e@f.example", LOST_AT_THE_DOT)
    assert all_failures(parsed(delayed(waits, waits_too))) == (
        {b"c@d.example", b"e@f.example"},
        set(),
    )
    both = delayed(waits, failure("gone@d.example"))
    assert all_failures(parsed(both)) == ({b"c@d.example"}, {b"gone@d.example"})
