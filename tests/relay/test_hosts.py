"""Which hosts a destination has, and which destinations share a site."""

import pytest

from gwrelay.message.outcome import Outcome
from gwrelay.message.reply import Reply
from gwrelay.mx.candidates import Candidate
from gwrelay.mx.exchanges import Exchange
from gwrelay.mx.failures import NoSuchDomain, ResolutionError
from gwrelay.relay.hosts import Destinations, SiteHosts, site_key
from gwrelay.relay.routes import NextHop, Routes
from support.mail import UNREACHED
from support.relaying import new_calculator
from support.table_resolver import SetClock, Table, TableResolver, addresses, servfail, site

TABLE: Table = {
    **site("b.test", {"mx.b.test": (10, ["192.0.2.1"])}),
    ("smart.test", "A"): addresses("192.0.2.7"),
    ("other.test", "A"): addresses("192.0.2.8"),
}


def destinations(*smarthosts: NextHop, table: Table = TABLE) -> Destinations:
    calculator = new_calculator(TableResolver(dict(table)), SetClock())
    return Destinations(calculator, Routes(smarthosts))


@pytest.mark.parametrize(
    ("hop", "text"),
    [
        (NextHop("smart.test"), "smart.test:25"),
        (NextHop("192.0.2.1", 2525), "192.0.2.1:2525"),
        (NextHop("2001:db8::1", 25), "[2001:db8::1]:25"),
    ],
)
def test_a_next_hop_is_written_as_it_is_configured(hop: NextHop, text: str) -> None:
    assert str(hop) == text


def test_a_destination_has_its_own_exchanges() -> None:
    found = destinations()
    assert found.cached("b.test") is None
    assert found.find("b.test") == (Exchange(10, "mx.b.test", ("192.0.2.1",)),)
    assert found.cached("b.test") == found.find("b.test")


def test_what_dns_says_no_to_is_a_value() -> None:
    found = destinations()
    assert isinstance(found.find("nowhere.test"), NoSuchDomain)
    assert isinstance(found.cached("nowhere.test"), NoSuchDomain)


def test_smart_hosts_stand_in_for_every_destination_in_the_order_given() -> None:
    found = destinations(NextHop("smart.test", 2525), NextHop("other.test", 25))
    expected = (
        Exchange(0, "smart.test", ("192.0.2.7",), 2525),
        Exchange(1, "other.test", ("192.0.2.8",), 25),
    )
    assert found.cached("b.test") is None
    assert found.find("b.test") == expected
    assert found.cached("nowhere.test") == expected


def test_a_smart_host_that_cannot_be_looked_up_leaves_the_others() -> None:
    found = destinations(NextHop("missing.test"), NextHop("other.test"))
    hosts = found.find("b.test")
    assert not isinstance(hosts, ResolutionError)
    assert [host.name for host in hosts] == ["other.test"]


@pytest.mark.parametrize("table", [{}, {("smart.test", "A"): servfail("smart.test")}])
def test_smart_hosts_that_cannot_be_looked_up_only_defer(table: Table) -> None:
    found = destinations(NextHop("smart.test"), table=table).find("b.test")
    assert isinstance(found, ResolutionError)
    assert found.reply.is_temporary


def exchanges(*triples: tuple[int, str, int]) -> tuple[Exchange, ...]:
    return tuple(Exchange(p, name, ("192.0.2.1",), port) for p, name, port in triples)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ([(10, "a", 0)], [(10, "a", 0)], True),
        ([(10, "a", 0)], [(20, "a", 0)], True),
        ([(10, "a", 0)], [(10, "a", 2525)], False),
        ([(10, "a", 0)], [(10, "b", 0)], False),
        ([(5, "a", 0), (10, "b", 0)], [(10, "a", 0), (20, "b", 0)], True),
        ([(5, "a", 0), (10, "b", 0)], [(5, "b", 0), (10, "a", 0)], False),
        ([(5, "a", 0), (5, "b", 0)], [(9, "b", 0), (9, "a", 0)], True),
        ([(5, "a", 0), (5, "b", 0)], [(5, "a", 0), (6, "b", 0)], False),
        ([(5, "a", 0), (6, "b", 0)], [(5, "a", 0)], False),
        ([(5, "a", 0), (5, "b", 0), (9, "c", 0)], [(1, "b", 0), (1, "a", 0), (2, "c", 0)], True),
    ],
)
def test_destinations_with_the_same_exchanges_share_a_site(
    one: list[tuple[int, str, int]], other: list[tuple[int, str, int]], shared: bool
) -> None:
    assert (site_key(exchanges(*one)) == site_key(exchanges(*other))) is shared


def test_a_site_marks_the_address_and_port_it_used() -> None:
    clock = SetClock()
    calculator = new_calculator(TableResolver({}), clock)
    hosts = SiteHosts(calculator, "192.0.2.99")
    hosts.exchanges = exchanges((0, "a", 2525), (1, "b", 2526))
    one, other = hosts.plan().candidates
    hosts.mark_bad(one, UNREACHED)
    assert [c.exchange for c in hosts.plan().candidates] == ["b", "a"]
    assert hosts.plan().all_marked_until == 0.0
    hosts.mark_bad(other, UNREACHED)
    assert hosts.plan().all_marked_until == clock.now + 30
    assert hosts.all_marked_until == clock.now + 30
    hosts.mark_good(one)
    assert hosts.all_marked_until == 0.0
    assert [c.exchange for c in hosts.plan().candidates] == ["a", "b"]
    # The mark is that of our address: another one may be welcome.
    assert calculator.bad_until("192.0.2.1", "", 2526) == 0.0


A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"
ONE_OF_MANY = (Exchange(5, "a", tuple(f"192.0.2.{n}" for n in range(1, 30))),)
TWO_RANKS = (Exchange(5, "a", (A,)), Exchange(5, "b", (B, A)), Exchange(9, "c", (C,)))


@pytest.mark.parametrize(
    ("exchanges", "like", "marked", "best"),
    [
        (ONE_OF_MANY, Candidate("a", C), [], Candidate("a", C, 0, 5)),
        (ONE_OF_MANY, Candidate("a", C), [A, B], Candidate("a", C, 0, 5)),
        (ONE_OF_MANY, Candidate("a", C), [C], None),
        (ONE_OF_MANY, Candidate("a", C, 2525), [], None),
        (ONE_OF_MANY, Candidate("a", "192.0.2.99"), [], None),
        (TWO_RANKS, Candidate("a", A), [], Candidate("a", A, 0, 5)),
        (TWO_RANKS, Candidate("b", A), [], Candidate("b", A, 0, 5)),
        (TWO_RANKS, Candidate("renamed", B), [], Candidate("b", B, 0, 5)),
        (TWO_RANKS, Candidate("c", C), [], None),
        (TWO_RANKS, Candidate("c", C), [A], None),
        (TWO_RANKS, Candidate("c", C), [A, B], Candidate("c", C, 0, 9)),
        (TWO_RANKS, Candidate("c", C), [A, B, C], None),
        ((), Candidate("a", A), [], None),
    ],
)
def test_an_address_is_among_the_best_while_no_better_one_is_unmarked(
    exchanges: tuple[Exchange, ...], like: Candidate, marked: list[str], best: Candidate | None
) -> None:
    hosts = SiteHosts(new_calculator(TableResolver({}), SetClock()), "")
    hosts.exchanges = exchanges
    for address in marked:
        hosts.mark_bad(Candidate("", address), UNREACHED)
    assert hosts.find_best(like) == best


# -- hosts that have enough sessions ---------------------------------------------------------

BUSY = UNREACHED._replace(stage="banner", reply=Reply(421, "4.3.2", "too many"), heard=True)


@pytest.mark.parametrize(
    ("why", "sessions", "marked"),
    [(BUSY, 1, False), (BUSY, 0, True), (UNREACHED, 1, True), (UNREACHED, 0, True)],
    ids=["surplus", "says not now", "refuses connections beside others", "refuses connections"],
)
def test_a_host_that_serves_others_and_says_not_now_is_alive(
    why: Outcome, sessions: int, marked: bool
) -> None:
    hosts = SiteHosts(new_calculator(TableResolver({}), SetClock()), "")
    hosts.exchanges = exchanges((0, "a", 2525))
    [candidate] = hosts.plan().candidates
    for _ in range(sessions):
        hosts.add_session(candidate)
    hosts.mark_bad(candidate, why)
    assert bool(hosts.plan().all_marked_until) is marked


def test_sessions_are_counted_for_each_address_and_port() -> None:
    hosts = SiteHosts(new_calculator(TableResolver({}), SetClock()), "")
    hosts.exchanges = exchanges((0, "a", 2525), (1, "b", 2526))
    one, other = hosts.plan().candidates
    hosts.add_session(one)
    hosts.add_session(one)
    assert hosts.sessions == 2
    hosts.mark_bad(other, BUSY)
    assert [c.exchange for c in hosts.plan().candidates] == ["a", "b"]
    hosts.remove_session(one)
    hosts.remove_session(one)
    assert hosts.sessions == 0
    hosts.mark_bad(one, BUSY)
    assert hosts.plan().all_marked_until
