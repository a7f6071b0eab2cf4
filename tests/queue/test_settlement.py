"""What becomes of a delivery after an attempt: outcomes × lifetime × bounce, as a table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwrelay.errors import AccountingError
from gwrelay.message.outcome import Kind, Outcome
from gwrelay.message.reply import Reply
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.settlement import settle, without_answer
from gwrelay.queue.store import Doubt, Host, Open
from support.mail import DEFERRED, DELIVERED, FAILED, IN_DOUBT, UNREACHED

POLICY = RetryPolicy((60, 300), lifetime_s=1000, bounce_lifetime_s=100, jitter=0.0)
EARLY, LATE = 50.0, 1000.0
LETTERS = {"d": DELIVERED, "t": DEFERRED, "f": FAILED, "?": IN_DOUBT, "u": UNREACHED}


def delivery(
    recipients: tuple[int, ...],
    is_bounce: bool = False,
    attempts: int = 0,
    doubt: Doubt | None = None,
) -> Delivery:
    return Delivery(7, "b.test", recipients, 0.0, is_bounce, attempts, doubt=doubt)


def outcomes(letters: str) -> dict[int, Outcome]:
    """One for each recipient from 0: delivered, temporary, failed, in doubt (?), unreached."""
    return {n: LETTERS[letter] for n, letter in enumerate(letters)}


@pytest.mark.parametrize(
    ("letters", "now", "is_bounce", "remaining", "failed", "expired", "owes_dsn"),
    [
        # One recipient.
        ("d", EARLY, False, (), [], [], False),
        ("d", LATE, False, (), [], [], False),
        ("t", EARLY, False, (0,), [], [], False),
        ("t", LATE, False, (), [0], [0], True),
        ("f", EARLY, False, (), [0], [], True),
        ("f", LATE, False, (), [0], [], True),
        ("?", EARLY, False, (0,), [], [], False),
        ("?", LATE, False, (), [0], [0], True),
        ("u", EARLY, False, (0,), [], [], False),
        ("u", LATE, False, (), [0], [0], True),
        # A bounce: the same, in its own lifetime, and nobody is told.
        ("d", EARLY, True, (), [], [], False),
        ("t", EARLY, True, (0,), [], [], False),
        ("t", 99.9, True, (0,), [], [], False),
        ("t", 100.0, True, (), [0], [0], False),
        ("f", EARLY, True, (), [0], [], False),
        # The very end of the lifetime.
        ("t", 999.9, False, (0,), [], [], False),
        # Several: each for itself, one report for all that failed.
        ("dtf", EARLY, False, (1,), [2], [], True),
        ("dtf", LATE, False, (), [1, 2], [1], True),
        ("dtf", EARLY, True, (1,), [2], [], False),
        ("tdt", EARLY, False, (0, 2), [], [], False),
        ("ftd?u", EARLY, False, (1, 3, 4), [0], [], True),
        ("ftd?u", LATE, False, (), [0, 1, 3, 4], [1, 3, 4], True),
        ("dd", LATE, False, (), [], [], False),
        ("ff", EARLY, False, (), [0, 1], [], True),
    ],
)
def test_each_recipient_stays_fails_or_is_done(
    letters: str,
    now: float,
    is_bounce: bool,
    remaining: tuple[int, ...],
    failed: list[int],
    expired: list[int],
    owes_dsn: bool,
) -> None:
    told = outcomes(letters)
    settlement = settle(delivery(tuple(told), is_bounce), told, POLICY, now, 0.5)
    assert sorted(n for part in settlement.remaining for n in part.recipients) == list(remaining)
    assert sorted(settlement.failed) == failed
    assert sorted(settlement.expired) == expired
    assert settlement.owes_dsn is owes_dsn


def test_what_remains_is_due_after_the_delay_of_its_attempt() -> None:
    settlement = settle(delivery((0, 3), attempts=1), {0: DEFERRED, 3: DELIVERED}, POLICY, 50, 0.5)
    assert settlement.remaining == (Open("b.test", (0,), 2, 350.0),)


def test_what_remains_is_due_at_the_end_of_its_lifetime_at_the_latest() -> None:
    settlement = settle(delivery((0,), attempts=5), {0: DEFERRED}, POLICY, 900, 0.5)
    assert settlement.remaining == (Open("b.test", (0,), 6, 1000.0),)


def test_an_expired_recipient_fails_with_the_last_words_it_got() -> None:
    settlement = settle(delivery((0,)), {0: DEFERRED}, POLICY, LATE, 0.5)
    assert settlement.failed[0] == DEFERRED._replace(kind=Kind.FAILED)


HOST = Host("mx.test", "192.0.2.1", 2525)
HELD = UNREACHED._replace(hold="checksum", exchange="", address="")
#: Nobody was asked: no name server answered, or the disk did not.
UNASKED = UNREACHED._replace(exchange="", address="")
IN_DOUBT_ELSEWHERE = IN_DOUBT._replace(exchange="mx2.test", address="192.0.2.2")
OLD, NOW = Doubt(HOST, 5.0), 50.0
NEW = Doubt(Host("mx.test", "192.0.2.1", 0), NOW)
ELSEWHERE = Doubt(Host("mx2.test", "192.0.2.2", 0), NOW)
MAY_HAVE_IT = "in doubt: mx.test[192.0.2.1] may have taken it"


@pytest.mark.parametrize(
    ("in_doubt", "before", "told", "doubt", "held", "due_at"),
    [
        # In doubt: who may have it is kept, as noted before the final dot if it was.
        ("wait", None, IN_DOUBT, NEW, "", NOW + 900),
        ("wait", OLD, IN_DOUBT, OLD, "", NOW + 900),
        ("wait", OLD, IN_DOUBT_ELSEWHERE, ELSEWHERE, "", NOW + 900),
        ("retry", None, IN_DOUBT, NEW, "", NOW + 60),
        ("retry", OLD, IN_DOUBT, OLD, "", NOW + 60),
        ("hold", None, IN_DOUBT, NEW, MAY_HAVE_IT, NOW + 60),
        ("hold", OLD, IN_DOUBT, OLD, MAY_HAVE_IT, NOW + 60),
        # Whoever was in doubt was asked before anyone else was.
        ("wait", OLD, DEFERRED, None, "", NOW + 60),
        ("wait", OLD, UNREACHED, None, "", NOW + 60),
        ("hold", OLD, DEFERRED, None, "", NOW + 60),
        # Nobody was: he still may have it.
        ("wait", OLD, UNASKED, OLD, "", NOW + 60),
        # Damaged, in doubt or not.
        ("wait", None, HELD, None, "checksum", NOW + 60),
        ("retry", OLD, HELD, OLD, "checksum", NOW + 60),
        ("hold", OLD, IN_DOUBT._replace(hold="checksum"), OLD, "checksum", NOW + 60),
    ],
)
def test_what_stays_is_in_doubt_or_held_as_it_was_told(
    in_doubt: str,
    before: Doubt | None,
    told: Outcome,
    doubt: Doubt | None,
    held: str,
    due_at: float,
) -> None:
    policy = POLICY._replace(in_doubt=in_doubt)
    settlement = settle(delivery((0,), doubt=before), {0: told}, policy, NOW, 0.5)
    assert settlement.remaining == (Open("b.test", (0,), 1, due_at, held, doubt),)


def test_recipients_that_fare_differently_part() -> None:
    told = {0: IN_DOUBT, 1: DEFERRED, 2: IN_DOUBT, 3: DELIVERED, 4: HELD, 5: UNREACHED}
    settlement = settle(delivery(tuple(range(6))), told, POLICY, NOW, 0.5)
    assert settlement.remaining == (
        Open("b.test", (0, 2), 1, NOW + 900, "", NEW),
        Open("b.test", (1, 5), 1, NOW + 60),
        Open("b.test", (4,), 1, NOW + 60, "checksum"),
    )


@pytest.mark.parametrize("told", [HELD, IN_DOUBT])
def test_what_is_held_does_not_expire(told: Outcome) -> None:
    """Somebody has to look at it; until then a report would be a guess."""
    policy = POLICY._replace(in_doubt="hold")
    settlement = settle(delivery((0,)), {0: told}, policy, LATE, 0.5)
    [part] = settlement.remaining
    assert part.held
    assert (settlement.failed, settlement.owes_dsn) == ({}, False)


@pytest.mark.parametrize("in_doubt", ["wait", "retry", "hold"])
def test_without_an_answer_it_stays_as_after_an_attempt_in_doubt(in_doubt: str) -> None:
    policy = POLICY._replace(in_doubt=in_doubt)
    tried = delivery((0, 3), attempts=1)
    noted = without_answer(tried, HOST, policy, NOW, 0.5)
    assert noted.doubt == Doubt(HOST, NOW, told=False)
    tried.doubt = noted.doubt
    told = dict.fromkeys((0, 3), IN_DOUBT)
    stays = noted._replace(doubt=Doubt(HOST, NOW))
    assert settle(tried, told, policy, NOW, 0.5).remaining == (stays,)


@pytest.mark.parametrize(
    "told",
    [
        {},
        {0: DELIVERED},
        {0: DELIVERED, 1: DELIVERED},
        {0: DELIVERED, 1: DELIVERED, 2: DELIVERED, 3: DELIVERED},
    ],
    ids=["none", "one of two", "another", "too many"],
)
def test_outcomes_that_are_not_the_deliverys_are_refused(told: dict[int, Outcome]) -> None:
    with pytest.raises(AccountingError):
        settle(delivery((0, 2)), told, POLICY, EARLY, 0.5)


@given(
    st.lists(st.sampled_from(sorted(LETTERS)), min_size=1, max_size=8).map("".join),
    st.floats(0, 2000),
    st.booleans(),
    st.integers(0, 50),
    st.floats(0, 1),
)
def test_every_recipient_is_in_exactly_one_place_afterwards(
    letters: str, now: float, is_bounce: bool, attempts: int, chance: float
) -> None:
    told = outcomes(letters)
    settlement = settle(delivery(tuple(told), is_bounce, attempts), told, POLICY, now, chance)
    stays = [n for part in settlement.remaining for n in part.recipients]
    done = [n for n, verdict in told.items() if verdict.kind is Kind.DELIVERED]
    assert sorted([*stays, *settlement.failed, *done]) == list(told)
    assert set(settlement.expired) <= set(settlement.failed)


@pytest.mark.parametrize(("honors", "due_at"), [(True, NOW + 300), (False, NOW + 60)])
def test_what_was_put_off_for_a_time_is_due_then(honors: bool, due_at: float) -> None:
    policy = POLICY._replace(honors_hints=honors, jitter=0.0)
    greylisted = DEFERRED._replace(reply=Reply(450, "4.7.1", "greylisted for 300 seconds"))
    told = {0: greylisted, 1: greylisted, 2: DEFERRED}
    parts = settle(delivery((0, 1, 2)), told, policy, NOW, 0.5).remaining
    dues = {part.recipients: part.due_at for part in parts}
    expected = {(0, 1): due_at, (2,): NOW + 60} if honors else {(0, 1, 2): NOW + 60}
    assert dues == expected


def test_what_we_say_ourselves_and_what_is_refused_for_good_is_no_hint() -> None:
    policy = POLICY._replace(jitter=0.0)
    ours = DEFERRED._replace(reply=Reply(450, "", "try again in 300 seconds"), heard=False)
    banner = DEFERRED._replace(reply=Reply(554, "", "try again in 300 seconds"))
    [part] = settle(delivery((0, 1)), {0: ours, 1: banner}, policy, NOW, 0.5).remaining
    assert part.due_at == NOW + 60
