"""The demo's verdict: what is right passes, and each way of being wrong is named."""

from typing import Any

import pytest

from gwrelay_bench.accounting import (
    Account,
    Sent,
    account,
    awaited,
    body_difference,
    failed_recipients,
)
from gwrelay_bench.sinksession import Arrival
from gwrelay_bench.submission import Submission

RECEIVED = b"Received: from a by gw.example\r\n\twith ESMTP; Thu, 1 Jan 2026 00:00:00 +0000\r\n"
CONTENT = b"Subject: x\r\n\r\nbody\r\n"
PATH = "m0@sender.example"
ADA, BOB = "ada@north.example", "nobody@west.example"
LETTER = Sent(Submission(PATH, (ADA,), CONTENT), answered_at=100.0)
BOUNCING = Sent(Submission(PATH, (BOB,), CONTENT), answered_at=100.0)


def arrival(
    *recipients: str, content: bytes = RECEIVED + CONTENT, path: str = PATH, at: float = 100.5
) -> Arrival:
    return Arrival(at, "127.0.0.2", path, recipients, len(content), "", content)


def event(
    name: str, recipient: str, path: str = PATH, stage: str = "dot", time: float = 100.5
) -> dict[str, Any]:
    return {
        "time": time,
        "event": name,
        "reverse_path": path,
        "recipient": recipient,
        "stage": stage,
    }


def report(*failed: str) -> Arrival:
    blocks = "".join(
        f"Final-Recipient: rfc822; {name}\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n"
        for name in failed
    )
    text = (
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
        "--b\r\nContent-Type: text/plain\r\n\r\nSorry.\r\n"
        "--b\r\nContent-Type: message/delivery-status\r\n\r\n"
        f"Reporting-MTA: dns; gw.example\r\n\r\n{blocks}"
        "--b--\r\n"
    )
    return arrival(PATH, content=text.encode(), path="")


def complaints(result: Account) -> list[str]:
    return [problem.what for problem in result.problems]


def test_a_recipient_that_arrived_once_is_delivered_at_once() -> None:
    result = account([LETTER], [arrival(ADA)], [event("delivered", ADA)])
    assert (result.messages, result.recipients) == (1, 1)
    assert (result.at_once, result.retried, result.bounced, result.problems) == (1, 0, 0, ())
    assert result.at_once_s == (0.5,)


def test_a_recipient_that_was_deferred_first_is_delivered_after_a_retry() -> None:
    events = [event("deferred", ADA), event("deferred", ADA), event("delivered", ADA)]
    result = account([LETTER], [arrival(ADA, at=103.0)], events)
    assert (result.at_once, result.retried, result.retried_s) == (0, 1, (3.0,))


def test_a_recipient_held_back_while_its_host_was_down_is_delivered_after_a_retry() -> None:
    events = [
        event("deferred", "alan@north.example", "m1@sender.example", "connect", 99.0),
        event("delivered", ADA, time=103.0),
    ]
    result = account([LETTER], [arrival(ADA, at=102.9)], events)
    assert (result.at_once, result.retried) == (0, 1)


def test_an_arrival_before_its_250_was_read_counts_as_no_time() -> None:
    result = account([LETTER], [arrival(ADA, at=99.9)], [event("delivered", ADA)])
    assert result.at_once_s == (0.0,)


def test_a_refused_recipient_whose_dsn_arrived_is_bounced() -> None:
    result = account([BOUNCING], [report(BOB)], [event("bounced", BOB)], {BOB})
    assert (result.bounced, result.reports, result.problems) == (1, 1, ())


def test_a_refused_recipient_of_a_null_reverse_path_is_owed_no_dsn() -> None:
    letter = Sent(Submission("", (BOB,), CONTENT), 100.0)
    result = account([letter], [], [event("bounced", BOB, "")], {BOB})
    assert (result.bounced, result.problems) == (1, ())


def test_two_recipients_of_one_transaction_are_both_delivered() -> None:
    other = "alan@north.example"
    letter = Sent(Submission(PATH, (ADA, other), CONTENT), 100.0)
    events = [event("delivered", ADA), event("delivered", other)]
    result = account([letter], [arrival(ADA, other)], events)
    assert (result.messages, result.at_once, result.problems) == (1, 2, ())


WRONG = {
    "missing recipient": (
        LETTER,
        [],
        [event("delivered", ADA)],
        "never arrived, never bounced",
    ),
    "duplicate": (
        LETTER,
        [arrival(ADA), arrival(ADA)],
        [event("delivered", ADA)],
        "delivered 2 times",
    ),
    "altered body": (
        LETTER,
        [arrival(ADA, content=RECEIVED + b"Subject: x\r\n\r\nbodY\r\n")],
        [event("delivered", ADA)],
        "body altered: 20 bytes sent, 97 arrived",
    ),
    "bounce without DSN": (
        BOUNCING,
        [],
        [event("bounced", BOB)],
        "bounced, but its DSN never arrived",
    ),
    "needless bounce": (
        LETTER,
        [report(ADA)],
        [event("bounced", ADA)],
        "bounced, although its host takes it",
    ),
    "delivered and bounced": (
        LETTER,
        [arrival(ADA), report(ADA)],
        [event("delivered", ADA)],
        "delivered, and reported as failed",
    ),
    "two DSNs": (
        BOUNCING,
        [report(BOB), report(BOB)],
        [event("bounced", BOB)],
        "reported as failed 2 times",
    ),
    "no DSN but something": (
        LETTER,
        [arrival(ADA), arrival(PATH, path="")],
        [event("delivered", ADA)],
        "arrived, but is no DSN with a failed recipient",
    ),
    "DSN about a stranger": (
        LETTER,
        [arrival(ADA), report("eve@north.example")],
        [event("delivered", ADA)],
        "DSN about eve@north.example, whom it was not sent to",
    ),
    "stray": (
        LETTER,
        [arrival(ADA), arrival("eve@north.example")],
        [event("delivered", ADA)],
        "arrived, but nobody sent it",
    ),
    "silent events": (
        LETTER,
        [arrival(ADA)],
        [],
        "delivered, but the events do not say so",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str) -> None:
    letter, arrivals, events, expected = WRONG[case]
    assert expected in complaints(account([letter], arrivals, events, {BOB}))


def test_an_altered_body_comes_with_both_sides() -> None:
    result = account([LETTER], [arrival(ADA, content=b"other\r\n")], [event("delivered", ADA)])
    assert (result.problems[0].expected, result.problems[0].arrived) == (CONTENT, b"other\r\n")


def test_submissions_that_cannot_be_told_apart_are_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be told"):
        account([LETTER, LETTER], [], [])


BODIES = [
    (RECEIVED + CONTENT, None),
    (b"Received: x\r\n" + CONTENT, None),
    (CONTENT, "no Received field on top"),
    (b"Delivered-To: x\r\n" + CONTENT, "no Received field on top"),
    (b"Received: x" + CONTENT, "no Received field on top"),
    (RECEIVED + RECEIVED + CONTENT, "more than one field"),
    (b"Received: x\r\nX-More: y\r\n" + CONTENT, "more than one field"),
    (RECEIVED + b"\r\n" + CONTENT, "more than one field"),
    (RECEIVED + CONTENT + b"\r\n", "body altered"),
    (RECEIVED + CONTENT[:-1], "body altered"),
]


@pytest.mark.parametrize(("arrived", "difference"), BODIES)
def test_only_one_received_field_may_be_added(arrived: bytes, difference: str | None) -> None:
    found = body_difference(CONTENT, arrived)
    assert (found is None) if difference is None else found is not None and difference in found


def test_a_body_that_starts_folded_is_told_from_the_field_above_it() -> None:
    folded = b" folded\r\nSubject: x\r\n\r\n"
    assert body_difference(folded, RECEIVED + folded) is None


def test_failed_recipients_are_those_whose_action_is_failed() -> None:
    content = report(ADA, BOB).content or b""
    assert failed_recipients(content) == [ADA, BOB]
    assert failed_recipients(content.replace(b"failed", b"delayed", 1)) == [BOB]


def test_awaited_are_deliveries_and_the_dsns_of_refused_recipients() -> None:
    submissions = [
        Submission(PATH, (ADA, BOB), CONTENT),
        Submission("", (BOB,), CONTENT),
    ]
    assert awaited(submissions, {BOB}) == {(PATH, ADA), ("", PATH)}
