"""When a deferred delivery is tried again: tables (RFC 5321 4.5.4.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwrelay.queue.retry import RetryPolicy, hint_s

STEADY = RetryPolicy((60, 300, 3600), lifetime_s=10_000, bounce_lifetime_s=1_000, jitter=0.0)


@pytest.mark.parametrize(
    ("attempts", "delay_s"), [(1, 60), (2, 300), (3, 3600), (4, 3600), (5, 3600), (1000, 3600)]
)
def test_the_delays_are_used_in_order_and_the_last_repeats(attempts: int, delay_s: float) -> None:
    assert STEADY.delay_s(attempts, 0.5) == delay_s


@pytest.mark.parametrize(
    ("chance", "factor"), [(0.0, 0.85), (0.25, 0.925), (0.5, 1.0), (0.75, 1.075), (1.0, 1.15)]
)
def test_jitter_spreads_a_delay_evenly_to_both_sides(chance: float, factor: float) -> None:
    policy = STEADY._replace(jitter=0.15)
    assert policy.delay_s(2, chance) == pytest.approx(300 * factor)


@pytest.mark.parametrize(
    ("is_bounce", "expires_at"), [(False, 10_500), (True, 1_500)], ids=["mail", "bounce"]
)
def test_bounces_live_shorter_than_mail(is_bounce: bool, expires_at: float) -> None:
    assert STEADY.expires_at(500, is_bounce) == expires_at


@pytest.mark.parametrize(
    ("now", "expires_at", "due"),
    [
        (0, 10_000, 3600),
        (6_400, 10_000, 10_000),
        (6_401, 10_000, 10_000),
        (9_999, 10_000, 10_000),
        # Settlement fails what is past its lifetime; nothing ever becomes due in the past.
        (10_000, 10_000, 10_000),
        (10_001, 10_000, 10_001),
    ],
)
def test_the_last_attempt_comes_at_the_end_of_the_lifetime(
    now: float, expires_at: float, due: float
) -> None:
    assert STEADY.next_due(3, now, expires_at, 0.5) == due


@given(
    attempts=st.integers(1, 200),
    chance=st.floats(0, 1),
    now=st.floats(0, 2e9),
    left=st.floats(-1e6, 1e6),
)
def test_a_delivery_is_never_due_before_now_nor_after_its_lifetime(
    attempts: int, chance: float, now: float, left: float
) -> None:
    policy = RetryPolicy()
    due = policy.next_due(attempts, now, now + left, chance)
    assert now <= due <= max(now + left, now)
    assert policy.delay_s(attempts, chance) <= policy.longest_delay_s


@pytest.mark.parametrize(
    ("warning_s", "age_s", "is_late"),
    [
        (0, 0, False),
        (0, 1e9, False),
        (100, -5, False),
        (100, 0, False),
        (100, 99.9, False),
        (100, 100, True),
        (100, 1e9, True),
    ],
)
def test_mail_is_late_at_the_age_that_is_given_if_one_is(
    warning_s: float, age_s: float, is_late: bool
) -> None:
    assert STEADY._replace(delay_warning_s=warning_s).is_late(500, 500 + age_s) is is_late


def test_the_defaults_give_a_message_five_days_and_a_bounce_one() -> None:
    policy = RetryPolicy()
    assert policy.delays_s[:3] == (60, 300, 600)
    assert policy.delays_s[-1] == 4 * 3600
    assert policy.lifetime_s == 5 * 86400
    assert policy.bounce_lifetime_s == 86400
    assert policy.delay_warning_s == 0


@pytest.mark.parametrize(
    ("in_doubt", "expires_at", "due"),
    [
        # The wait, whatever the schedule says, and whole even at the end of the lifetime.
        ("wait", 10_000, 1_900),
        ("wait", 1_100, 1_900),
        ("wait", 500, 1_900),
        # As after any other deferral.
        ("retry", 10_000, 1_300),
        ("retry", 1_100, 1_100),
        ("hold", 10_000, 1_300),
    ],
)
def test_what_is_in_doubt_is_due_by_the_policy(
    in_doubt: str, expires_at: float, due: float
) -> None:
    policy = STEADY._replace(in_doubt=in_doubt, in_doubt_wait_s=900)
    assert policy.due_in_doubt(2, 1_000, expires_at, 0.9) == due


def test_the_longest_delay_is_the_wait_in_doubt_when_that_is_longer() -> None:
    assert STEADY.longest_delay_s == 3600
    assert STEADY._replace(in_doubt_wait_s=5000).longest_delay_s == 5000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Greylisted, please try again in 300 seconds", 300),
        ("greylisted for 5 minutes", 300),
        ("Greylisting in action, please come back in 00:04:58", 300),
        ("retry after 61 sec", 70),
        ("try again in 1 hour", 3600),
        ("Please wait 2m", 120),
        ("come back in 0 seconds", 10),
        ("too many connections, try again later", 0),
        ("try again later; see https://x.test/help/300", 0),
        ("mailbox busy, 300 seconds", 0),
        ("try again in 999999999 seconds", 0),
        ("", 0),
    ],
)
def test_a_reply_may_say_when_to_come_again(text: str, seconds: float) -> None:
    assert hint_s(text) == seconds


@pytest.mark.parametrize(
    ("hint", "chance", "delay_s"),
    [(0, 0.5, 60), (300, 0.0, 300), (300, 1.0, 345), (10, 0.0, 10), (90_000, 0.0, 4140)],
)
def test_a_hint_takes_the_place_of_the_delay_within_bounds(
    hint: float, chance: float, delay_s: float
) -> None:
    policy = STEADY._replace(jitter=0.15)
    assert policy.next_due(1, 1_000, 99_000, chance, hint) == pytest.approx(1_000 + delay_s)


def test_a_hint_does_not_outlive_the_lifetime() -> None:
    assert STEADY.next_due(1, 1_000, 1_100, 0.5, 300) == 1_100
