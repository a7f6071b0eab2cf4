"""A site's live state: what is ready, who is on the way to take it, and how many may be."""

from itertools import count
from textwrap import dedent

import pytest

from gwrelay.mx.candidates import Candidate
from gwrelay.queue.delivery import Delivery
from gwrelay.relay.hosts import SiteHosts
from gwrelay.relay.shaping import PATIENCE
from gwrelay.relay.site import Site
from support.mail import UNREACHED
from support.patched import run_patched
from support.relaying import new_calculator
from support.table_resolver import SetClock, TableResolver

MX = Candidate("mx.test", "192.0.2.1")


def new_site(limit: int = 3) -> Site:
    calculator = new_calculator(TableResolver({}), SetClock())
    return Site("key", "mx.test", limit, SiteHosts(calculator, ""))


def delivery(message_id: int) -> Delivery:
    return Delivery(message_id, "b.test", (0,), 0.0, False)


#: What the scripts about idle relayers begin with: greenlets, so that idle() is certain to
#: return when they wait.
IDLING = """
    import gevent
    from gwrelay.queue.delivery import Delivery
    from gwrelay.relay.site import Site

    site = Site("key", "mx.test", 5, None)

    def put(message_id):
        site.put(Delivery(message_id, "b.test", (0,), 0.0, False))

    def relayers(count, idle_s=10.0):
        site.relayers = count
        takers = [gevent.spawn(site.take, idle_s) for _ in range(count)]
        gevent.idle()
        return takers

    def taken(takers):
        gevent.joinall(takers, timeout=5, raise_error=True)
        return sorted(t.value.message_id for t in takers if t.value is not None)
"""


def run_idling(script: str) -> None:
    run_patched(dedent(IDLING) + dedent(script))


def test_ready_deliveries_are_taken_oldest_first() -> None:
    site = new_site()
    for n in range(3):
        site.put(delivery(n))
    assert [site.take(0).message_id for _ in range(3)] == [0, 1, 2]
    assert site.take(0) is None


@pytest.mark.parametrize(
    ("ready", "relayers", "limit", "wanted"),
    [
        (0, 0, 3, 0),
        (1, 0, 3, 1),
        (2, 0, 3, 2),
        (5, 0, 3, 3),
        (5, 2, 3, 1),
        (5, 3, 3, 0),
        (5, 4, 3, 0),
        (1, 2, 3, 1),
    ],
)
def test_one_relayer_is_wanted_for_each_delivery_within_the_window(
    ready: int, relayers: int, limit: int, wanted: int
) -> None:
    site = new_site(limit)
    for n in range(ready):
        site.put(delivery(n))
    site.relayers = relayers
    assert site.wanted() == wanted


def test_everything_ready_can_be_taken_back_at_once() -> None:
    site = new_site()
    for n in range(3):
        site.put(delivery(n))
    assert [d.message_id for d in site.take_ready()] == [0, 1, 2]
    assert not site.ready
    assert site.is_unused


def test_a_site_is_unused_without_relayers_and_deliveries() -> None:
    site = new_site()
    assert site.is_unused
    site.relayers = 1
    assert not site.is_unused


# -- the window -----------------------------------------------------------------------------


def test_the_window_closes_to_one_probe_and_opens_by_one_with_each_success() -> None:
    site = new_site(limit=3)
    site.note_no_connection(500.0, UNREACHED)
    assert site.dead_until == 500.0
    assert site.last_failure == UNREACHED
    for n in range(10):
        site.put(delivery(n))
    assert site.wanted() == 1
    opened = []
    for _ in range(4):
        site.relayers = site.window
        site.note_success()
        opened.append(site.window)
    assert opened == [2, 3, 3, 3]
    assert site.dead_until == 0.0


def test_a_relayer_in_excess_of_the_window_is_sent_away() -> None:
    site = new_site()
    site.relayers = 2
    site.put(delivery(1))
    site.note_no_connection(0.0, UNREACHED)
    assert site.take(0) is None
    site.relayers = 1
    assert site.take(0).message_id == 1


def test_a_site_that_refused_a_session_keeps_those_it_has_for_a_while() -> None:
    site = new_site(limit=9)
    site.hosts.add_session(MX)
    site.hosts.add_session(MX)
    for n in range(20):
        site.put(delivery(n))
    site.note_no_connection(0.0, UNREACHED)
    assert site.wanted() == 2
    site.relayers = 2
    for _ in range(PATIENCE + 1):
        site.note_success()
    assert site.wanted() == 0
    site.note_success()
    assert site.wanted() == 1


def test_what_could_not_be_tried_is_the_next_one_to_be() -> None:
    site = new_site()
    for n in range(3):
        site.put(delivery(n))
    taken = site.take(0)
    site.put_back(taken)
    assert site.take(0) is taken


# -- mail asleep ------------------------------------------------------------------------------


def asleep(site: Site, *numbers: int) -> list[int]:
    """Put deliveries to sleep, number n having arrived at second n; whom wake() wakes."""
    woken: list[int] = []
    for n in numbers:
        site.sleep(Delivery(n, "b.test", (0,), float(n), False), lambda entry: True)
    return woken


def test_those_asleep_are_woken_oldest_first_and_twice_as_many_as_the_window_takes() -> None:
    site = new_site(limit=9)
    site.note_no_connection(500.0, UNREACHED)
    woken = asleep(site, 5, 3, 9, 1, 7, 8, 2, 4, 6)

    def hasten(entry: int, message_id: int, part: int) -> bool:
        woken.append(message_id)
        return True

    site.wake(hasten)
    assert woken == [1, 2]
    site.relayers = 1
    site.note_success()
    site.wake(hasten)
    assert woken == [1, 2, 3, 4, 5, 6]
    for n in range(4):
        site.put(delivery(n))
    site.wake(hasten)
    assert len(woken) == 6, "enough are ready"
    assert site.has_sleepers


def test_those_who_are_no_longer_asleep_take_nobodys_place() -> None:
    site = new_site()
    site.note_no_connection(500.0, UNREACHED)
    asleep(site, *range(10))
    still = [3, 8, 9]
    site.wake(lambda entry, message_id, part: message_id in still)
    assert site.has_sleepers, "9 is left"
    site.wake(lambda entry, message_id, part: message_id in still)
    assert not site.has_sleepers


def test_those_put_to_sleep_again_and_again_do_not_pile_up() -> None:
    site = new_site()
    sleepers = [delivery(n) for n in range(100)]
    entries = count(1)
    asleep: set[int] = set()
    for _ in range(50):
        for sleeper in sleepers:
            asleep.discard(sleeper.entry)
            sleeper.entry = next(entries)
            asleep.add(sleeper.entry)
            site.sleep(sleeper, asleep.__contains__)
    asked: list[int] = []
    while site.has_sleepers:
        site.wake(lambda entry, message_id, part: asked.append(entry) or entry in asleep)
    assert set(asked) >= asleep
    assert len(asked) <= 1100, "of 5000"


def test_turns_of_one_death_follow_each_other_and_a_new_death_starts_anew() -> None:
    site = new_site()
    site.note_no_connection(500.0, UNREACHED)
    turns = [site.next_turn() for _ in range(1000)]
    assert turns[0] == 500.0
    assert turns == sorted(turns)
    assert 501.0 < turns[-1] < 510.0
    # Others of the same crowd find it dead as well.
    site.note_no_connection(500.0, UNREACHED)
    assert site.next_turn() > turns[-1]
    site.note_no_connection(900.0, UNREACHED)
    assert site.next_turn() == 900.0


# -- idle relayers ----------------------------------------------------------------------------


def test_an_idle_relayer_is_woken_by_a_delivery() -> None:
    run_idling("""
        takers = relayers(1)
        put(7)
        assert taken(takers) == [7]
        """)


def test_a_relayer_that_idles_in_vain_goes_and_is_not_counted_on() -> None:
    run_idling("""
        takers = relayers(1, idle_s=0.001)
        assert taken(takers) == []
        put(1)
        assert site.wanted() == 1
        """)


def test_a_woken_relayer_is_counted_for_one_delivery_and_not_for_two() -> None:
    run_idling("""
        takers = relayers(2)
        wanted = []
        for n in range(4):
            put(n)
            wanted.append(site.wanted())
        assert wanted == [0, 0, 1, 2], wanted
        # The same when they have run: what they took is not ready any more.
        assert taken(takers) == [0, 1]
        assert site.wanted() == 2
        """)


def test_a_delivery_handed_to_an_idle_relayer_is_not_taken_by_another() -> None:
    """Woken in vain it would close a good session, and the next message open another."""
    run_idling("""
        takers = relayers(1)
        put(7)
        assert site.take(0) is None
        assert taken(takers) == [7]
        """)


def test_release_wakes_every_idle_relayer_with_nothing() -> None:
    run_idling("""
        takers = relayers(3)
        site.release()
        assert taken(takers) == []
        put(1)
        assert site.wanted() == 1
        """)


def test_the_relayer_that_idles_shortest_is_woken_first() -> None:
    """So that those in excess stay idle long enough to go."""
    run_idling("""
        takers = relayers(3)
        put(1)
        gevent.idle()
        assert [t.ready() for t in takers] == [False, False, True]
        site.release()
        """)
