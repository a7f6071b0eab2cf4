"""The bound that all sites share: who may have another relayer, whose turn it is, who gives way."""

import pytest

from gwrelay.queue.delivery import Delivery
from gwrelay.relay.hosts import SiteHosts
from gwrelay.relay.limits import SiteLimits
from gwrelay.relay.pool import TURN, Health, Pool
from gwrelay.relay.site import SLOW_S, Site
from support.mail import UNREACHED
from support.relaying import new_calculator
from support.table_resolver import SetClock, TableResolver

WELL, UNKNOWN, BAD = Health


def site_of(
    pool: Pool, health: Health = UNKNOWN, *, ready: int = 0, relayers: int = 0, limit: int = 20
) -> Site:
    hosts = SiteHosts(new_calculator(TableResolver({}), SetClock()), "")
    site = Site(object(), "mx.test", hosts, SiteLimits(limit, limit), pool=pool)
    if health is WELL:
        site.note_success()
    elif health is BAD:
        site.note_slow()
    for _ in range(relayers):
        site.add_relayer()
    for n in range(ready):
        site.ready.append(Delivery(n, "b.test", (0,), 0.0, False))
    return site


def room(pool: Pool) -> str:
    return "".join(health.name[0] for health in Health if pool.has_room(health))


@pytest.mark.parametrize(
    ("well", "unknown", "bad", "may"),
    [
        (0, 0, 0, "WUB"),
        (0, 0, 4, "WU"),
        (0, 4, 0, "WUB"),
        (0, 6, 0, "W"),
        (0, 2, 4, "W"),
        (1, 3, 2, "WUB"),
        (7, 0, 0, "WUB"),
        (8, 0, 0, ""),
        (2, 2, 4, ""),
    ],
)
def test_those_that_are_not_well_have_a_part_of_it(
    well: int, unknown: int, bad: int, may: str
) -> None:
    pool = Pool(8)
    for health, relayers in zip(Health, (well, unknown, bad), strict=True):
        pool.count(relayers, health)
    assert room(pool) == may


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_part_of_it_is_never_nothing(limit: int) -> None:
    assert room(Pool(limit)) == "WUB"


def test_where_there_is_one_site_alone_it_has_all_of_it() -> None:
    pool = Pool(4, has_one_site=True)
    pool.count(3, BAD)
    assert room(pool) == "WUB"


def test_a_site_is_well_once_it_has_answered_in_good_time() -> None:
    pool = Pool(10)
    site = site_of(pool, relayers=5)
    seen = [site.health]
    for step in (
        lambda: site.note_success(0.1),
        lambda: site.note_success(100 * SLOW_S),
        lambda: [site.note_success(0.1) for _ in range(20)],
        site.note_slow,
        lambda: site.note_success(0.1),
        lambda: site.note_no_connection(500.0, UNREACHED),
    ):
        step()
        seen.append(site.health)
        assert pool.has_room(BAD) is (site.health is not BAD), "five of ten"
    assert seen == [UNKNOWN, WELL, BAD, WELL, BAD, WELL, BAD]


def test_sites_without_a_relayer_come_first_and_in_turn_whatever_their_health() -> None:
    pool = Pool(20)
    some = site_of(pool, WELL, ready=9, relayers=1)
    bad, well, new = (site_of(pool, health, ready=1) for health in (BAD, WELL, UNKNOWN))
    for site in (some, bad, well, new):
        pool.want(site)
        pool.want(site)
    assert [pool.next_site() for _ in range(5)] == [bad, well, new, some, None]


def test_a_site_that_has_no_room_is_passed_over_and_keeps_its_turn() -> None:
    pool = Pool(4)
    busy = site_of(pool, BAD, relayers=2)
    bad, well = site_of(pool, BAD, ready=1), site_of(pool, WELL, ready=1)
    pool.want(bad)
    pool.want(well)
    assert [pool.next_site(), pool.next_site()] == [well, None]
    busy.remove_relayer()
    assert pool.next_site() is bad


def test_what_a_site_is_when_its_turn_comes_counts() -> None:
    pool = Pool(4)
    site_of(pool, BAD, relayers=2)
    recovered, served, closed = (site_of(pool, BAD, ready=1) for _ in range(3))
    for site in (recovered, served, closed):
        pool.want(site)
    recovered.note_success()
    pool.want(recovered)
    served.ready.clear()
    assert [pool.next_site(), pool.next_site()] == [recovered, None]


@pytest.mark.parametrize(
    ("waiting", "health", "relayers", "served", "others", "gives_way"),
    [
        ((), WELL, 4, 99, 0, False),
        ((WELL,), WELL, 3, 1, 0, False),
        ((WELL,), WELL, 4, 1, 0, True),
        ((UNKNOWN,), WELL, 4, 1, 0, True),
        ((WELL,), BAD, 2, 1, 2, True),
        # The only relayer of a site has a turn.
        ((WELL,), WELL, 1, TURN - 1, 3, False),
        ((WELL,), WELL, 1, TURN, 3, True),
        # It would be of no use to one of which enough are here.
        ((BAD,), BAD, 2, 1, 0, True),
        ((BAD,), WELL, 2, 1, -2, False),
        ((BAD, UNKNOWN), WELL, 2, 1, -2, True),
    ],
)
def test_who_has_relayers_gives_way_to_who_has_none(
    waiting: tuple[Health, ...],
    health: Health,
    relayers: int,
    served: int,
    others: int,
    gives_way: bool,
) -> None:
    """`others` are relayers of a third site: one that is well, or below 0, one that is bad."""
    pool = Pool(4)
    site_of(pool, WELL if others > 0 else BAD, relayers=abs(others))
    site_of(pool, health, relayers=relayers)
    for one in waiting:
        pool.want(site_of(pool, one, ready=1))
    assert pool.gives_way(relayers, served, health) is gives_way


def test_the_longest_idle_is_sent_home_only_when_it_is_full_and_somebody_waits() -> None:
    pool = Pool(1)
    idle = site_of(pool, WELL, relayers=1)
    sent: list[Site] = []
    idle.release_one = lambda: sent.append(idle)  # type: ignore[method-assign]
    pool.note_idle(idle, is_idle=True)
    pool.make_room()
    assert sent == [], "nobody waits"
    pool.want(site_of(pool, WELL, ready=1))
    pool.make_room()
    assert sent == [idle]
    pool.note_idle(idle, is_idle=False)
    pool.make_room()
    assert sent == [idle]
