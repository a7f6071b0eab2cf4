"""Every rule of MX routing, asked of real name servers: an authority, and a resolver before it.

What the rules are is tables in tests/mx; here it is shown that what Knot and Unbound put on the
wire comes to the same.  The clock stands where a test puts it.
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.exchanges import (
    CanonicalNameChainTooLong,
    CanonicalNameLoop,
    Question,
    ResolutionError,
    Rules,
)
from gwrelay.mx.policy import MXPolicy
from gwrelay.mx.resolver import DNSResolver
from support.processes import free_port
from support.servers import Knot, Unbound
from support.table_resolver import SetClock

OURS = "192.0.2.77"
RECORDS = """
a           300 A 192.0.2.1
a           300 AAAA 2001:db8::1
b           300 A 192.0.2.3
d           300 MX 20 b.test.
d           300 MX 10 a.test.
even        300 MX 10 a.test.
even        300 MX 10 b.test.
bare        300 A 192.0.2.4
bare        300 AAAA 2001:db8::4
nothing     300 TXT "here"
null        300 MX 0 .
null        300 A 192.0.2.5
local       300 MX 0 localhost.
trap        300 MX 10 inner.test.
inner       300 A 127.0.0.1
half        300 MX 10 both.test.
both        300 A 127.0.0.1
both        300 A 192.0.2.6
us          300 A 192.0.2.77
own         300 MX 5 a.test.
own         300 MX 10 us.test.
own         300 MX 30 b.test.
best-own    300 MX 10 us.test.
best-own    300 MX 30 b.test.
lost-own    300 MX 5 gone.test.
lost-own    300 MX 10 us.test.
dangling    300 MX 10 gone.test.
aliasmx     300 MX 10 alias.test.
alias       300 CNAME a.test.
c1          300 CNAME d.test.
c2          300 CNAME c1.test.
c3          300 CNAME c2.test.
c4          300 CNAME c3.test.
to-nowhere  300 CNAME gone.test.
loop-a      300 CNAME loop-b.test.
loop-b      300 CNAME loop-a.test.
upper       300 MX 10 A.Test.
xn--bcher-kva 300 MX 10 a.test.
none        0 MX 10 zero.test.
zero        0 A 192.0.2.8
long        31536000 MX 10 year.test.
year        31536000 A 192.0.2.9
""".strip().splitlines()
RECORDS += [f"many 300 MX {n} mx{n}.many.test." for n in range(300)]
RECORDS += [f"mx{n}.many 300 A 198.51.100.{n % 250}" for n in range(300)]

#: Domain, then the names of its exchanges in order, or what its mail is told.
ROWS = [
    ("d.test", "a.test b.test"),
    ("D.TEST.", "a.test b.test"),
    ("upper.test", "a.test"),
    ("bücher.test", "a.test"),
    ("BÜCHER.test.", "a.test"),
    ("bare.test", "bare.test"),
    ("nothing.test", "550 5.4.4"),
    ("gone.test", "550 5.1.2"),
    ("null.test", "556 5.1.10"),
    ("local.test", "550 5.4.4"),
    ("trap.test", "550 5.4.4"),
    ("half.test", "both.test"),
    ("own.test", "a.test"),
    ("best-own.test", "550 5.4.6"),
    ("lost-own.test", "451 4.4.4"),
    ("dangling.test", "550 5.4.4"),
    ("aliasmx.test", "alias.test"),
    ("c3.test", "a.test b.test"),
    ("to-nowhere.test", "550 5.1.2"),
    ("[192.0.2.1]", "[192.0.2.1]"),
    ("[127.0.0.1]", "550 5.4.4"),
    (f"[{OURS}]", "550 5.4.6"),
]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """By name, where the server listens: the authority itself, and a resolver that asks it."""
    directory = tmp_path_factory.mktemp("servers")
    with ExitStack() as stack:
        knot = stack.enter_context(Knot(directory / "knot", "test.", RECORDS))
        unbound = Unbound(
            directory / "unbound",
            stubs={"test.": knot.port, "broken.": free_port(udp=True)},
            silent=["silent."],
        )
        stack.enter_context(unbound)
        yield {"knot": knot.spec, "unbound": unbound.spec}


@pytest.fixture(params=["knot", "unbound"])
def server(request: pytest.FixtureRequest, servers: dict[str, str]) -> str:
    return servers[request.param]


def calculator(
    *servers: str, clock: SetClock | None = None, timeout_s: float = 3.0
) -> MXCalculator:
    policy = MXPolicy(rules=Rules(is_own=lambda address: address == OURS))
    resolver = DNSResolver(servers, timeout_s=timeout_s)
    return MXCalculator(resolver, clock or SetClock(), policy=policy, rng=random.Random(1))


def outcome(found: MXCalculator, domain: str) -> str:
    try:
        return " ".join(exchange.name for exchange in found.get_exchanges(domain))
    except ResolutionError as error:
        return f"{error.reply.code} {error.reply.status}"


@pytest.mark.parametrize(("domain", "wanted"), ROWS, ids=[row[0] for row in ROWS])
def test_where_mail_for_a_domain_goes(server: str, domain: str, wanted: str) -> None:
    assert outcome(calculator(server), domain) == wanted


def test_all_addresses_of_both_families_are_found(server: str) -> None:
    found = calculator(server).get_exchanges("bare.test")
    assert sorted(found[0].addresses) == ["192.0.2.4", "2001:db8::4"]
    assert calculator(server).get_exchanges("half.test")[0].addresses == ("192.0.2.6",)


def test_equal_preferences_take_turns(server: str) -> None:
    found = calculator(server)
    assert {found.get_mx("even.test").name for _ in range(50)} == {"a.test", "b.test"}


def test_a_chain_of_four_defers_with_a_reason(server: str) -> None:
    with pytest.raises(CanonicalNameChainTooLong) as caught:
        calculator(server).get_mx("c4.test")
    assert str(caught.value) == "451 4.4.3 more than 3 CNAME records in a row from c4.test"
    assert calculator(server).get_mx("c4.test", 4).name == "a.test"


def test_a_cname_loop_defers_with_a_reason(servers: dict[str, str]) -> None:
    with pytest.raises(CanonicalNameLoop) as caught:
        calculator(servers["knot"]).get_mx("loop-a.test")
    assert str(caught.value) == "451 4.4.3 CNAME records of loop-a.test form a loop"


def test_a_cname_loop_that_the_resolver_gives_up_on_defers(servers: dict[str, str]) -> None:
    assert outcome(calculator(servers["unbound"]), "loop-a.test") == "451 4.4.3"


def test_three_hundred_mx_come_whole_by_tcp_and_a_hundred_are_kept(server: str) -> None:
    resolver = DNSResolver([server])
    assert len(resolver.ask(Question("many.test", "MX")).mx) == 300
    assert resolver.queries == 2, "truncated by UDP, then by TCP"
    found = calculator(server).get_exchanges("many.test")
    assert [exchange.preference for exchange in found] == list(range(100))


@pytest.mark.parametrize(("domain", "lives_s"), [("none.test", 60), ("long.test", 86_400)])
def test_ttls_of_nothing_and_of_a_year_are_brought_within_bounds(
    server: str, domain: str, lives_s: float
) -> None:
    clock = SetClock()
    found = calculator(server, clock=clock)
    found.get_exchanges(domain)
    clock.advance(lives_s - 1)
    assert found.cached(domain)
    clock.advance(1)
    assert found.cached(domain) is None


def test_a_no_is_remembered_for_the_negative_ttl_of_the_soa(server: str) -> None:
    clock = SetClock()
    found = calculator(server, clock=clock)
    assert outcome(found, "gone.test") == "550 5.1.2"
    # A resolver that asked a second ago has a second less to give.
    clock.advance(110)
    assert isinstance(found.cached("gone.test"), ResolutionError)
    clock.advance(11)
    assert found.cached("gone.test") is None


# -- name servers in trouble ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "timeout_s"), [("x.broken", 8.0), ("x.silent", 0.5)], ids=["SERVFAIL", "silence"]
)
def test_trouble_defers_and_is_remembered_for_five_seconds(
    servers: dict[str, str], domain: str, timeout_s: float
) -> None:
    clock = SetClock()
    found = calculator(servers["unbound"], clock=clock, timeout_s=timeout_s)
    assert outcome(found, domain) == "451 4.4.3"
    clock.advance(4.9)
    assert isinstance(found.cached(domain), ResolutionError)
    clock.advance(0.1)
    assert found.cached(domain) is None


def test_an_authority_that_is_not_for_this_zone_is_passed_over(servers: dict[str, str]) -> None:
    """A lame first resolver: Knot refuses what is not below test."""
    both = calculator(servers["knot"], servers["unbound"])
    assert outcome(both, "nobody.example") == "451 4.4.3", "one NXDOMAIN is not enough"
    assert outcome(calculator(servers["unbound"]), "nobody.example") == "550 5.1.2"


def test_two_resolvers_that_agree_are_believed(servers: dict[str, str]) -> None:
    assert outcome(calculator(*servers.values()), "gone.test") == "550 5.1.2"


def test_a_resolver_that_does_not_listen_is_passed_over(servers: dict[str, str]) -> None:
    nobody = f"127.0.0.1:{free_port(udp=True)}"
    assert outcome(calculator(nobody, servers["knot"]), "d.test") == "a.test b.test"
