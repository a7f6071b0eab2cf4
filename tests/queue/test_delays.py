"""Whose sender is told of a delay, when, and why it is: age × what is open of the message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwrelay.message.outcome import Outcome
from gwrelay.queue.delays import Delay, warn
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.store import Doubt, Host, Open, State
from support.mail import DEFERRED, FAILED, IN_DOUBT, UNREACHED

POLICY = RetryPolicy((60,), lifetime_s=1000, bounce_lifetime_s=1000, delay_warning_s=100)
DOUBT = Doubt(Host("mx.test", "192.0.2.1", 25), 5.0)
EARLY, LATE = 99.9, 100.0


def state(*parts: Open, is_bounce: bool = False) -> State:
    return State(0.0, is_bounce, parts, 7)


def part(
    *recipients: int, held: str = "", doubt: Doubt | None = None, warned: bool = False
) -> Open:
    return Open("b.test", recipients, 3, 90.0, held, doubt, warned)


@pytest.mark.parametrize(
    ("before", "now", "told", "delayed", "warned"),
    [
        # Age, and whose message it is.
        (state(part(0)), EARLY, {0: DEFERRED}, [], []),
        (state(part(0)), LATE, {0: DEFERRED}, [0], [0]),
        (state(part(0)), 999.9, {0: DEFERRED}, [0], [0]),
        (state(part(0)), 1000.0, {0: DEFERRED}, [], []),
        (state(part(0), is_bounce=True), LATE, {0: DEFERRED}, [], []),
        # Once.
        (state(part(0, warned=True)), LATE, {0: DEFERRED}, [], [0]),
        # All that is open of the message, whatever its turn; but never twice, and not held.
        (state(part(1), part(2, 4)), LATE, {0: FAILED, 1: DEFERRED}, [1, 2, 4], [1, 2, 4]),
        (state(part(0), part(1, warned=True)), LATE, {0: DEFERRED}, [0], [0, 1]),
        (state(part(0), part(1, held="damaged")), LATE, {0: DEFERRED}, [0], [0]),
        (state(part(0, held="damaged")), LATE, {0: DEFERRED}, [], []),
        (state(part(0), part(1, doubt=DOUBT)), LATE, {0: DEFERRED}, [0, 1], [0, 1]),
        # A turn that leaves nothing new to say says nothing of the others.
        (state(part(0, warned=True), part(1)), LATE, {0: DEFERRED}, [], [0]),
        (state(part(0, held="damaged"), part(1)), LATE, {0: DEFERRED}, [], []),
        (state(part(1)), LATE, {0: FAILED}, [], []),
        (state(), LATE, {0: FAILED}, [], []),
    ],
)
def test_a_sender_is_told_once_of_all_that_waits(
    before: State, now: float, told: dict[int, Outcome], delayed: list[int], warned: list[int]
) -> None:
    after, late = warn(before, told, POLICY, now)
    assert list(late) == delayed
    assert [n for one in after.open if one.warned for n in one.recipients] == warned
    # And nothing else changes.
    assert [one._replace(warned=False) for one in after.open] == [
        one._replace(warned=False) for one in before.open
    ]
    assert after[:2] + after[3:] == before[:2] + before[3:]


def test_nobody_is_told_when_warnings_are_off() -> None:
    before = state(part(0))
    assert warn(before, {0: DEFERRED}, POLICY._replace(delay_warning_s=0.0), 999) == (before, {})


MAY_HAVE_IT = "421 4.4.2 no answer came (in dot) - possible duplicate"
GREYLISTED = str(DEFERRED.reply)


@pytest.mark.parametrize(
    ("doubt", "told", "tried", "recalled", "reply", "in_doubt"),
    [
        # What the attempt was told, or what others were told because of whom it is put off.
        (None, DEFERRED, True, None, GREYLISTED, False),
        (None, DEFERRED, True, UNREACHED, GREYLISTED, False),
        (None, UNREACHED, False, DEFERRED, str(UNREACHED.reply), False),
        # Nobody was told anything since: the last time, if that is known.
        (None, None, False, DEFERRED, GREYLISTED, False),
        (None, None, False, None, "451 4.0.0 not delivered yet; will be tried again", False),
        # It may be there already.
        (DOUBT, IN_DOUBT, True, None, str(IN_DOUBT.reply), True),
        (DOUBT, UNREACHED, True, None, MAY_HAVE_IT, True),
        (DOUBT, UNREACHED, False, None, MAY_HAVE_IT, True),
        (DOUBT, None, False, DEFERRED, MAY_HAVE_IT, True),
    ],
)
def test_the_reason_is_the_newest_that_is_known_but_doubt_comes_first(
    doubt: Doubt | None,
    told: Outcome | None,
    tried: bool,
    recalled: Outcome | None,
    reply: str,
    in_doubt: bool,
) -> None:
    before = state(part(0, 1, doubt=doubt))
    recall = {0: recalled}.get
    _, late = warn(before, dict.fromkeys((0, 1), told), POLICY, LATE, tried=tried, recall=recall)
    assert [delay.tried for delay in late.values()] == [tried] * 2
    assert [str(delay.outcome.reply) for delay in late.values()] == [reply] * 2
    assert [delay.outcome.in_doubt for delay in late.values()] == [in_doubt] * 2
    if in_doubt:
        assert late[0].outcome.exchange == "mx.test"


def test_other_parts_wait_for_what_they_were_told() -> None:
    before = state(part(0), part(1, 3), part(2), part(4, doubt=DOUBT))
    _, late = warn(before, {0: DEFERRED}, POLICY, LATE, recall={1: UNREACHED}.get)
    assert late[0] == Delay(DEFERRED, tried=True)
    assert late[1] == late[3] == Delay(UNREACHED, tried=False)
    assert str(late[2].outcome.reply).endswith("will be tried again")
    assert str(late[4].outcome.reply) == MAY_HAVE_IT
    assert not late[2].tried
    assert not late[4].tried


PARTS = st.lists(
    st.tuples(st.sampled_from(["", "damaged"]), st.booleans(), st.booleans()), max_size=5
).map(
    lambda drawn: tuple(
        part(n, held=held, doubt=DOUBT if doubt else None, warned=warned)
        for n, (held, doubt, warned) in enumerate(drawn)
    )
)


@given(PARTS, st.lists(st.lists(st.integers(0, 4)), max_size=5), st.floats(0, 1100))
def test_nobody_is_told_twice_of_a_recipient_nor_of_one_on_hold(
    parts: tuple[Open, ...], turns: list[list[int]], now: float
) -> None:
    told: list[int] = [one.recipients[0] for one in parts if one.warned]
    after = state(*parts)
    for turn in turns:
        after, late = warn(after, dict.fromkeys(turn, DEFERRED), POLICY, now)
        told += late
    assert len(told) == len(set(told))
    assert {one.recipients[0] for one in after.open if one.warned} == set(told)
    assert not {one.recipients[0] for one in parts if one.held and not one.warned} & set(told)
