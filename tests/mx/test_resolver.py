"""One question over real sockets, to name servers on loopback that do as told."""

import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from gwrelay.errors import ConfigError
from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.denied import Denied
from gwrelay.mx.exchanges import (
    Answer,
    CanonicalNameChainTooLong,
    CanonicalNameLoop,
    LookupFailed,
    Question,
    ResolutionError,
    Rules,
)
from gwrelay.mx.policy import MXPolicy
from gwrelay.mx.resolver import DNSResolver
from support.dns_server import DNSServer
from support.table_resolver import SetClock

ZONE = {
    "d.test": {"MX": ["20 b.d.test.", "10 a.d.test."], "A": ["192.0.2.99"]},
    "a.d.test": {"A": ["192.0.2.1", "192.0.2.2"], "AAAA": ["2001:db8::1"]},
    "b.d.test": {"A": ["192.0.2.3"]},
    "nomx.test": {"A": ["192.0.2.4"], "AAAA": ["2001:db8::4"]},
    "nothing.test": {"TXT": ['"here"']},
    "null.test": {"MX": ["0 ."], "A": ["192.0.2.5"]},
    "local.test": {"MX": ["0 localhost."]},
    "localhost": {"A": ["127.0.0.1"], "AAAA": ["::1"]},
    "trap.test": {"MX": ["10 inner.test."]},
    "inner.test": {"A": ["127.0.0.1"]},
    "own.test": {"MX": ["10 us.test.", "5 a.d.test.", "30 b.d.test."]},
    "only-own.test": {"MX": ["10 us.test.", "30 b.d.test."]},
    "us.test": {"A": ["192.0.2.77"]},
    "aliasmx.test": {"MX": ["10 alias-of-a.test."]},
    "alias-of-a.test": {"CNAME": ["a.d.test."]},
    "c1.test": {"CNAME": ["d.test."]},
    "c2.test": {"CNAME": ["c1.test."]},
    "c3.test": {"CNAME": ["c2.test."]},
    "c4.test": {"CNAME": ["c3.test."]},
    "loop-a.test": {"CNAME": ["loop-b.test."]},
    "loop-b.test": {"CNAME": ["loop-a.test."]},
    "dangling.test": {"CNAME": ["gone.test."]},
    "many.test": {"MX": [f"{n} mx{n}.many.test." for n in range(300)]},
    **{f"mx{n}.many.test": {"A": [f"198.51.100.{n % 250}"]} for n in range(300)},
    "xn--bcher-kva.test": {"MX": ["10 a.d.test."]},
    "upper.test": {"MX": ["10 A.D.TEST."]},
}


@pytest.fixture
def server() -> Iterator[DNSServer]:
    with DNSServer(ZONE) as running:
        yield running


@pytest.fixture
def deaf() -> Iterator[str]:
    """The address of a name server that never answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


def ask(server: DNSServer, name: str, kind: str, timeout_s: float = 2.0) -> Answer:
    return DNSResolver([server.address], timeout_s=timeout_s).ask(Question(name, kind))


# Single questions.


@pytest.mark.parametrize(
    ("name", "kind", "wanted"),
    [
        ("d.test", "MX", Answer("records", 300, mx=((20, "b.d.test"), (10, "a.d.test")))),
        ("a.d.test", "A", Answer("records", 300, addresses=("192.0.2.1", "192.0.2.2"))),
        ("a.d.test", "AAAA", Answer("records", 300, addresses=("2001:db8::1",))),
        ("null.test", "MX", Answer("records", 300, mx=((0, ""),))),
        ("upper.test", "MX", Answer("records", 300, mx=((10, "a.d.test"),))),
        ("nothing.test", "MX", Answer("nodata", 120)),
        ("gone.test", "MX", Answer("nxdomain", 120)),
        ("dangling.test", "MX", Answer("nxdomain", 120, aliases=("gone.test",))),
        (
            "c2.test",
            "A",
            Answer("records", 300, addresses=("192.0.2.99",), aliases=("c1.test", "d.test")),
        ),
        ("loop-a.test", "MX", Answer("alias", 300, aliases=("loop-b.test", "loop-a.test"))),
    ],
)
def test_an_answer_says_what_was_found(server, name, kind, wanted) -> None:
    found = ask(server, name, kind)
    assert found._replace(mx=(), addresses=()) == wanted._replace(mx=(), addresses=())
    assert sorted(found.mx) == sorted(wanted.mx)
    assert sorted(found.addresses) == sorted(wanted.addresses)


def test_a_server_that_does_not_follow_aliases_is_to_be_asked_again() -> None:
    with DNSServer(ZONE, follow=False) as server:
        assert ask(server, "c2.test", "MX") == Answer("alias", 300, aliases=("c1.test",))


def test_the_ttl_of_an_answer_is_the_smallest_on_its_way(server) -> None:
    server.ttls["c1.test"] = 30
    assert ask(server, "c2.test", "A").ttl_s == 30


def test_a_no_without_soa_is_not_to_be_remembered(server) -> None:
    server.fault("d.test", "empty")
    assert ask(server, "d.test", "MX") == Answer("nodata", 0)


@pytest.mark.parametrize("fault", ["servfail", "refused", "timeout", "garbage", "wrong_id", "lame"])
def test_what_is_no_answer_fails_the_lookup_in_time(server, fault) -> None:
    server.fault("d.test", fault)
    started = time.monotonic()
    with pytest.raises(LookupFailed) as caught:
        ask(server, "d.test", "MX", timeout_s=0.4)
    assert time.monotonic() - started < 1.5
    assert str(caught.value.reply).startswith("451 4.4.3 cannot look up d.test: MX ")


def test_forged_answers_are_ignored_and_the_true_one_taken(server) -> None:
    server.fault("d.test", "spoof_first")
    assert sorted(ask(server, "d.test", "MX").mx) == [(10, "a.d.test"), (20, "b.d.test")]


def test_a_lost_packet_is_asked_for_again(server) -> None:
    server.fault("d.test", "drop_first")
    assert ask(server, "d.test", "MX", timeout_s=0.6).found == "records"
    assert server.asked("d.test", "MX") == 2


def test_a_server_once_silent_still_gets_its_second_try(server) -> None:
    resolver = DNSResolver([server.address], timeout_s=0.4)
    server.fault("a.d.test", "timeout")
    with pytest.raises(LookupFailed):
        resolver.ask(Question("a.d.test", "A"))
    server.fault("d.test", "drop_first")
    assert resolver.ask(Question("d.test", "MX")).found == "records"


def test_a_truncated_answer_is_asked_for_by_tcp(server) -> None:
    server.fault("d.test", "truncated")
    assert ask(server, "d.test", "MX").found == "records"
    assert server.asked("d.test", "MX", "tcp") == 1


def test_a_truncated_answer_without_tcp_is_a_failure_not_half_an_answer(server) -> None:
    server.fault("d.test", "truncated_no_tcp")
    with pytest.raises(LookupFailed):
        ask(server, "d.test", "MX", timeout_s=0.4)


def test_three_hundred_mx_come_whole_by_tcp(server) -> None:
    assert len(ask(server, "many.test", "MX").mx) == 300
    assert server.asked("many.test", "MX", "tcp") == 1


def test_a_server_that_knows_no_edns_is_asked_without(server) -> None:
    server.fault("d.test", "formerr_to_edns")
    assert ask(server, "d.test", "MX").found == "records"


def test_each_question_comes_from_a_port_of_its_own(server) -> None:
    resolver = DNSResolver([server.address])
    for _ in range(12):
        resolver.ask(Question("d.test", "MX"))
    assert len(set(server.client_ports)) > 8


# Several servers.


@pytest.mark.parametrize("fault", ["servfail", "refused", "lame"])
def test_when_the_first_server_is_useless_the_second_answers(server, fault) -> None:
    with DNSServer(ZONE) as lame:
        lame.fault("*", fault)
        resolver = DNSResolver([lame.address, server.address])
        assert resolver.ask(Question("d.test", "MX")).found == "records"


def test_when_the_first_server_is_silent_the_second_answers_in_time(server, deaf) -> None:
    resolver = DNSResolver([deaf, server.address], timeout_s=0.9)
    started = time.monotonic()
    assert resolver.ask(Question("d.test", "MX")).found == "records"
    assert time.monotonic() - started < 0.8


def test_a_silent_server_is_asked_last_for_a_while_and_then_first_again(server, deaf) -> None:
    clock = SetClock()
    resolver = DNSResolver([deaf, server.address], timeout_s=0.6, clock=clock)
    resolver.ask(Question("d.test", "MX"))
    before = resolver.queries
    resolver.ask(Question("d.test", "MX"))
    assert resolver.queries - before == 1
    clock.advance(16)
    before = resolver.queries
    resolver.ask(Question("d.test", "MX"))
    assert resolver.queries - before == 2


@pytest.mark.parametrize("fault", ["refused", "lame"])
def test_a_server_that_serves_others_is_asked_last_for_a_while(server, fault) -> None:
    with DNSServer(ZONE) as lame:
        lame.fault("*", fault)
        resolver = DNSResolver([lame.address, server.address], clock=SetClock())
        for _ in range(3):
            resolver.ask(Question("d.test", "MX"))
        assert len(lame.questions) == 1


def test_a_server_that_fails_for_one_name_is_asked_first_for_the_next(server) -> None:
    with DNSServer(ZONE) as first:
        first.fault("d.test", "servfail")
        resolver = DNSResolver([first.address, server.address])
        resolver.ask(Question("d.test", "MX"))
        resolver.ask(Question("a.d.test", "A"))
        assert server.asked("a.d.test", "A") == 0


def test_a_server_that_answers_after_all_is_asked_first_again(server) -> None:
    with DNSServer(ZONE) as first:
        first.fault("d.test", "drop_first")
        server.fault("d.test", "servfail")
        resolver = DNSResolver([first.address, server.address], timeout_s=0.6)
        resolver.ask(Question("d.test", "MX"))
        resolver.ask(Question("a.d.test", "A"))
        assert server.asked("a.d.test", "A") == 0


def test_two_of_several_servers_must_agree_that_a_domain_does_not_exist(server) -> None:
    with DNSServer({}) as ignorant:
        two = DNSResolver([ignorant.address, server.address])
        assert two.ask(Question("d.test", "MX")).found == "records"
        assert two.ask(Question("gone.test", "MX")).found == "nxdomain"
        server.fault("*", "servfail")
        with pytest.raises(LookupFailed) as caught:
            two.ask(Question("d.test", "MX"))
    assert "does not confirm" in caught.value.reply.text


def test_a_single_server_is_believed_that_a_domain_does_not_exist(server) -> None:
    assert ask(server, "gone.test", "MX").found == "nxdomain"
    assert server.asked("gone.test", "MX") == 1


def test_silence_everywhere_ends_at_the_timeout(deaf) -> None:
    resolver = DNSResolver([deaf, deaf], timeout_s=0.3)
    started = time.monotonic()
    with pytest.raises(LookupFailed):
        resolver.ask(Question("d.test", "MX"))
    assert time.monotonic() - started < 0.6


@pytest.mark.parametrize(
    "text",
    ["", "ns.example", "192.0.2.256", "192.0.2.1:0", "192.0.2.1:65536", "[::1]:x", "::1:53:"],
)
def test_a_server_that_is_no_address_is_refused(text) -> None:
    with pytest.raises(ConfigError, match="resolver: "):
        DNSResolver([text])


@pytest.mark.parametrize("text", ["192.0.2.1", "192.0.2.1:5353", "::1", "[::1]", "[::1]:5353"])
def test_a_server_may_be_written_with_and_without_port(text) -> None:
    DNSResolver([text])


def test_a_name_that_dns_cannot_carry_is_a_failure_not_a_crash(server) -> None:
    with pytest.raises(LookupFailed):
        ask(server, "a..b", "A")


# The whole way: name server, rules, memory.


def calculator(
    server: DNSServer, clock: SetClock | None = None, timeout_s: float = 0.25, **rules: object
) -> MXCalculator:
    return MXCalculator(
        DNSResolver([server.address], timeout_s=timeout_s),
        clock or SetClock(),
        policy=MXPolicy(rules=Rules(**rules)),
        rng=random.Random(1),
    )


def outcome(server: DNSServer, domain: str, **rules: object) -> str:
    try:
        return " ".join(e.name for e in calculator(server, **rules).get_exchanges(domain))
    except ResolutionError as error:
        return f"{error.reply.code} {error.reply.status}"


@pytest.mark.parametrize(
    ("domain", "wanted"),
    [
        ("d.test", "a.d.test b.d.test"),
        ("D.TEST.", "a.d.test b.d.test"),
        ("upper.test", "a.d.test"),
        ("bücher.test", "a.d.test"),
        ("nomx.test", "nomx.test"),
        ("nothing.test", "550 5.4.4"),
        ("gone.test", "550 5.1.2"),
        ("dangling.test", "550 5.1.2"),
        ("null.test", "556 5.1.10"),
        ("local.test", "550 5.4.4"),
        ("trap.test", "550 5.4.4"),
        ("own.test", "a.d.test"),
        ("only-own.test", "550 5.4.6"),
        ("aliasmx.test", "alias-of-a.test"),
        ("c3.test", "a.d.test b.d.test"),
        ("c4.test", "451 4.4.3"),
        ("loop-a.test", "451 4.4.3"),
    ],
)
@pytest.mark.parametrize("follow", [True, False], ids=["server follows", "we follow"])
def test_where_mail_for_a_domain_goes(domain, wanted, follow) -> None:
    with DNSServer(ZONE, follow=follow) as server:
        found = outcome(server, domain, is_own=lambda address: address == "192.0.2.77")
        assert found == wanted


@pytest.mark.parametrize(
    ("domain", "error"),
    [("c4.test", CanonicalNameChainTooLong), ("loop-a.test", CanonicalNameLoop)],
)
def test_cname_trouble_has_exceptions_of_its_own(server, domain, error) -> None:
    with pytest.raises(error):
        calculator(server).get_mx(domain)


@pytest.mark.parametrize("fault", ["servfail", "refused", "timeout", "garbage", "wrong_id", "lame"])
@pytest.mark.parametrize(
    ("name", "kind", "status"),
    [("nomx.test", "MX", "451 4.4.3"), ("inner2.test", "*", "451 4.4.4")],
)
def test_trouble_with_a_name_server_always_defers(server, fault, name, kind, status) -> None:
    server.fault(name, fault, kind)
    server.zone.update(DNSServer.parsed({"d2.test": {"MX": ["10 inner2.test."]}}))
    assert outcome(server, "nomx.test" if kind == "MX" else "d2.test") == status


def test_three_hundred_mx_cost_a_bounded_number_of_questions(server) -> None:
    exchanges = calculator(server, timeout_s=5.0).get_exchanges("many.test")
    assert len(exchanges) == 100
    assert {e.preference for e in exchanges} == set(range(100))
    assert len(server.questions) <= 202


def test_a_loopback_exchange_is_reached_when_nothing_is_denied(server) -> None:
    assert outcome(server, "trap.test", denied=Denied(())) == "inner.test"


@pytest.mark.parametrize(("ttl_s", "lives_s"), [(0, 60), (31_536_000, 86_400)])
def test_ttls_of_nothing_and_of_a_year_are_brought_within_bounds(server, ttl_s, lives_s) -> None:
    server.ttl_s = ttl_s
    clock = SetClock()
    found = calculator(server, clock)
    found.get_exchanges("d.test")
    clock.advance(lives_s - 1)
    assert found.cached("d.test")
    clock.advance(1)
    assert found.cached("d.test") is None


def test_mail_goes_on_with_old_answers_while_the_name_server_is_down(server) -> None:
    clock = SetClock()
    found = calculator(server, clock)
    before = found.get_exchanges("d.test")
    server.fault("*", "servfail")
    clock.advance(400)
    assert found.get_exchanges("d.test") == before
    server.heal()
    clock.advance(6)
    assert [e.name for e in found.get_exchanges("d.test")] == ["a.d.test", "b.d.test"]
    clock.advance(200)
    assert found.cached("d.test"), "fresh again, not merely tolerated"


def test_importing_the_calculator_loads_neither_dnspython_nor_gevent() -> None:
    code = "import gwrelay.mx.calculator, sys; sys.exit(bool({'dns', 'gevent'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
