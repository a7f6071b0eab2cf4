"""A site's live state: what is ready, who is on the way to take it, and how many may be."""

from textwrap import dedent

import pytest

from gwrelay.mx.candidates import Candidate
from gwrelay.queue.delivery import Delivery
from gwrelay.relay.hosts import SiteHosts
from gwrelay.relay.limits import SiteLimits
from gwrelay.relay.pool import Pool
from gwrelay.relay.rates import Rate
from gwrelay.relay.shaping import PATIENCE
from gwrelay.relay.site import Site
from support.mail import UNREACHED
from support.patched import run_patched
from support.relaying import new_calculator
from support.table_resolver import SetClock, TableResolver

MX = Candidate("mx.test", "192.0.2.1")


def new_site(
    limit: int = 3,
    *,
    messages_per_s: float = 0.0,
    connections_per_s: float = 0.0,
    pool: Pool | None = None,
    clock: SetClock | None = None,
    name: str = "mx.test",
) -> Site:
    clock = clock or SetClock()
    hosts = SiteHosts(new_calculator(TableResolver({}), clock), "")
    limits = SiteLimits(limit, limit, messages_per_s, connections_per_s)
    return Site(name, name, hosts, limits, pool=pool, clock=clock)


def delivery(message_id: int) -> Delivery:
    return Delivery(message_id, "b.test", (0,), 0.0, False)


#: What the scripts about idle relayers begin with: greenlets, so that idle() is certain to
#: return when they wait.
IDLING = """
    import gevent
    from gwrelay.queue.delivery import Delivery
    from gwrelay.relay.limits import SiteLimits
    from gwrelay.relay.site import Site

    site = Site("key", "mx.test", None, SiteLimits(5, 5))

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


# -- what is parked ---------------------------------------------------------------------------


def park(site: Site, *numbers: int, sender: int = 0) -> None:
    """Deliveries of which number n has arrived at second n."""
    for n in numbers:
        parked = Delivery(n, "b.test", (0,), float(n), False, sender=sender)
        site.parked.add(parked, lambda entry: True)


def woken_of(site: Site) -> list[int]:
    woken: list[int] = []

    def hasten(entry: int, message_id: int, part: int) -> bool:
        woken.append(message_id)
        return True

    site.wake(hasten)
    return woken


def test_as_many_are_woken_as_the_window_can_use_soon() -> None:
    site = new_site(limit=2)
    park(site, *range(200))
    assert woken_of(site) == list(range(100)), "50 for each session"
    for n in range(80):
        site.put(delivery(n))
    assert woken_of(site) == list(range(100, 120))


def test_a_slow_rate_has_little_ready() -> None:
    site = new_site(limit=20, messages_per_s=0.1)
    park(site, *range(200))
    assert woken_of(site) == list(range(6)), "a minute's worth"


def test_a_site_has_enough_when_its_room_is_full_but_for_senders_that_have_nothing_ready() -> None:
    site = new_site(limit=1)
    for n in range(50):
        assert not site.is_full_up(delivery(n))
        site.put(delivery(n))
    assert site.is_full_up(delivery(50))
    other = Delivery(51, "b.test", (0,), 0.0, False, sender=7)
    assert not site.is_full_up(other)
    for n in range(150):
        site.put(Delivery(100 + n, "b.test", (0,), 0.0, False, sender=100 + n))
    assert site.is_full_up(other), "there is an end to that, too"


def test_who_comes_later_does_not_pass_those_of_his_sender_that_are_parked() -> None:
    site = new_site()
    park(site, 5, 6)
    assert site.is_full_up(Delivery(7, "b.test", (0,), 7.0, False))
    assert not site.is_full_up(Delivery(5, "b.test", (0,), 5.0, False)), "woken, as the oldest is"
    assert not site.is_full_up(Delivery(8, "b.test", (0,), 8.0, False, sender=1))


def test_a_site_asks_for_more_when_half_of_its_room_is_used_up() -> None:
    site = new_site(limit=1)
    asked: list[int] = []
    site.on_room = lambda site: asked.append(len(site.ready))
    park(site, *range(10))
    for n in range(50):
        site.put(delivery(n))
    while site.take(0):
        pass
    assert asked == list(range(25, -1, -1))


def test_a_site_with_nothing_parked_asks_for_nothing() -> None:
    site = new_site(limit=1)
    site.on_room = lambda site: pytest.fail("there is nothing more")
    site.put(delivery(1))
    site.take(0)
    site.note_success()


# -- rates ------------------------------------------------------------------------------------


def test_a_message_rate_gives_out_one_after_the_other_and_says_when_the_next_may_go() -> None:
    clock = SetClock()
    site = new_site(messages_per_s=2.0, clock=clock)
    waits: list[float] = []
    site.on_limited = lambda site, wait_s: waits.append(wait_s)
    for n in range(3):
        site.put(delivery(n))
    assert site.take(0) is not None
    assert site.take(0) is None
    assert waits == [pytest.approx(0.49)]
    clock.advance(0.5)
    assert site.take(0) is not None
    assert site.take(0) is None


def test_a_delivery_that_takes_several_transactions_counts_as_several_messages() -> None:
    clock = SetClock()
    site = new_site(messages_per_s=1.0, clock=clock)
    site.put(Delivery(1, "b.test", tuple(range(200)), 0.0, False))
    site.put(delivery(2))
    assert site.take(0) is not None
    clock.advance(3)
    assert site.take(0) is None
    clock.advance(1)
    assert site.take(0) is not None


def test_what_was_taken_and_not_sent_leaves_the_rate_as_it_was() -> None:
    site = new_site(messages_per_s=0.001)
    site.put(delivery(1))
    taken = site.take(0)
    assert taken is not None
    site.put_back(taken)
    assert site.take(0) is taken


def test_a_connection_rate_starts_one_relayer_after_the_other() -> None:
    clock = SetClock()
    site = new_site(connections_per_s=0.1, clock=clock)
    waits: list[float] = []
    site.on_limited = lambda site, wait_s: waits.append(wait_s)
    for n in range(5):
        site.put(delivery(n))
    assert site.start() is not None
    assert site.start() is None
    assert site.take(0) is not None, "over the session there is"
    assert site.take(0, needs_session=True) is None
    clock.advance(10)
    assert site.start() is not None
    site.pace.connect()  # the second host of its attempt
    clock.advance(10)
    assert site.start() is None
    assert waits == [pytest.approx(9.99)] * 2


def test_the_smallest_limits_of_those_who_share_a_site_hold() -> None:
    site = new_site(limit=20)
    site.restrict(SiteLimits(30, 5, messages_per_s=9.0))
    site.note_success()
    site.restrict(SiteLimits(4, 2, connections_per_s=3.0))
    assert site.window == 4
    assert site.pace.messages_per_s == 9.0
    assert site.pace.limits_connections


def test_sites_take_turns_at_the_rate_they_share() -> None:
    clock = SetClock()
    pool = Pool(10, message_rate=Rate(1.0, clock))
    sites = [new_site(pool=pool, clock=clock, name=name) for name in "abc"]
    due: list[float] = []
    pool.on_limited = due.append
    gone: list[str] = []

    def start_relayers(site: Site) -> None:
        while site.ready and site.start():
            gone.append(site.name)

    for n in range(2):
        for site in sites:
            site.on_want = start_relayers
            site.put(delivery(n))
    for _ in range(5):
        clock.advance(1)
        pool.go_on()
    assert gone == ["a", "b", "c", "a", "b", "c"]
    assert due


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
