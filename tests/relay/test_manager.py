"""The managers over tables of exchanges and scripted servers, driven by hand.

Everything here runs on one greenlet at a time; what needs several is in
test_manager_greenlets.py.
"""

import threading
from collections.abc import Iterator

import pytest

from gwrelay.message.envelope import Recipient
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.queue.store import NewMessage, State
from gwrelay.relay.limits import SiteLimits
from gwrelay.relay.manager import (
    RelayStateHelper,
    SmartHostESMTPRelayingManager,
    SmartHostSMTPRelayingManager,
)
from gwrelay.relay.routes import NextHop, Routes
from support.mail import CONTENT, envelope
from support.peer import POLITE, Peer
from support.relaying import RETRY, Relay, nobody_listens
from support.table_resolver import mx, nxdomain, servfail

ONE = "127.0.0.1"
#: Nobody listens there.
DEAD = "127.0.0.98"


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


def host(*addresses: str, preference: int = 10, name: str = "mx.test") -> dict:
    """One exchange, as Relay wants it."""
    return {name: (preference, list(addresses))}


# -- where mail goes ----------------------------------------------------------------------------


def test_mail_goes_to_the_exchanges_of_its_destination(peer: Peer) -> None:
    relay = Relay({"b.test": host(ONE), "c.test": host(ONE, name="mx.c.test")}, peer.port)
    relay.send(envelope("x@b.test", "y@c.test", "z@b.test"))
    ends = relay.run()
    assert sorted(end.kinds for end in ends) == [["delivered"], ["delivered"] * 2]
    assert peer.arrived() == {"x@b.test": 1, "y@c.test": 1, "z@b.test": 1}
    assert len(relay.queue) == 0


@pytest.mark.parametrize(
    ("manager_class", "hello"),
    [(SmartHostSMTPRelayingManager, "HELO"), (SmartHostESMTPRelayingManager, "EHLO")],
)
def test_each_manager_builds_its_own_kind_of_relayer(
    peer: Peer, manager_class: type[SmartHostSMTPRelayingManager], hello: str
) -> None:
    relay = Relay({"b.test": host(ONE)}, peer.port, manager_class=manager_class)
    assert relay.manager.max_messages_per_connection == 100
    relay.send(envelope("x@b.test"))
    relay.run()
    assert peer.verbs()[0] == hello


def test_check_state_returns_the_attempts_it_started(peer: Peer) -> None:
    relay = Relay({"b.test": host(ONE)}, peer.port)
    relay.calculator.get_exchanges("b.test")
    relay.send(envelope("x@b.test"))
    [attempt] = relay.manager.check_state()
    assert list(relay.manager.managed.values()) == [attempt]
    assert not attempt.completed.is_set()
    relay.run_until(attempt.completed.is_set)
    assert relay.manager.managed == {}
    assert relay.manager.check_state() == []


def test_nothing_due_starts_nothing() -> None:
    relay = Relay({})
    assert relay.manager.check_state() == []
    assert relay.manager.is_idle


def test_a_destination_that_is_not_there_bounces_without_a_connection() -> None:
    relay = Relay({})
    relay.resolver.table["b.test", "MX"] = nxdomain()
    [message_id] = relay.send(envelope("x@b.test", reverse_path=""))
    [end] = relay.run()
    assert (end.message_id, end.kinds) == (message_id, ["failed"])
    assert end.told[0].stage == "dns"
    assert "550 5.1.2" in end.replies[0]


def test_a_destination_that_cannot_be_looked_up_waits() -> None:
    relay = Relay({})
    relay.resolver.table["b.test", "MX"] = servfail("b.test")
    relay.send(envelope("x@b.test"))
    [end] = relay.run()
    assert end.kinds == ["deferred"]
    assert "451 4.4.3" in end.replies[0]
    assert relay.queue.next_due_at == relay.clock() + 60


def test_mail_for_one_destination_is_looked_up_once(peer: Peer) -> None:
    relay = Relay({"b.test": host(ONE)}, peer.port)
    relay.send(*(envelope(f"u{n}@b.test") for n in range(10)))
    relay.run()
    assert relay.resolver.questions.count(("b.test", "MX")) == 1
    assert len(peer.messages) == 10


def test_lookups_go_on_after_as_many_as_are_allowed_at_once(peer: Peer) -> None:
    relay = Relay({f"d{n}.test": host(ONE) for n in range(4)}, peer.port, dns_concurrency=1)
    for n in range(4):
        relay.send(envelope(f"x@d{n}.test"))
        assert relay.run()[0].kinds == ["delivered"]


def test_destinations_with_the_same_exchanges_share_sessions(peer: Peer) -> None:
    relay = Relay(
        {"b.test": host(ONE, preference=5), "c.test": host(ONE, preference=20)},
        peer.port,
        limits=SiteLimits(1),
    )
    relay.send(envelope("x@b.test"), envelope("y@c.test"), envelope("z@b.test"))
    relay.run()
    assert peer.connections == 1
    assert len(peer.messages) == 3


# -- smart hosts -----------------------------------------------------------------------------------


def test_a_smart_host_takes_everything_and_mx_is_never_asked(peer: Peer) -> None:
    relay = Relay({}, routes=Routes((NextHop(ONE, peer.port),)))
    relay.send(envelope("x@b.test"), envelope("y@c.test"))
    ends = relay.run()
    assert [end.kinds for end in ends] == [["delivered"]] * 2
    assert relay.resolver.questions == []


def test_a_smart_host_by_name_is_looked_up_by_its_addresses(peer: Peer) -> None:
    relay = Relay({"x.test": host(ONE, name="smart.test")}, routes=smart("smart.test", peer.port))
    relay.send(envelope("x@b.test"))
    assert relay.run()[0].told[0].exchange == "smart.test"
    assert {kind for _, kind in relay.resolver.questions} == {"A", "AAAA"}


def smart(name: str, port: int) -> Routes:
    return Routes((NextHop(name, port),))


def test_smart_hosts_are_tried_in_order(peer: Peer) -> None:
    dead = nobody_listens()
    with Peer() as third:
        routes = Routes((NextHop(*dead), NextHop(*peer.address), NextHop(*third.address)))
        relay = Relay({}, routes=routes)
        relay.send(*(envelope(f"u{n}@b.test") for n in range(4)))
        relay.run()
        assert len(peer.messages) == 4
        assert third.connections == 0


def test_a_smart_host_that_cannot_be_looked_up_never_bounces_mail() -> None:
    relay = Relay({}, routes=smart("nowhere.test", 25))
    relay.send(envelope("x@b.test"))
    [end] = relay.run()
    assert end.kinds == ["deferred"]
    assert end.told[0].reply.is_temporary


# -- hosts that are down ---------------------------------------------------------------------------


def test_mail_for_a_dead_site_waits_for_the_end_of_the_mark(peer: Peer) -> None:
    relay = Relay({"b.test": host(DEAD)}, peer.port, limits=SiteLimits(3))
    began = relay.clock()
    relay.send(*(envelope(f"u{n}@b.test") for n in range(10)))
    ends = relay.run()
    assert [end.kinds for end in ends] == [["deferred"]] * 3, "a window full of them found out"
    assert len(relay.queue) == 10
    assert relay.manager.sites.next_at == began + 30
    # What comes meanwhile is put off as well, and so is what was waiting for its delay.
    relay.set_clock.advance(20)
    relay.send(envelope("late@b.test"))
    assert relay.run() == []
    assert relay.manager.sites.next_at == began + 30


def test_one_probe_finds_a_dead_site_still_dead(peer: Peer) -> None:
    relay = Relay({"b.test": host(DEAD)}, peer.port, limits=SiteLimits(3))
    relay.send(*(envelope(f"u{n}@b.test") for n in range(10)))
    relay.run()
    began = relay.clock()
    relay.ends.clear()
    relay.set_clock.advance(30)
    [probe] = relay.run()
    assert probe.kinds == ["deferred"]
    # The second mark lasts twice as long.
    relay.set_clock.advance(59)
    relay.run()
    assert relay.ends == [probe]
    assert relay.manager.sites.next_at == began + 90


def test_putting_mail_off_counts_no_attempt(peer: Peer) -> None:
    relay = Relay({"b.test": host(DEAD)}, peer.port)
    relay.send(envelope("first@b.test"))
    relay.run()
    [message_id] = relay.send(envelope("second@b.test"))
    assert relay.run() == []
    [part] = relay.queue.parts(message_id)
    assert (part.word, part.open.attempts) == ("waiting", 0)


def test_everything_goes_out_when_a_dead_site_is_back(peer: Peer) -> None:
    with Peer(DEAD, peer.port) as host_that_dies:
        pass
    relay = Relay({"b.test": host(DEAD)}, peer.port)
    relay.send(*(envelope(f"u{n}@b.test") for n in range(10)))
    relay.run()
    assert len(relay.queue) == 10
    relay.set_clock.advance(60)
    with host_that_dies:
        relay.run()
        assert host_that_dies.arrived() == {f"u{n}@b.test": 1 for n in range(10)}
    assert len(relay.queue) == 0


def test_the_first_success_wakes_what_slept_the_oldest_first() -> None:
    """Whatever its own time would have been: those that were tried wait for their delay, the
    others for their turn, and the clock stands still.  Three that were not tried yet may pass one
    that was."""
    with Peer(DEAD) as back:
        pass
    relay = Relay({"b.test": host(DEAD)}, back.port, limits=SiteLimits(1))
    for n in range(20):
        relay.send(envelope(f"u{n}@b.test"))
        relay.set_clock.advance(0.001)
    relay.run()
    relay.set_clock.advance(30)
    order = []
    back.always("RCPT", lambda command: (order.append(command.mailbox), POLITE)[1])
    with back:
        relay.run()
    assert sorted(order) == sorted(f"u{n}@b.test" for n in range(20))
    probe, *woken = order
    waited = [f"u{n}@b.test" for n in range(20) if f"u{n}@b.test" != probe]
    assert all(abs(woken.index(one) - waited.index(one)) <= 3 for one in waited), woken
    assert len(relay.queue) == 0


def test_mail_that_was_to_wait_for_hours_is_woken_when_its_host_is_back() -> None:
    with Peer(DEAD) as back:
        pass
    relay = Relay({"b.test": host(DEAD)}, back.port)
    relay.send(envelope("old@b.test"))
    relay.run()
    relay.set_clock.advance(60)
    relay.run()
    assert relay.queue.next_due_at == relay.clock() + 300
    relay.set_clock.advance(61)
    relay.send(envelope("new@b.test"))
    with back:
        relay.run()
    assert back.arrived() == {"old@b.test": 1, "new@b.test": 1}


def test_any_answer_to_a_message_shows_that_a_host_is_back() -> None:
    with Peer(DEAD) as back:
        back.recipient("new@b.test", "450 4.2.1 greylisted")
    relay = Relay({"b.test": host(DEAD)}, back.port)
    relay.send(envelope("old@b.test"))
    relay.run()
    relay.set_clock.advance(60)
    relay.run()
    relay.set_clock.advance(61)
    relay.send(envelope("new@b.test"))
    with back:
        relay.run()
    assert back.arrived() == {"old@b.test": 1}


def test_a_mark_taken_away_by_hand_wakes_what_slept() -> None:
    with Peer(DEAD) as back:
        pass
    relay = Relay({"b.test": host(DEAD)}, back.port)
    relay.send(*(envelope(f"u{n}@b.test") for n in range(5)))
    relay.run()
    with back:
        relay.manager.wake_sites()
        assert relay.run() == [], "the mark is still there"
        relay.calculator.mark_good("mx.test")
        relay.manager.wake_sites()
        relay.run()
    assert len(back.messages) == 5


def test_a_host_marked_by_another_site_or_by_hand_is_left_alone_here_too(peer: Peer) -> None:
    """And is tried by one message when the mark ends."""
    relay = Relay({"b.test": host(ONE), "c.test": host(ONE, name="mx.c.test")}, peer.port)
    relay.calculator.mark_bad("mx.c.test", 40)
    relay.send(*(envelope(f"u{n}@c.test") for n in range(5)), envelope("x@b.test"))
    relay.run()
    assert peer.arrived() == {"x@b.test": 1}
    assert relay.manager.sites.next_at == relay.clock() + 40
    relay.set_clock.advance(40)
    attempts = relay.manager.check_state()
    assert len(attempts) == 1
    relay.run()
    assert len(peer.messages) == 6


def test_when_a_mark_ends_one_message_is_looked_at_and_not_all_of_them() -> None:
    relay = Relay({"b.test": host(DEAD)}, 25, limits=SiteLimits(1))
    relay.send(*(envelope(f"u{n}@b.test") for n in range(200)))
    relay.run()
    relay.set_clock.advance(30)
    assert relay.queue.get_waiting() == []
    relay.manager.sites.ring()
    assert len(relay.queue.get_waiting()) == 1


def test_a_dead_host_beside_a_good_one_costs_one_try(peer: Peer) -> None:
    hosts = {"dead.test": (10, [DEAD]), "good.test": (20, [ONE])}
    relay = Relay({"b.test": hosts}, peer.port)
    relay.send(*(envelope(f"u{n}@b.test") for n in range(5)))
    ends = relay.run()
    assert [end.kinds for end in ends] == [["delivered"]] * 5
    assert [end.told[0].exchange for end in ends] == ["good.test"] * 5
    assert relay.calculator.bad_until(DEAD) == relay.clock() + 30


def test_other_sites_do_not_notice_a_dead_one(peer: Peer) -> None:
    relay = Relay({"b.test": host(DEAD), "c.test": host(ONE, name="mx.c.test")}, peer.port)
    relay.send(*(envelope(f"u{n}@b.test", f"u{n}@c.test") for n in range(5)))
    relay.run()
    assert peer.arrived() == {f"u{n}@c.test": 1 for n in range(5)}


def test_a_lifetime_ends_while_the_site_is_dead(peer: Peer) -> None:
    """Although there is no attempt: the last words of the host are the reason given."""
    relay = Relay({"b.test": host(DEAD)}, peer.port)
    message_ids = relay.send(*(envelope(f"u{n}@b.test") for n in range(3)))
    relay.run()
    for _ in range(100):
        if len(relay.queue) == 0:
            break
        times = relay.queue.next_due_at, relay.manager.sites.next_at
        relay.set_clock.now = max(min(at for at in times if at is not None), relay.clock())
        # The reports about b.test go to a.test, which does not exist.
        relay.run()
    expired = {e.message_id: e for e in relay.ends if e.settled.settlement.expired}
    assert set(expired) >= set(message_ids)
    for message_id in message_ids:
        end = expired[message_id]
        assert "connection refused" in end.replies[0]
        assert end.settled.report is not None
    assert relay.clock() - 1_000_000.0 == 1000, "their lifetime, not the end of a mark"


def test_senders_are_warned_while_the_site_is_dead(peer: Peer) -> None:
    """Although there is no attempt: at the first turn that is late, with the last words of the
    host."""
    relay = Relay(
        {"b.test": host(DEAD), "a.test": host(ONE, name="mx.a.test")},
        peer.port,
        limits=SiteLimits(1),
        retry=RETRY._replace(delay_warning_s=30),
    )
    heard: list[int] = []
    relay.queue.on_warned = lambda original, report, recipients: heard.append(original.id)
    message_ids = relay.send(*(envelope(f"u{n}@b.test") for n in range(5)))
    relay.run()
    assert len(relay.ends) == 1, "the others are put off"
    for _ in range(12):
        relay.set_clock.advance(15)
        relay.run()
    tried = [end.message_id for end in relay.ends if end.settled.warned]
    assert sorted(tried + heard) == message_ids, "once each"
    assert len(heard) == 4, "told of without an attempt"
    assert [message.reverse_path for message in peer.messages] == [""] * 5
    for message in peer.messages:
        assert b"\r\nAction: delayed\r\n" in message.content
        assert b"x-gwrelay; 421 4.4.1 connection refused" in message.content
    assert sum(b"Last-Attempt-Date" in message.content for message in peer.messages) == 1
    assert len(relay.queue) == 5, "and all of it waits still"


def test_a_host_that_only_says_never_is_not_dead(peer: Peer) -> None:
    peer.always("CONNECT", "554 5.7.1 not you")
    relay = Relay({"b.test": host(ONE)}, peer.port)
    relay.send(envelope("x@b.test"), envelope("y@b.test"))
    ends = relay.run()
    assert [end.kinds for end in ends] == [["deferred"]] * 2
    peer.always("CONNECT", "220 hello")
    relay.send(envelope("z@b.test"))
    assert relay.run()[0].kinds == ["delivered"]


# -- when something breaks -----------------------------------------------------------------------


def test_the_helper_survives_an_exception_in_check_state(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    relay = Relay({"b.test": host(ONE)}, peer.port)
    relay.send(envelope("x@b.test"))
    stop = threading.Event()
    get_waiting = relay.queue.get_waiting
    calls = []

    def breaks_twice(limit: int) -> list:
        calls.append(limit)
        if len(calls) <= 2:
            raise ZeroDivisionError
        if relay.ends:
            stop.set()
        return get_waiting(limit)

    relay.queue.get_waiting = breaks_twice  # type: ignore[method-assign]
    RelayStateHelper(relay.manager, delay=0.01).run(stop)
    assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [ZeroDivisionError] * 2
    assert [end.kinds for end in relay.ends] == [["delivered"]]


def test_one_delivery_that_cannot_be_filed_does_not_hold_up_the_others(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    relay = Relay({"b.test": host(ONE)}, peer.port)
    cached = relay.calculator.cached

    def breaks(domain: str) -> object:
        if domain == "broken.test":
            raise ZeroDivisionError
        return cached(domain)

    relay.calculator.cached = breaks  # type: ignore[method-assign,assignment]
    relay.send(envelope("x@broken.test"), envelope("y@b.test"))
    relay.run()
    assert "ZeroDivisionError" in caplog.text
    assert peer.arrived() == {"y@b.test": 1}
    assert relay.queue.next_due_at == relay.clock() + 60


def test_a_lookup_that_breaks_defers_its_mail(caplog: pytest.LogCaptureFixture) -> None:
    relay = Relay({})

    def breaks(_question: object) -> None:
        raise ZeroDivisionError

    relay.resolver.ask = breaks  # type: ignore[method-assign,assignment]
    relay.send(envelope("x@b.test"))
    [end] = relay.run()
    assert "ZeroDivisionError" in caplog.text
    assert end.kinds == ["deferred"]
    assert relay.manager.is_idle


def test_a_relayer_with_a_bug_is_taken_off_the_list(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(MemoryStore):
        def settle(self, message_id: int, state: State | None, report: NewMessage | None) -> None:
            raise ZeroDivisionError

    relay = Relay({"b.test": host(ONE)}, peer.port, store=Broken(), max_connections=1)
    relay.send(envelope("x@b.test"))
    relay.run()
    assert "ZeroDivisionError" in caplog.text
    assert relay.manager.managed == {}
    # Nothing was written, so nothing happened: it is tried again.
    assert relay.queue.next_due_at == relay.clock() + 60


def test_mail_for_a_null_mx_bounces_and_the_report_goes_out(peer: Peer) -> None:
    relay = Relay({"a.test": host(ONE)}, peer.port)
    relay.resolver.table["b.test", "MX"] = mx((0, ""))
    relay.send(envelope(Recipient("x@b.test", "FAILURE")))
    bounced, reported = relay.run()
    assert "556 5.1.10" in bounced.replies[0]
    assert reported.kinds == ["delivered"]
    report = peer.message_to("sender@a.test")
    assert report.reverse_path == ""
    assert b"5.1.10" in report.content
    assert CONTENT.partition(b"\r\n")[0] in report.content


def test_a_stopped_manager_starts_nothing(peer: Peer) -> None:
    relay = Relay({"b.test": host(ONE)}, peer.port)
    relay.send(envelope("x@b.test"))
    relay.manager.stop(within_s=1)
    assert relay.manager.check_state() == []
    assert relay.queue.has_waiting()
    assert peer.connections == 0
