"""Which reports are owed for what became of recipients: what failed × what waits × NOTIFY."""

from email import message_from_bytes
from email.utils import parsedate_to_datetime
from itertools import count

import pytest

from gwrelay.message.envelope import Message, Recipient
from gwrelay.message.outcome import Outcome
from gwrelay.queue import reports
from gwrelay.queue.delays import Delay
from gwrelay.queue.settlement import NOTHING_ENDED
from gwrelay.queue.store import NewMessage
from support.mail import DEFERRED, DELIVERED, FAILED, envelope

UNTIL = 433_000.0
DELAYED = Delay(DEFERRED, tried=True)


def reported(
    *recipients: str | Recipient,
    failed: dict[int, Outcome] | None = None,
    relayed: dict[int, Outcome] | None = None,
    late: tuple[int, ...] = (),
) -> NewMessage | None:
    original = Message(7, 1000.0, 20, envelope(*recipients))
    return reports.report(
        original,
        NOTHING_ENDED._replace(failed=failed or {}, relayed=relayed or {}),
        reports.wanted(original, dict.fromkeys(late, DELAYED)),
        retry_until=UNTIL,
        hostname="gw.test",
        next_id=count(8).__next__,
        now=15_400.0,
        header_section=lambda message_id: b"Subject: %d\r\n" % message_id,
    )


def actions(report: NewMessage | None) -> dict[str, str]:
    """What it says of each recipient."""
    if report is None:
        return {}
    status = message_from_bytes(report.content).get_payload()[1]
    return {
        block["Final-Recipient"].removeprefix("rfc822; "): block["Action"]
        for block in status.get_payload()[1:]
    }


@pytest.mark.parametrize(
    ("notify", "wants_failures", "wants_delays"),
    [
        ("", True, True),
        ("NEVER", False, False),
        ("SUCCESS", False, False),
        ("FAILURE", True, False),
        ("SUCCESS,FAILURE", True, False),
        ("DELAY", False, True),
        ("SUCCESS,DELAY", False, True),
        ("FAILURE,DELAY", True, True),
        ("SUCCESS,FAILURE,DELAY", True, True),
    ],
)
def test_a_sender_hears_what_he_asked_for(
    notify: str, wants_failures: bool, wants_delays: bool
) -> None:
    """RFC 3461 4.1, 5.2.5."""
    about = Recipient("b@b.test", notify)
    assert (reported(about, failed={0: FAILED}) is not None) is wants_failures
    assert (reported(about, late=(0,)) is not None) is wants_delays


def test_what_waits_shares_the_report_of_what_failed_and_what_was_relayed() -> None:
    never = Recipient("n@b.test", "NEVER")
    report = reported(
        "a@b.test",
        "b@b.test",
        never,
        "d@b.test",
        "e@b.test",
        failed={3: FAILED},
        relayed={1: DELIVERED},
        late=(0, 2, 4),
    )
    assert list(actions(report).items()) == [
        ("a@b.test", "delayed"),
        ("b@b.test", "relayed"),
        ("d@b.test", "failed"),
        ("e@b.test", "delayed"),
    ]


def test_a_warning_goes_to_the_sender_from_nobody_with_the_header_alone() -> None:
    report = reported("b@b.test", late=(0,))
    assert report is not None
    assert report.message.envelope == envelope("sender@a.test", reverse_path="")
    assert report.state.is_bounce
    assert b"Subject: 7\r\n" in report.content
    [_, block] = message_from_bytes(report.content).get_payload()[1].get_payload()
    assert parsedate_to_datetime(block["Will-Retry-Until"]).timestamp() == UNTIL


def test_nothing_that_anybody_wants_to_hear_is_no_report() -> None:
    assert reported(Recipient("b@b.test", "NEVER"), failed={0: FAILED}, late=()) is None
    assert reported("b@b.test") is None
