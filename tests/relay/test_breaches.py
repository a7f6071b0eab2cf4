"""How often the postmaster is told that hosts break the protocol."""

from gwrelay.message.notice import Breach
from gwrelay.relay.breaches import AN_HOUR_S, MOST_AN_HOUR, Told, after_telling

NOW = 1_000_000.0


def breach(exchange: str = "mx.example", address: str = "192.0.2.1") -> Breach:
    return Breach(exchange, address, "rcpt", "399 what")


def test_the_first_is_told_and_remembered() -> None:
    assert after_telling([], breach(), NOW) == [Told("mx.example", "192.0.2.1", NOW)]


def test_the_same_host_is_told_of_once_an_hour_by_name_or_by_address() -> None:
    told = after_telling([], breach(), NOW) or []
    for again in (breach(), breach(address="192.0.2.2"), breach("other.example")):
        assert after_telling(told, again, NOW + AN_HOUR_S - 1) is None
        assert after_telling(told, again, NOW + AN_HOUR_S) == [Told(*again[:2], NOW + AN_HOUR_S)]


def test_all_together_are_told_of_a_bounded_number_of_times_an_hour() -> None:
    told: list[Told] = []
    for n in range(MOST_AN_HOUR):
        told = after_telling(told, breach(f"mx{n}.example", f"192.0.2.{n}"), NOW + n) or []
    assert len(told) == MOST_AN_HOUR
    one_more = breach("more.example", "198.51.100.1")
    assert after_telling(told, one_more, NOW + MOST_AN_HOUR) is None
    # The first of them is over: there is room for one.
    after = after_telling(told, one_more, NOW + AN_HOUR_S)
    assert after is not None
    assert len(after) == MOST_AN_HOUR
    assert after_telling(after, breach("yet.example", "198.51.100.2"), NOW + AN_HOUR_S) is None


def test_a_clock_that_went_back_does_not_silence_anybody() -> None:
    told = [Told("mx.example", "192.0.2.1", NOW + 10 * AN_HOUR_S)]
    assert after_telling(told, breach(), NOW) == [Told("mx.example", "192.0.2.1", NOW)]
