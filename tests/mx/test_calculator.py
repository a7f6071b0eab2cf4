"""MXCalculator over a table of answers and a clock that only moves when told."""

import gc
import random
import threading
import tracemalloc
from collections import Counter
from ipaddress import ip_network

import pytest
from msgspec.structs import replace

from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.denied import Denied
from gwrelay.mx.exchanges import (
    Answer,
    CanonicalNameChainTooLong,
    LookupFailed,
    NoSuchDomain,
    NullMX,
    ResolutionError,
    Rules,
)
from gwrelay.mx.marks import Mark
from gwrelay.mx.policy import MXPolicy
from support.processes import await_true
from support.table_resolver import (
    SetClock,
    Table,
    TableResolver,
    addresses,
    mx,
    nodata,
    nxdomain,
    servfail,
    site,
)

TWO = {"a.test": (10, ["192.0.2.1"]), "b.test": (20, ["192.0.2.2"])}


class Desk:
    """A calculator with its resolver and clock at hand."""

    def __init__(self, table: Table, **policy: object) -> None:
        self.resolver = TableResolver(table)
        self.clock = SetClock()
        self.calculator = MXCalculator(
            self.resolver, self.clock, policy=MXPolicy(**policy), rng=random.Random(1)
        )

    def asked(self, name: str, kind: str = "MX") -> int:
        return self.resolver.questions.count((name, kind))

    def tend(self, steps: int = 50) -> None:
        for _ in range(steps):
            self.calculator.tend()

    def outcome(self, domain: str) -> str:
        try:
            return " ".join(e.name for e in self.calculator.get_exchanges(domain))
        except ResolutionError as error:
            return f"{error.reply.code} {error.reply.status}"


# What the ancestor promised.


def test_get_mx_gives_the_most_preferred_exchange() -> None:
    assert Desk(site("d.test", TWO)).calculator.get_mx("d.test").name == "a.test"


def test_get_mx_passes_over_an_exchange_marked_bad() -> None:
    calculator = Desk(site("d.test", TWO)).calculator
    calculator.mark_bad("a.test")
    assert calculator.get_mx("d.test").name == "b.test"


def test_get_mx_gives_the_most_preferred_when_all_are_marked() -> None:
    calculator = Desk(site("d.test", TWO)).calculator
    calculator.mark_bad("a.test")
    calculator.mark_bad("b.test")
    assert calculator.get_mx("d.test").name == "a.test"


def test_a_mark_by_name_lasts_time_out_bad_mx_seconds() -> None:
    desk = Desk(site("d.test", TWO))
    desk.calculator.time_out_bad_mx = 7
    desk.calculator.mark_bad("a.test")
    desk.clock.advance(6.9)
    assert desk.calculator.get_mx("d.test").name == "b.test"
    desk.clock.advance(0.1)
    assert desk.calculator.get_mx("d.test").name == "a.test"


def test_mark_good_ends_every_mark_of_an_exchange() -> None:
    calculator = Desk(site("d.test", TWO)).calculator
    calculator.get_mx("d.test")
    calculator.mark_bad("A.test.")
    calculator.mark_address_bad("192.0.2.1", "198.51.100.1")
    calculator.mark_good("a.test")
    assert calculator.get_mx("d.test").name == "a.test"
    assert calculator.bad_until("192.0.2.1") == 0.0
    assert calculator.bad_until("192.0.2.1", "198.51.100.1") == 0.0


def test_mark_bad_marks_all_known_addresses_of_the_exchange() -> None:
    found = ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    desk = Desk(site("d.test", {"a.test": (10, found)}))
    desk.calculator.get_exchanges("d.test")
    desk.calculator.mark_bad("a.test")
    assert {desk.calculator.bad_until(a) for a in found} == {desk.clock.now + 3600.0}


def test_a_mark_by_name_holds_for_every_source() -> None:
    desk = Desk(site("d.test", TWO))
    exchanges = desk.calculator.get_exchanges("d.test")
    desk.calculator.mark_bad("a.test")
    plan = desk.calculator.plan(exchanges, "198.51.100.1")
    assert [c.exchange for c in plan.candidates] == ["b.test", "a.test"]


def test_a_mark_by_name_holds_for_addresses_learnt_later() -> None:
    desk = Desk(site("d.test", TWO))
    desk.calculator.mark_bad("a.test")
    assert desk.calculator.get_mx("d.test").name == "b.test"


def test_mark_bad_takes_an_address_for_a_name() -> None:
    desk = Desk({})
    exchanges = desk.calculator.get_exchanges("[192.0.2.7]")
    desk.calculator.mark_bad(exchanges[0].name)
    assert desk.calculator.bad_until("192.0.2.7") == desk.clock.now + 3600.0


def test_get_mx_obeys_the_chain_length_it_is_given() -> None:
    table = site("d.test", TWO)
    table["d.test", "MX"] = mx((10, "a.test"))._replace(aliases=("x", "y"))
    desk = Desk(table)
    with pytest.raises(CanonicalNameChainTooLong):
        desk.calculator.get_mx("d.test", maximum_canonical_chain_length=1)
    assert desk.calculator.get_mx("D.test.", maximum_canonical_chain_length=2).name == "a.test"
    assert desk.calculator.get_mx("d.test").name == "a.test"


def test_fallback_to_domain_may_be_switched_off() -> None:
    table: Table = {
        ("d.test", "MX"): nodata(),
        ("d.test", "A"): addresses("192.0.2.1"),
        ("d.test", "AAAA"): nodata(),
    }
    assert Desk(table).calculator.get_mx("d.test").name == "d.test"
    desk = Desk(table)
    assert desk.calculator.fallback_to_domain
    desk.calculator.fallback_to_domain = False
    assert desk.outcome("d.test") == "550 5.4.4"


# Per use.


def test_equal_preferences_are_spread_over_uses_of_one_lookup() -> None:
    hosts = {f"m{n}": (10, [f"192.0.2.{n}"]) for n in range(1, 5)}
    desk = Desk(site("d.test", {**hosts, "last": (20, ["192.0.2.9"])}))
    by_get_mx = Counter(desk.calculator.get_mx("d.test").name for _ in range(2000))
    exchanges = desk.calculator.get_exchanges("d.test")
    by_plan = Counter(desk.calculator.plan(exchanges).candidates[0].exchange for _ in range(2000))
    for count in (by_get_mx, by_plan):
        assert set(count) == set(hosts)
        assert min(count.values()) > 400
    assert desk.asked("d.test") == 1


def test_one_dead_address_does_not_make_its_exchange_bad() -> None:
    desk = Desk(
        site("d.test", {"a.test": (10, ["192.0.2.1", "192.0.2.2"]), "b.test": (20, ["192.0.2.3"])})
    )
    exchanges = desk.calculator.get_exchanges("d.test")
    desk.calculator.mark_address_bad("192.0.2.1")
    assert desk.calculator.get_mx("d.test").name == "a.test"
    order = [c.address for c in desk.calculator.plan(exchanges).candidates]
    assert order == ["192.0.2.2", "192.0.2.3", "192.0.2.1"]
    desk.calculator.mark_address_bad("192.0.2.2")
    assert desk.calculator.get_mx("d.test").name == "b.test"


def test_a_mark_counts_for_the_source_it_was_set_from() -> None:
    desk = Desk(site("d.test", TWO))
    exchanges = desk.calculator.get_exchanges("d.test")
    desk.calculator.mark_address_bad("192.0.2.1", "198.51.100.1")
    assert desk.calculator.plan(exchanges, "198.51.100.1").candidates[0].exchange == "b.test"
    assert desk.calculator.plan(exchanges, "198.51.100.2").candidates[0].exchange == "a.test"


def test_a_plan_tells_when_everything_is_marked_and_until_when() -> None:
    desk = Desk(site("d.test", TWO), bad_time_jitter=0.0)
    exchanges = desk.calculator.get_exchanges("d.test")
    assert desk.calculator.plan(exchanges).all_marked_until == 0.0
    first = desk.calculator.mark_address_bad("192.0.2.2")
    desk.clock.advance(1)
    desk.calculator.mark_address_bad("192.0.2.1")
    plan = desk.calculator.plan(exchanges)
    assert [c.exchange for c in plan.candidates] == ["b.test"]
    assert plan.all_marked_until == first
    desk.clock.now = first
    plan = desk.calculator.plan(exchanges)
    assert [c.exchange for c in plan.candidates] == ["b.test", "a.test"]
    assert plan.all_marked_until == 0.0


@pytest.mark.parametrize("marked", [(), (1,), (2,), (1, 2)])
def test_when_everything_is_marked_until_is_told_as_the_plan_tells_it(marked) -> None:
    desk = Desk(site("d.test", TWO), bad_time_jitter=0.0)
    exchanges = desk.calculator.get_exchanges("d.test")
    for n in marked:
        desk.calculator.mark_address_bad(f"192.0.2.{n}", "198.51.100.1")
        desk.clock.advance(1)
    for source in ("", "198.51.100.1"):
        told = desk.calculator.all_marked_until(exchanges, source)
        assert told == desk.calculator.plan(exchanges, source).all_marked_until
        assert bool(told) is (bool(source) and len(marked) == 2)
    desk.calculator.mark_bad("a.test", 5)
    desk.calculator.mark_bad("b.test", 7)
    by_name = desk.calculator.all_marked_until(exchanges)
    assert by_name == desk.calculator.plan(exchanges).all_marked_until == desk.clock.now + 5


def test_the_running_marks_can_be_listed() -> None:
    desk = Desk(site("d.test", TWO), bad_time_jitter=0.0)
    desk.calculator.get_exchanges("d.test")
    now = desk.clock.now
    desk.calculator.mark_address_bad("192.0.2.9", "198.51.100.1", 2525)
    desk.calculator.mark_bad("B.test.", 7)
    assert desk.calculator.bad_hosts() == (
        {"b.test": now + 7},
        [
            Mark("198.51.100.1", "192.0.2.9", 2525, now, now + 30),
            Mark("", "192.0.2.2", 0, now, now + 7),
        ],
    )
    desk.clock.advance(30)
    assert desk.calculator.bad_hosts() == ({}, [])


def test_marking_good_tells_whether_there_was_a_mark() -> None:
    desk = Desk(site("d.test", TWO))
    desk.calculator.get_exchanges("d.test")
    assert not desk.calculator.mark_good("a.test")
    desk.calculator.mark_address_bad("192.0.2.1", "198.51.100.1", 2525)
    assert desk.calculator.mark_good("a.test")
    desk.calculator.mark_bad("unknown.test")
    assert desk.calculator.mark_good("unknown.test")
    assert desk.calculator.bad_hosts() == ({}, [])


def test_a_reply_to_a_transaction_clears_the_mark_of_its_address() -> None:
    desk = Desk(site("d.test", TWO))
    desk.calculator.mark_address_bad("192.0.2.1")
    desk.calculator.mark_address_good("192.0.2.1")
    assert desk.calculator.bad_until("192.0.2.1") == 0.0


def test_marks_that_ended_long_ago_are_forgotten_by_the_loop() -> None:
    desk = Desk(site("d.test", TWO), bad_time_jitter=0.0)
    desk.calculator.mark_address_bad("192.0.2.1")
    desk.calculator.mark_bad("b.test")
    desk.clock.advance(3 * 3600)
    desk.tend()
    desk.clock.now -= 3 * 3600
    assert desk.calculator.bad_until("192.0.2.1") == 0.0
    assert (
        desk.calculator.plan(desk.calculator.get_exchanges("d.test")).candidates[1].exchange
        == "b.test"
    )


# Memory.


def test_what_was_looked_up_once_is_not_asked_again() -> None:
    desk = Desk(site("d.test", TWO))
    assert desk.calculator.cached("d.test") is None
    first = desk.calculator.get_exchanges("d.test")
    assert desk.calculator.get_exchanges("d.test") is first
    assert desk.calculator.cached("d.test") is first
    assert desk.asked("d.test") == 1


@pytest.mark.parametrize("spelling", ["D.TEST", "d.test.", "D.Test."])
def test_all_spellings_of_a_domain_are_one(spelling) -> None:
    desk = Desk(site("d.test", TWO))
    first = desk.calculator.get_exchanges("d.test")
    assert desk.calculator.cached(spelling) is first
    assert desk.calculator.get_exchanges(spelling) is first


def test_a_domain_in_its_own_script_is_looked_up_by_its_a_labels() -> None:
    desk = Desk(site("xn--bcher-kva.test", TWO))
    assert desk.outcome("Bücher.test") == "a.test b.test"
    assert desk.asked("xn--bcher-kva.test") == 1


@pytest.mark.parametrize(
    ("ttl_s", "lives_s"),
    [(0, 60), (59, 60), (60, 60), (300, 300), (86_400, 86_400), (31_536_000, 86_400)],
)
def test_answers_live_for_their_ttl_within_floor_and_ceiling(ttl_s, lives_s) -> None:
    desk = Desk(site("d.test", TWO, ttl_s=ttl_s))
    desk.calculator.get_exchanges("d.test")
    desk.clock.advance(lives_s - 0.1)
    assert desk.calculator.cached("d.test")
    desk.clock.advance(0.1)
    assert desk.calculator.cached("d.test") is None
    desk.calculator.get_exchanges("d.test")
    assert desk.asked("d.test") == 2


@pytest.mark.parametrize(
    ("answer", "error", "lives_s"),
    [
        (nxdomain(0), NoSuchDomain, 60),
        (nxdomain(120), NoSuchDomain, 120),
        (nxdomain(86_400), NoSuchDomain, 300),
        (mx((0, ""), ttl_s=86_400), NullMX, 300),
        (Answer("alias", 3600, aliases=("d.test",)), ResolutionError, 300),
        (servfail(), LookupFailed, 5),
    ],
    ids=["no TTL", "TTL", "long TTL", "null MX", "CNAME loop", "SERVFAIL"],
)
def test_a_no_is_remembered_for_a_while_only(answer, error, lives_s) -> None:
    desk = Desk({("d.test", "MX"): answer})
    for _ in range(3):
        with pytest.raises(error):
            desk.calculator.get_exchanges("d.test")
    assert desk.asked("d.test") == 1
    desk.clock.advance(lives_s - 0.1)
    assert isinstance(desk.calculator.cached("d.test"), error)
    desk.clock.advance(0.1)
    assert desk.calculator.cached("d.test") is None
    desk.resolver.table.update(site("d.test", TWO))
    assert desk.outcome("d.test") == "a.test b.test"


def test_a_partial_answer_is_soon_asked_for_again() -> None:
    table = site("d.test", TWO, ttl_s=86_400)
    table["a.test", "A"] = servfail()
    desk = Desk(table)
    assert desk.outcome("d.test") == "b.test"
    table["a.test", "A"] = addresses("192.0.2.1")
    desk.clock.advance(60)
    assert desk.outcome("d.test") == "a.test b.test"


def test_the_domain_unused_for_longest_leaves_a_full_memory() -> None:
    table: Table = {}
    for name in "abc":
        table |= site(f"{name}.test", TWO)
    desk = Desk(table, cache_size=2)
    for name in ("a.test", "b.test", "a.test", "c.test"):
        desk.calculator.get_exchanges(name)
    assert [n for n in ("a.test", "b.test", "c.test") if desk.calculator.cached(n)] == [
        "a.test",
        "c.test",
    ]


def test_memory_is_bounded_whatever_is_asked() -> None:
    desk = Desk({}, cache_size=100)
    desk.resolver.otherwise = nxdomain(86_400)
    for n in range(200):
        desk.outcome(f"warm{n}.test")
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for n in range(2000):
        desk.outcome(f"x{n}.test")
        desk.resolver.questions.clear()
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 500_000  # 2,000 remembered ones would be several times that


def test_raising_one_remembered_error_many_times_does_not_lengthen_its_traceback() -> None:
    desk = Desk({})
    for _ in range(50):
        try:
            desk.calculator.get_exchanges("d.test")
        except NoSuchDomain as error:
            depth, frame = 0, error.__traceback__
            while frame is not None:
                depth, frame = depth + 1, frame.tb_next
    assert depth < 5


def test_a_remembered_error_keeps_nothing_alive() -> None:
    desk = Desk({("d.test", "MX"): servfail()})
    desk.outcome("d.test")
    error = desk.calculator.cached("d.test")
    assert isinstance(error, LookupFailed)
    # Raising it for a caller shows that caller's frames, not those of the lookup.
    assert error.__context__ is None
    assert error.__cause__ is None
    desk.clock.advance(5)
    desk.calculator.lookups.look_up("d.test")
    assert desk.calculator.cached("d.test").__traceback__ is None


def test_domains_that_share_an_exchange_ask_for_its_addresses_once() -> None:
    table = site("d0.test", TWO, ttl_s=3600)
    for n in range(1, 50):
        table[f"d{n}.test", "MX"] = mx((10, "a.test"), (20, "b.test"), ttl_s=3600)
    desk = Desk(table)
    for n in range(50):
        desk.calculator.get_exchanges(f"d{n}.test")
    assert desk.asked("a.test", "A") == desk.asked("b.test", "AAAA") == 1


def test_a_shared_address_is_never_used_beyond_its_ttl_and_the_floor() -> None:
    table = site("d0.test", TWO, ttl_s=300)
    table["d1.test", "MX"] = mx((10, "a.test"), ttl_s=86_400)
    desk = Desk(table)
    desk.calculator.get_exchanges("d0.test")
    desk.clock.advance(150)
    desk.calculator.get_exchanges("d1.test")
    desk.clock.advance(150)
    assert desk.calculator.cached("d1.test") is None


def test_what_was_flushed_is_asked_again_with_the_addresses_of_its_exchanges() -> None:
    desk = Desk(site("d.test", TWO))
    desk.calculator.get_exchanges("d.test")
    assert desk.calculator.flush("D.test.")
    assert desk.calculator.cached("d.test") is None
    assert not desk.calculator.flush("d.test")
    desk.calculator.get_exchanges("d.test")
    assert desk.asked("d.test") == desk.asked("a.test", "A") == 2


def test_a_no_and_a_smart_host_can_be_flushed_too() -> None:
    desk = Desk({("smart.test", "A"): addresses("192.0.2.7")})
    assert desk.outcome("smart.test") == "550 5.1.2"
    desk.calculator.get_host("smart.test")
    assert desk.calculator.flush("smart.test")
    assert desk.calculator.cached("smart.test") is desk.calculator.cached_host("smart.test") is None


# One lookup at a time per name, so many at a time in all.


def ask_in_threads(desk: Desk, domains: list[str]) -> tuple[list[threading.Thread], list[str]]:
    outcomes: list[str] = []
    threads = [
        threading.Thread(target=lambda d=d: outcomes.append(desk.outcome(d))) for d in domains
    ]
    for thread in threads:
        thread.start()
    return threads, outcomes


def test_however_many_wait_for_a_name_it_is_asked_for_once() -> None:
    desk = Desk(site("d.test", TWO))
    desk.resolver.gate.clear()
    threads, outcomes = ask_in_threads(desk, ["d.test", "D.test"] * 20)
    await_true(lambda: desk.resolver.under_way, "a question under way")
    desk.resolver.gate.set()
    for thread in threads:
        thread.join(5)
    assert outcomes == ["a.test b.test"] * 40
    assert desk.asked("d.test") == 1


def test_those_who_wait_for_a_failing_lookup_all_get_its_error() -> None:
    desk = Desk({("d.test", "MX"): servfail()})
    desk.resolver.gate.clear()
    threads, outcomes = ask_in_threads(desk, ["d.test"] * 10)
    await_true(lambda: desk.resolver.under_way, "a question under way")
    desk.resolver.gate.set()
    for thread in threads:
        thread.join(5)
    assert outcomes == ["451 4.4.3"] * 10
    assert desk.asked("d.test") == 1


def test_a_lookup_that_breaks_off_leaves_nobody_waiting() -> None:
    class Killed(BaseException):
        pass

    class Breaking(TableResolver):
        def ask(self, question):
            super().ask(question)
            raise Killed

    desk = Desk({})
    resolver = Breaking({})
    calculator = MXCalculator(resolver, desk.clock)
    resolver.gate.clear()
    ends: list[BaseException] = []

    def ask() -> None:
        try:
            calculator.get_exchanges("d.test")
        except BaseException as error:  # noqa: BLE001
            ends.append(error)

    first, second = threading.Thread(target=ask), threading.Thread(target=ask)
    first.start()
    await_true(lambda: resolver.under_way, "a question under way")
    second.start()
    await_true(lambda: second.is_alive(), "the second thread")
    resolver.gate.set()
    first.join(5)
    second.join(5)
    assert len(ends) == 2
    assert all(isinstance(end, Killed | LookupFailed) for end in ends)


def test_no_more_questions_are_under_way_than_allowed() -> None:
    table: Table = {}
    for n in range(30):
        table |= site(f"d{n}.test", {f"m{n}.test": (10, ["192.0.2.1"])})
    desk = Desk(table, dns_concurrency=3)
    desk.resolver.gate.clear()
    threads, outcomes = ask_in_threads(desk, [f"d{n}.test" for n in range(30)])
    await_true(lambda: desk.resolver.under_way == 3, "three questions under way")
    desk.resolver.gate.set()
    for thread in threads:
        thread.join(5)
    assert len(outcomes) == 30
    assert desk.resolver.most_under_way == 3


def test_a_domain_of_a_hundred_silent_hosts_is_given_up_in_time() -> None:
    desk = Desk({("d.test", "MX"): mx(*((n, f"m{n}") for n in range(100)))})
    desk.resolver.otherwise = nodata()
    for n in range(100):
        desk.resolver.table[f"m{n}", "A"] = desk.resolver.table[f"m{n}", "AAAA"] = servfail()
    desk.resolver.clock, desk.resolver.takes_s = desk.clock, 5.0
    started = desk.clock.now
    assert desk.outcome("d.test") == "451 4.4.4"
    assert desk.clock.now - started <= 35


# While name servers fail.


def test_an_old_answer_serves_on_while_lookups_fail_but_not_for_ever() -> None:
    desk = Desk(site("d.test", TWO))
    assert desk.outcome("d.test") == "a.test b.test"
    desk.resolver.fail()
    desk.clock.advance(301)
    assert desk.outcome("d.test") == "a.test b.test"
    desk.clock.advance(3500)
    assert desk.outcome("d.test") == "a.test b.test"
    desk.clock.advance(100)
    assert desk.outcome("d.test") == "451 4.4.3"


def test_while_an_old_answer_serves_its_name_is_asked_for_every_few_seconds() -> None:
    desk = Desk(site("d.test", TWO))
    desk.outcome("d.test")
    desk.resolver.fail()
    desk.clock.advance(301)
    for _ in range(10):
        desk.outcome("d.test")
    assert desk.asked("d.test") == 2
    desk.clock.advance(5)
    desk.resolver.table.update(site("d.test", {"new.test": (1, ["192.0.2.8"])}))
    assert desk.outcome("d.test") == "new.test"


def test_a_definite_no_replaces_an_old_answer() -> None:
    desk = Desk(site("d.test", TWO))
    desk.outcome("d.test")
    del desk.resolver.table["d.test", "MX"]
    desk.clock.advance(301)
    assert desk.outcome("d.test") == "550 5.1.2"


def test_an_old_no_does_not_serve_on() -> None:
    desk = Desk({})
    assert desk.outcome("d.test") == "550 5.1.2"
    desk.resolver.table["d.test", "MX"] = servfail()
    desk.clock.advance(301)
    assert desk.outcome("d.test") == "451 4.4.3"


def test_an_old_address_stands_in_when_only_the_exchange_cannot_be_looked_up() -> None:
    desk = Desk(site("d.test", TWO))
    desk.outcome("d.test")
    desk.resolver.fail("a.test")
    desk.clock.advance(301)
    assert desk.outcome("d.test") == "a.test b.test"


def test_during_trouble_one_waits_for_the_name_server_and_the_others_go_on() -> None:
    desk = Desk(site("d.test", TWO))
    desk.outcome("d.test")
    desk.resolver.fail()
    desk.clock.advance(301)
    desk.outcome("d.test")
    desk.clock.advance(6)
    desk.resolver.gate.clear()
    threads, outcomes = ask_in_threads(desk, ["d.test"])
    await_true(lambda: desk.resolver.under_way, "a question under way")
    assert desk.outcome("d.test") == "a.test b.test"
    assert outcomes == []
    desk.resolver.gate.set()
    threads[0].join(5)


# The refresh loop.


def test_a_domain_in_use_is_refreshed_before_it_expires() -> None:
    desk = Desk(site("d.test", TWO, ttl_s=1000))
    desk.outcome("d.test")
    desk.clock.advance(600)
    desk.outcome("d.test")
    desk.clock.advance(199)
    desk.tend()
    assert desk.asked("d.test") == 1
    desk.clock.advance(102)
    desk.tend()
    assert desk.asked("d.test") == 2
    desk.clock.advance(200)
    assert desk.calculator.cached("d.test")
    assert desk.calculator.lookups.refreshed == 1


@pytest.mark.parametrize("used_again_after_s", [0, 400])
def test_a_domain_hardly_used_is_not_refreshed(used_again_after_s) -> None:
    desk = Desk(site("d.test", TWO, ttl_s=1000))
    desk.outcome("d.test")
    desk.clock.advance(used_again_after_s)
    desk.outcome("d.test")
    desk.clock.advance(950 - used_again_after_s)
    desk.tend()
    assert desk.asked("d.test") == 1


def test_a_domain_nobody_asks_for_any_more_is_refreshed_no_more_and_dropped() -> None:
    desk = Desk(site("d.test", TWO, ttl_s=1000))
    desk.outcome("d.test")
    desk.clock.advance(700)
    desk.outcome("d.test")
    for _ in range(10):
        desk.clock.advance(950)
        desk.tend()
    assert desk.asked("d.test") == 2
    desk.clock.now -= 9000  # back to when it would have served on
    desk.resolver.fail()
    assert desk.outcome("d.test") == "451 4.4.3", "nothing old is left to stand in"


def test_a_no_is_not_refreshed() -> None:
    desk = Desk({})
    desk.outcome("d.test")
    desk.clock.advance(1000)
    desk.tend()
    assert desk.asked("d.test") == 1


def test_refreshes_of_domains_asked_for_at_once_are_spread() -> None:
    table: Table = {}
    for n in range(200):
        table |= site(f"d{n}.test", TWO, ttl_s=1000)
    desk = Desk(table)
    for n in range(200):
        desk.outcome(f"d{n}.test")
    desk.clock.advance(700)
    for n in range(200):
        desk.outcome(f"d{n}.test")
    counts = []
    for _ in range(4):
        desk.clock.advance(25 if counts else 125)
        desk.tend(300)
        counts.append(desk.calculator.lookups.refreshed)
    assert counts[-1] == 200
    assert 20 < counts[0] < 80 < counts[1] < 130 < counts[2] < 180


def test_each_step_refreshes_at_most_one_domain_and_says_when_to_come_back() -> None:
    table = site("d.test", TWO) | site("e.test", TWO)
    desk = Desk(table, refresh_rate=50.0)
    assert desk.calculator.tend() >= 0.5, "nothing to do"
    for _ in range(2):
        desk.outcome("d.test")
        desk.outcome("e.test")
        desk.clock.advance(200)
    desk.clock.now -= 101
    assert desk.calculator.tend() == 1 / 50
    assert desk.calculator.lookups.refreshed == 1


def test_a_failed_refresh_is_repeated_soon_and_harms_nothing() -> None:
    desk = Desk(site("d.test", TWO, ttl_s=1000))
    desk.outcome("d.test")
    desk.clock.advance(800)
    desk.outcome("d.test")
    desk.resolver.fail()
    desk.clock.advance(101)
    desk.tend()
    assert desk.asked("d.test") == 2
    assert desk.calculator.cached("d.test")
    for n in range(100):
        desk.clock.advance(4.9)
        desk.tend()
        assert desk.asked("d.test") == 3 + n
        assert desk.calculator.cached("d.test"), "nobody ever waits"
    desk.resolver.table.update(site("d.test", {"new.test": (1, ["192.0.2.8"])}))
    desk.clock.advance(5)
    desk.tend()
    assert desk.outcome("d.test") == "new.test"


def test_run_refreshes_until_it_is_stopped() -> None:
    desk = Desk(site("d.test", TWO))
    desk.outcome("d.test")
    desk.clock.advance(200)
    desk.outcome("d.test")
    desk.clock.advance(99)
    stop = threading.Event()
    loop = threading.Thread(target=desk.calculator.run, args=(stop,))
    loop.start()
    await_true(lambda: desk.calculator.lookups.refreshed == 1, "a refresh")
    stop.set()
    loop.join(5)
    assert not loop.is_alive()


# Smart hosts and literals.


def test_a_smart_host_is_remembered_apart_from_the_domain_of_its_name() -> None:
    table = site("d.test", TWO)
    table["d.test", "A"] = addresses("127.0.0.7")
    table["d.test", "AAAA"] = nodata()
    desk = Desk(table)
    assert desk.outcome("d.test") == "a.test b.test"
    assert desk.calculator.cached_host("d.test") is None
    assert desk.calculator.get_host("D.test.")[0].addresses == ("127.0.0.7",)
    assert desk.calculator.cached_host("d.test")[0].name == "d.test"


def test_a_smart_host_that_does_not_exist_defers() -> None:
    with pytest.raises(ResolutionError) as caught:
        Desk({}).calculator.get_host("gone.test")
    assert caught.value.reply.is_temporary


@pytest.mark.parametrize("name", ["127.0.0.1", "[::1]", "localhost"])
def test_a_smart_host_given_by_address_is_known_at_once(name) -> None:
    desk = Desk({})
    assert desk.calculator.cached_host(name)
    assert desk.resolver.questions == []


def test_an_address_literal_is_known_at_once() -> None:
    desk = Desk({})
    assert desk.calculator.cached("[192.0.2.1]")[0].addresses == ("192.0.2.1",)
    assert isinstance(desk.calculator.cached("[127.0.0.1]"), ResolutionError)
    assert isinstance(desk.calculator.cached("no such domain"), NoSuchDomain)
    assert desk.resolver.questions == []


def test_the_rules_of_the_policy_are_obeyed() -> None:
    rules = Rules(denied=Denied((ip_network("192.0.2.1"),)))
    assert Desk(site("d.test", TWO), rules=rules).outcome("d.test") == "b.test"


@pytest.mark.parametrize("domain", ["=smart.test", "d.test/9", "=127.0.0.1"])
def test_no_spelling_of_a_domain_passes_for_a_smart_host_or_another_limit(domain) -> None:
    desk = Desk(site("d.test", TWO) | {("smart.test", "A"): addresses("127.0.0.1")})
    desk.calculator.get_host("smart.test")
    desk.calculator.get_mx("d.test", 9)
    assert isinstance(desk.calculator.cached(domain), NoSuchDomain)
    assert desk.outcome(domain) == "550 5.1.2"


def test_two_ports_of_one_address_are_marked_apart() -> None:
    desk = Desk({})
    exchange = desk.calculator.get_host("192.0.2.1")[0]
    both = (replace(exchange, port=2525), replace(exchange, preference=1, port=2526))
    desk.calculator.mark_address_bad("192.0.2.1", port=2525)
    plan = desk.calculator.plan(both)
    assert [c.port for c in plan.candidates] == [2526, 2525]
    assert desk.calculator.bad_until("192.0.2.1", port=2526) == 0.0
    desk.calculator.mark_good("192.0.2.1")
    assert [c.port for c in desk.calculator.plan(both).candidates] == [2525, 2526]
