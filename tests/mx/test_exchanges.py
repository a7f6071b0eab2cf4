"""The routing rules alone: answers in, exchanges or a reason out."""

import itertools
import random

import pytest

from gwrelay.mx.denied import DEFAULT_DENIED, DEFAULT_NETWORKS, Denied
from gwrelay.mx.exchanges import (
    Answer,
    CanonicalNameChainTooLong,
    CanonicalNameLoop,
    Exchange,
    LookupFailed,
    Loop,
    NoAddress,
    NoSuchDomain,
    NullMX,
    Question,
    Resolution,
    ResolutionError,
    Resolved,
    Rules,
    normal_domain,
    normal_host,
    resolve,
    resolve_host,
)
from support.table_resolver import Table, addresses, mx, nodata, nxdomain, servfail, site

DEFAULT = Rules()


def drive(resolution: Resolution, table: Table) -> tuple[Resolved, list[Question]]:
    """Answer the questions of `resolution` from `table`; returns its result and the questions."""
    asked: list[Question] = []
    try:
        question = next(resolution)
        while True:
            asked.append(question)
            answer = table.get((question.name, question.kind), nxdomain())
            if isinstance(answer, LookupFailed):
                question = resolution.throw(answer)
            else:
                question = resolution.send(answer)
    except StopIteration as done:
        return done.value, asked


def resolved(
    domain: str, table: Table, rules: Rules = DEFAULT, seed: int = 1
) -> list[tuple[int, str, tuple[str, ...]]]:
    result, _ = drive(resolve(domain, rules, random.Random(seed)), table)
    return [(e.preference, e.name, e.addresses) for e in result.exchanges]


def refusal(domain: str, table: Table, rules: Rules = DEFAULT) -> ResolutionError:
    with pytest.raises(ResolutionError) as caught:
        drive(resolve(domain, rules, random.Random(1)), table)
    return caught.value


def test_exchanges_come_in_ascending_preference() -> None:
    table = site("d.test", {"c": (30, ["192.0.2.3"]), "a": (5, ["192.0.2.1"])})
    assert resolved("d.test", table) == [(5, "a", ("192.0.2.1",)), (30, "c", ("192.0.2.3",))]


def test_equal_preferences_come_in_an_order_chosen_by_the_injected_random() -> None:
    hosts = {name: (10, [f"192.0.2.{n}"]) for n, name in enumerate("abcd", 1)}
    table = site("d.test", {**hosts, "last": (20, ["192.0.2.9"])})
    orders = ["".join(name for _, name, _ in resolved("d.test", table, seed=s)) for s in range(60)]
    assert len(set(orders)) > 10
    assert {order[:1] for order in orders} == set("abcd")
    assert {order[4:] for order in orders} == {"last"}
    again = ["".join(name for _, name, _ in resolved("d.test", table, seed=s)) for s in range(60)]
    assert again == orders


def test_an_exchange_named_twice_keeps_its_better_preference() -> None:
    table = site("d.test", {"a": (10, ["192.0.2.1"])})
    table["d.test", "MX"] = mx((30, "a"), (10, "a"))
    assert resolved("d.test", table) == [(10, "a", ("192.0.2.1",))]


def test_families_of_an_exchange_take_turns() -> None:
    found = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"]
    table = site("d.test", {"a": (10, found)})
    wanted = ("192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2")
    assert resolved("d.test", table) == [(10, "a", wanted)]


@pytest.mark.parametrize(
    ("families", "wanted"),
    [(("A",), ("192.0.2.1",)), (("AAAA",), ("2001:db8::1",))],
)
def test_only_the_families_in_use_are_asked_for(families, wanted) -> None:
    table = site("d.test", {"a": (10, ["192.0.2.1", "2001:db8::1"])})
    result, asked = drive(resolve("d.test", Rules(families=families), random.Random(1)), table)
    assert result.exchanges[0].addresses == wanted
    assert [q.kind for q in asked] == ["MX", families[0]]


def implicit(a: object, aaaa: object, answer: Answer | None = None) -> Table:
    return {
        ("d.test", "MX"): answer or nodata(),
        ("d.test", "A"): a,
        ("d.test", "AAAA"): aaaa,
    }


FOUR, SIX = addresses("192.0.2.1"), addresses("2001:db8::1")


@pytest.mark.parametrize(
    ("a", "aaaa", "wanted"),
    [
        (FOUR, SIX, ("192.0.2.1", "2001:db8::1")),
        (FOUR, nodata(), ("192.0.2.1",)),
        (nodata(), SIX, ("2001:db8::1",)),
        (FOUR, servfail(), ("192.0.2.1",)),
        (servfail(), SIX, ("2001:db8::1",)),
    ],
)
def test_without_mx_the_domain_is_its_own_exchange_by_a_and_aaaa(a, aaaa, wanted) -> None:
    assert resolved("d.test", implicit(a, aaaa)) == [(0, "d.test", wanted)]


#: answers for MX, A, AAAA of d.test -> what its mail gets.
REFUSALS = [
    ("the domain does not exist", {("d.test", "MX"): nxdomain()}, NoSuchDomain, "550 5.1.2"),
    ("null MX", {("d.test", "MX"): mx((0, ""))}, NullMX, "556 5.1.10"),
    ("null MX of another preference", {("d.test", "MX"): mx((10, ""))}, NullMX, "556 5.1.10"),
    ("MX lookup fails", implicit(FOUR, SIX, servfail()), LookupFailed, "451 4.4.3"),
    ("no MX, no address", implicit(nodata(), nodata()), NoAddress, "550 5.4.4"),
    ("no MX, A fails", implicit(servfail(), nodata()), NoAddress, "451 4.4.4"),
    ("no MX, AAAA fails", implicit(nodata(), servfail()), NoAddress, "451 4.4.4"),
    ("no MX, both fail", implicit(servfail(), servfail()), NoAddress, "451 4.4.4"),
    (
        "the exchange does not exist; the domain has an address",
        implicit(FOUR, SIX, mx((10, "gone.test"))),
        NoAddress,
        "550 5.4.4",
    ),
    (
        "the lookup of one exchange fails, the other does not exist",
        {
            ("d.test", "MX"): mx((10, "a"), (20, "gone")),
            ("a", "A"): servfail(),
            ("a", "AAAA"): servfail(),
        },
        NoAddress,
        "451 4.4.4",
    ),
    ("MX 0 localhost", {("d.test", "MX"): mx((0, "localhost"))}, NoAddress, "550 5.4.4"),
    (
        "MX 0 localhost, which the name server does not know",
        {
            ("d.test", "MX"): mx((0, "localhost")),
            ("localhost", "A"): servfail(),
            ("localhost", "AAAA"): servfail(),
        },
        NoAddress,
        "550 5.4.4",
    ),
    (
        "one exchange denied, the lookup of the other fails",
        {**site("d.test", {"bad": (5, ["127.0.0.1"]), "a": (9, [])}), ("a", "A"): servfail()},
        NoAddress,
        "451 4.4.4",
    ),
    (
        "a loop at the exchange's name",
        {
            ("d.test", "MX"): mx((10, "a")),
            ("a", "A"): Answer("alias", 60, aliases=("b", "a")),
            ("a", "AAAA"): Answer("alias", 60, aliases=("b", "a")),
        },
        NoAddress,
        "451 4.4.4",
    ),
]


@pytest.mark.parametrize(
    ("table", "error", "reply"),
    [row[1:] for row in REFUSALS],
    ids=[row[0] for row in REFUSALS],
)
def test_a_domain_without_usable_exchange_says_why(table, error, reply) -> None:
    refused = refusal("d.test", table)
    assert type(refused) is error
    assert str(refused.reply).startswith(f"{reply} ")
    assert refused.reply.is_permanent == reply.startswith("5")


def test_no_implicit_mx_after_a_failed_mx_lookup() -> None:
    resolution = resolve("d.test", Rules(), random.Random(1))
    assert next(resolution) == Question("d.test", "MX")
    with pytest.raises(LookupFailed):
        resolution.throw(servfail())


def test_no_implicit_mx_when_the_fallback_is_off() -> None:
    refused = refusal("d.test", implicit(FOUR, SIX), Rules(fallback_to_domain=False))
    assert str(refused.reply).startswith("550 5.4.4 d.test: no MX")


def test_nxdomain_can_be_made_to_defer() -> None:
    refused = refusal("d.test", {}, Rules(nxdomain_defers=True))
    assert str(refused.reply).startswith("450 4.1.2 ")


def test_a_null_mx_beside_real_ones_is_only_useless() -> None:
    table = site("d.test", {"a": (10, ["192.0.2.1"])})
    table["d.test", "MX"] = mx((0, ""), (10, "a"))
    result, asked = drive(resolve("d.test", DEFAULT, random.Random(1)), table)
    assert [e.name for e in result.exchanges] == ["a"]
    assert "" not in {q.name for q in asked}


def test_an_exchange_without_address_is_left_out() -> None:
    table = site("d.test", {"a": (5, []), "b": (10, ["192.0.2.2"])})
    assert [name for _, name, _ in resolved("d.test", table)] == ["b"]


def test_a_plan_with_a_failed_lookup_is_partial() -> None:
    table = site("d.test", {"a": (5, ["192.0.2.1"]), "b": (10, ["192.0.2.2"])})
    assert not drive(resolve("d.test", Rules(), random.Random(1)), table)[0].partial
    table["a", "A"] = servfail()
    assert drive(resolve("d.test", Rules(), random.Random(1)), table)[0].partial


def test_a_name_that_does_not_exist_is_not_asked_for_another_family() -> None:
    table: Table = {("d.test", "MX"): mx((10, "gone"), (20, "b")), ("b", "A"): FOUR}
    _, asked = drive(resolve("d.test", Rules(), random.Random(1)), table)
    assert Question("gone", "A") in asked
    assert Question("gone", "AAAA") not in asked


# CNAME.


def chain(length: int, *, follows: bool) -> Table:
    """d.test -> c1 -> ... -> c<length>, which has an MX; the server may follow or not."""
    names = ["d.test", *(f"c{n}" for n in range(1, length + 1))]
    table = site(names[-1], {"a": (10, ["192.0.2.1"])})
    if follows:
        table["d.test", "MX"] = mx((10, "a"))._replace(aliases=tuple(names[1:]))
    else:
        for name, target in itertools.pairwise(names):
            table[name, "MX"] = Answer("alias", 300, aliases=(target,))
    return table


@pytest.mark.parametrize("follows", [True, False], ids=["server follows", "we follow"])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_cname_chain_within_the_limit_is_followed(length, follows) -> None:
    assert resolved("d.test", chain(length, follows=follows)) == [(10, "a", ("192.0.2.1",))]


@pytest.mark.parametrize("follows", [True, False], ids=["server follows", "we follow"])
@pytest.mark.parametrize(("length", "limit"), [(4, 3), (1, 0), (30, 3)])
def test_a_longer_cname_chain_defers_with_a_reason(length, limit, follows) -> None:
    refused = refusal("d.test", chain(length, follows=follows), Rules(cname_limit=limit))
    assert type(refused) is CanonicalNameChainTooLong
    wanted = f"451 4.4.3 more than {limit} CNAME records in a row from d.test"
    assert str(refused.reply) == wanted


@pytest.mark.parametrize(
    "table",
    [
        {("d.test", "MX"): Answer("alias", 60, aliases=("d.test",))},
        {("d.test", "MX"): Answer("alias", 60, aliases=("b", "c", "b"))},
        {
            ("d.test", "MX"): Answer("alias", 60, aliases=("b",)),
            ("b", "MX"): Answer("alias", 60, aliases=("d.test",)),
        },
    ],
    ids=["to itself", "in one answer", "over two answers"],
)
def test_a_cname_loop_defers_with_a_reason(table) -> None:
    refused = refusal("d.test", table)
    assert type(refused) is CanonicalNameLoop
    assert str(refused.reply) == "451 4.4.3 CNAME records of d.test form a loop"


def test_the_number_of_questions_on_an_endless_chain_is_bounded() -> None:
    table = chain(100, follows=False)
    resolution = resolve("d.test", Rules(), random.Random(1))
    next(resolution)
    for n in range(3):
        assert resolution.send(table[f"c{n}" if n else "d.test", "MX"]).name == f"c{n + 1}"
    with pytest.raises(CanonicalNameChainTooLong):
        resolution.send(table["c3", "MX"])


def test_an_alias_without_mx_is_its_own_exchange_under_its_canonical_name() -> None:
    table: Table = {
        ("d.test", "MX"): nodata()._replace(aliases=("real.test",)),
        ("real.test", "A"): FOUR,
        ("real.test", "AAAA"): nodata(),
    }
    assert resolved("d.test", table) == [(0, "real.test", ("192.0.2.1",))]


def test_an_exchange_that_is_an_alias_is_followed() -> None:
    table = site("d.test", {"a": (10, [])})
    table["a", "A"] = addresses("192.0.2.1")._replace(aliases=("real",))
    assert resolved("d.test", table) == [(10, "a", ("192.0.2.1",))]


# Hostile answers.


def test_a_hundred_of_three_hundred_mx_are_kept_and_these_the_most_preferred() -> None:
    hosts = {f"m{n}": (n, [] if n < 99 else ["192.0.2.1"]) for n in range(300)}
    table = site("d.test", hosts)
    result, asked = drive(resolve("d.test", Rules(), random.Random(1)), table)
    assert [e.name for e in result.exchanges] == ["m99"]
    assert len({q.name for q in asked if q.kind == "A"}) == 100


def test_addresses_of_one_exchange_are_capped_without_hiding_a_family() -> None:
    four = [f"192.0.2.{n}" for n in range(60)]
    six = [f"2001:db8::{n + 1:x}" for n in range(60)]
    (exchange,) = resolved("d.test", site("d.test", {"a": (10, four + six)}))
    assert len(exchange[2]) == 20
    assert sum(":" in address for address in exchange[2]) == 10


def test_no_more_exchanges_are_looked_up_than_addresses_are_kept() -> None:
    hosts = {f"m{n}": (n, [f"198.{18 + n}.{k}.1" for k in range(20)]) for n in range(50)}
    result, asked = drive(resolve("d.test", Rules(), random.Random(1)), site("d.test", hosts))
    assert sum(len(e.addresses) for e in result.exchanges) == 100
    assert len([q for q in asked if q.kind == "A"]) == 5


# Addresses that are not connected to.


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.10",
        "::1",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "169.254.169.254",
        "fe80::1",
        "224.0.0.1",
        "239.255.255.255",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::ffff:169.254.169.254",
    ],
)
def test_by_default_these_addresses_are_denied(address) -> None:
    assert DEFAULT_DENIED.address(address)
    refused = refusal("d.test", site("d.test", {"a": (10, [address])}))
    assert str(refused.reply) == "550 5.4.4 d.test: only addresses that mail is not sent to"


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "192.168.1.1", "2001:db8::1", "fd00::1", "9.9.9.9"]
)
def test_by_default_these_addresses_are_not_denied(address) -> None:
    assert not DEFAULT_DENIED.address(address)


def test_a_denied_address_is_skipped_alone() -> None:
    table = site("d.test", {"a": (5, ["127.0.0.1", "192.0.2.1"]), "b": (9, ["0.0.0.0"])})
    assert resolved("d.test", table) == [(5, "a", ("192.0.2.1",))]


def test_an_exchange_denied_by_name_is_not_even_looked_up() -> None:
    rules = Rules(denied=Denied(DEFAULT_NETWORKS, ("*.inner.test",)))
    table = site("d.test", {"x.inner.test": (5, ["192.0.2.1"]), "b": (9, ["192.0.2.2"])})
    result, asked = drive(resolve("d.test", rules, random.Random(1)), table)
    assert [e.name for e in result.exchanges] == ["b"]
    assert "x.inner.test" not in {q.name for q in asked}


# Ourselves in the list.

OWN = Rules(is_own=lambda address: address == "192.0.2.99")
US = ["192.0.2.99"]


@pytest.mark.parametrize(
    ("hosts", "wanted"),
    [
        ({"a": (5, ["192.0.2.1"]), "us": (10, US), "c": (20, ["192.0.2.3"])}, ["a"]),
        ({"a": (5, ["192.0.2.1"]), "us": (5, US), "z": (4, ["192.0.2.4"])}, ["z"]),
        ({"a": (5, ["192.0.2.1"]), "us": (10, ["192.0.2.5", *US])}, ["a"]),
    ],
    ids=["the worse go", "the equal go", "one own address is enough"],
)
def test_the_list_is_cut_at_our_own_preference(hosts, wanted) -> None:
    assert [name for _, name, _ in resolved("d.test", site("d.test", hosts), OWN)] == wanted


@pytest.mark.parametrize(
    ("hosts", "failing", "reply"),
    [
        ({"us": (5, US), "b": (10, ["192.0.2.2"])}, (), "550 5.4.6"),
        ({"us": (5, US), "b": (5, ["192.0.2.2"])}, (), "550 5.4.6"),
        ({"a": (1, []), "us": (5, US)}, (), "451 4.4.4"),
        ({"a": (1, ["192.0.2.1"]), "us": (5, US)}, ("a",), "451 4.4.4"),
        ({"a": (1, ["127.0.0.1"]), "us": (5, US)}, (), "550 5.4.6"),
    ],
    ids=["best", "among the best", "better has no address", "better not known", "better denied"],
)
def test_nothing_left_before_us_is_a_loop_unless_a_better_exchange_may_turn_up(
    hosts, failing, reply
) -> None:
    table = site("d.test", hosts)
    for name in failing:
        table[name, "A"] = table[name, "AAAA"] = servfail(name)
    refused = refusal("d.test", table, OWN)
    assert str(refused.reply).startswith(f"{reply} ")
    assert isinstance(refused, Loop) == (reply == "550 5.4.6")


def test_a_denied_address_is_no_proof_that_we_are_an_exchange() -> None:
    rules = Rules(is_own=lambda address: address == "127.0.0.1")
    table = site("d.test", {"trap": (5, ["127.0.0.1"]), "b": (10, ["192.0.2.2"])})
    assert [name for _, name, _ in resolved("d.test", table, rules)] == ["b"]


# Literals, names, TTLs.


@pytest.mark.parametrize(
    ("literal", "address"),
    [
        ("[192.0.2.1]", "192.0.2.1"),
        ("[IPv6:2001:DB8::1]", "2001:db8::1"),
        ("[ipv6:2001:db8:0:0::1]", "2001:db8::1"),
    ],
)
def test_an_address_literal_needs_no_question(literal, address) -> None:
    result, asked = drive(resolve(normal_domain(literal), Rules(), random.Random(1)), {})
    assert result.exchanges[0].addresses == (address,)
    assert asked == []


@pytest.mark.parametrize(
    ("literal", "reply"),
    [
        ("[127.0.0.1]", "550 5.4.4"),
        ("[IPv6:::ffff:127.0.0.1]", "550 5.4.4"),
        ("[192.0.2.99]", "550 5.4.6"),
        ("[192.0.2.256]", "550 5.1.2"),
        ("[2001:db8::1]", "550 5.1.2"),
        ("[IPv6:192.0.2.1]", "550 5.1.2"),
        ("[IPv6:fe80::1%lo]", "550 5.1.2"),
        ("[]", "550 5.1.2"),
        ("[x]", "550 5.1.2"),
    ],
)
def test_a_literal_that_leads_nowhere_bounces(literal, reply) -> None:
    refused = refusal(normal_domain(literal), {}, OWN)
    assert str(refused.reply).startswith(f"{reply} ")


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("EXAMPLE.Com", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example.", "xn--bcher-kva.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("under_score.test", "under_score.test"),
        ("a." * 126 + "a", "a." * 126 + "a"),
    ],
)
def test_domains_are_looked_up_in_one_form(written, normal) -> None:
    assert normal_domain(written) == normal


@pytest.mark.parametrize(
    "domain",
    [
        "",
        ".",
        "a..b",
        ".a",
        "a..",
        "a b",
        "a\\.b",
        "a\nb",
        "a/b",
        "=a",
        "x" * 64 + ".test",
        "a." * 127 + "a",
        "[192.0.2.1",
        "\u2028.test",
        "xn--a-ä.test",
    ],
)
def test_what_cannot_be_a_domain_bounces_without_a_question(domain) -> None:
    with pytest.raises(NoSuchDomain) as caught:
        normal_domain(domain)
    reply = caught.value.reply
    assert (reply.code, reply.status) == (550, "5.1.2")
    assert reply.text.isascii()
    assert reply.text.isprintable()


@pytest.mark.parametrize(
    ("table", "ttl_s"),
    [
        (site("d.test", {"a": (1, ["192.0.2.1"])}, ttl_s=50), 50),
        (
            {
                **site("d.test", {"a": (1, ["192.0.2.1"])}),
                ("a", "A"): addresses("1.1.1.1", ttl_s=7),
            },
            7,
        ),
        (implicit(addresses("192.0.2.1", ttl_s=900), nodata(5), nodata(60)), 60),
        (implicit(addresses("192.0.2.1", ttl_s=900), nodata(5), nodata(3600)), 900),
    ],
    ids=["MX", "an address", "negative TTL of the MX", "not the missing AAAA"],
)
def test_a_plan_lives_as_long_as_its_shortest_answer(table, ttl_s) -> None:
    result, _ = drive(resolve("d.test", Rules(), random.Random(1)), table)
    assert result.ttl_s == ttl_s


def test_a_failed_lookup_leaves_nothing_to_remember_and_a_no_does() -> None:
    assert refusal("d.test", implicit(FOUR, SIX, servfail())).ttl_s is None
    assert refusal("d.test", implicit(nodata(), servfail())).ttl_s is None
    assert refusal("d.test", {("d.test", "MX"): nxdomain(77)}).ttl_s == 77
    assert refusal("d.test", implicit(nodata(70), nodata(80), nodata(90))).ttl_s == 70


# Smart hosts.


def host(name: str, table: Table) -> tuple[Resolved, list[Question]]:
    return drive(resolve_host(normal_host(name), OWN), table)


def test_a_smart_host_is_found_by_address_and_never_by_mx() -> None:
    result, asked = host("smart.test", site("x", {"smart.test": (1, ["192.0.2.1", "2001:db8::1"])}))
    assert result.exchanges == (Exchange(0, "smart.test", ("192.0.2.1", "2001:db8::1")),)
    assert {q.kind for q in asked} == {"A", "AAAA"}


@pytest.mark.parametrize("address", ["127.0.0.1", "192.0.2.99"])
def test_a_smart_host_may_be_at_a_denied_address_or_our_own(address) -> None:
    result, _ = host("smart.test", site("x", {"smart.test": (1, [address])}))
    assert result.exchanges[0].addresses == (address,)


@pytest.mark.parametrize(
    ("name", "addresses_"),
    [
        ("127.0.0.1", ("127.0.0.1",)),
        ("[127.0.0.1]", ("127.0.0.1",)),
        ("2001:DB8::1", ("2001:db8::1",)),
        ("[IPv6:2001:db8::1]", ("2001:db8::1",)),
        ("localhost", ("127.0.0.1", "::1")),
        ("smtp.localhost", ("127.0.0.1", "::1")),
    ],
)
def test_some_smart_hosts_need_no_question(name, addresses_) -> None:
    result, asked = host(name, {})
    assert result.exchanges[0].addresses == addresses_
    assert asked == []


@pytest.mark.parametrize(
    ("table", "status"),
    [
        ({}, "4.4.4"),
        ({("smart.test", "A"): nodata(), ("smart.test", "AAAA"): nodata()}, "4.4.4"),
        ({("smart.test", "A"): servfail(), ("smart.test", "AAAA"): servfail()}, "4.4.3"),
        ({("smart.test", "A"): nodata(), ("smart.test", "AAAA"): servfail()}, "4.4.3"),
        ({("smart.test", "A"): Answer("alias", 60, aliases=("smart.test",))}, "4.4.3"),
    ],
)
def test_a_smart_host_that_is_not_found_defers(table, status) -> None:
    with pytest.raises(ResolutionError) as caught:
        host("smart.test", table)
    assert caught.value.reply.is_temporary
    assert caught.value.reply.status == status


def test_a_smart_host_that_is_no_name_defers_too() -> None:
    with pytest.raises(ResolutionError) as caught:
        normal_host("no such name")
    assert caught.value.reply.is_temporary
