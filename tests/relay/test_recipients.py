"""Whom the next host is asked about: verdicts of the hosts before it, as tables."""

import pytest

from gwrelay.errors import ConnectionLost
from gwrelay.message import outcome
from gwrelay.message.outcome import Outcome
from gwrelay.message.reply import Reply
from gwrelay.queue.store import Doubt, Host
from gwrelay.relay.recipients import is_incapable, left_for_the_next, may_ask_another
from support.mail import DEFERRED, DELIVERED, FAILED, IN_DOUBT, UNREACHED

INCAPABLE = outcome.of_ours("mail", Reply(552, "5.3.4", "too large"))
NO_ADDRESS = outcome.of_ours("rcpt", Reply(553, "5.1.3", "no address"))
DAMAGED = DEFERRED._replace(hold="record 7 fails its checksum")
AT_THE_SAME = Doubt(Host(IN_DOUBT.exchange, IN_DOUBT.address), 0.0)
ELSEWHERE = Doubt(Host("other.test", "192.0.2.2"), 0.0)


@pytest.mark.parametrize(
    ("verdict", "doubt", "may"),
    [
        (None, None, True),
        (DELIVERED, None, False),
        (FAILED, None, False),
        (DEFERRED, None, True),
        (UNREACHED, None, True),
        (DAMAGED, None, False),
        (INCAPABLE, None, True),
        (NO_ADDRESS, None, False),
        (IN_DOUBT, None, False),
        (IN_DOUBT, ELSEWHERE, False),
        (IN_DOUBT, AT_THE_SAME, True),
        (DELIVERED, AT_THE_SAME, False),
        (None, AT_THE_SAME, True),
    ],
)
def test_a_further_host_is_asked_about_those_who_want_an_answer(
    verdict: Outcome | None, doubt: Doubt | None, may: bool
) -> None:
    assert may_ask_another(verdict, doubt) is may


def test_only_our_own_no_is_a_want_of_capability() -> None:
    assert is_incapable(INCAPABLE)
    others = (DELIVERED, DEFERRED, FAILED, IN_DOUBT, UNREACHED, NO_ADDRESS)
    assert not any(map(is_incapable, others))


def said(code: int, status: str, stage: str = "rcpt") -> Outcome:
    return outcome.of_reply(stage, Reply(code, status, "text"))


@pytest.mark.parametrize(
    ("verdict", "again"),
    [
        (said(452, "4.5.3"), True),
        (said(452, ""), True),  # RFC 5321 4.5.3.1.10 knows no statuses
        (said(452, "4.3.1"), False),  # no room on their disk
        (said(452, "4.2.2"), False),  # no room in the mailbox
        (said(552, "5.5.3"), False),
        (said(552, ""), False),
        (said(450, "4.5.3"), False),
        (said(452, "4.5.3", "dot"), False),
        (said(421, "4.7.0"), True),
        (said(421, "4.7.0", "data"), False),
        (outcome.of_loss(ConnectionLost("rcpt", "closed")), False),
    ],
)
def test_who_was_too_many_goes_again_when_others_were_answered(
    verdict: Outcome, again: bool
) -> None:
    assert left_for_the_next([0, 1, 2], {0: DELIVERED, 1: verdict, 2: FAILED}) == [1] * again
    assert left_for_the_next([1], {1: verdict}) == []
