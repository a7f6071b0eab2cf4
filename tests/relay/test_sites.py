"""What a delivery waits for when it is not handed to its site, and what wakes it."""

from collections.abc import Iterator

import pytest

from gwrelay.queue.delivery import Delivery
from gwrelay.relay.hosts import DOMAIN as BY_DOMAIN
from gwrelay.relay.hosts import OFF
from gwrelay.relay.limits import SiteLimits
from gwrelay.relay.routes import NextHop, Routes
from gwrelay.relay.sites import NET_S
from gwrelay.relay.suspensions import DOMAIN, SITE, Suspended, Suspensions
from support.mail import envelope
from support.peer import Peer
from support.relaying import RETRY, Relay
from support.table_resolver import SetClock, site

ONE, DEAD = "127.0.0.1", "127.0.0.98"


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer(ONE) as found:
        yield found


def host(address: str, name: str = "mx.test") -> dict[str, tuple[int, list[str]]]:
    return {name: (10, [address])}


def known(relay: Relay, *domains: str) -> Relay:
    """Nobody has to wait for a lookup."""
    for domain in domains:
        relay.calculator.get_exchanges(domain)
    return relay


def suspension(relay: Relay, kind: str, name: str, for_s: float = 300.0) -> Suspended:
    now = relay.clock()
    return Suspended(kind, name, now, now + for_s, "on strike")


def numbered(count: int, domain: str = "b.test") -> list[object]:
    return [envelope(f"u{n}@{domain}") for n in range(count)]


def test_mail_for_a_site_that_others_found_dead_says_what_they_heard(peer: Peer) -> None:
    relay = known(Relay({"b.test": host(ONE)}, peer.port), "b.test")
    until = relay.clock() + RETRY.lifetime_s
    relay.calculator.mark_address_bad(ONE, why="554 5.7.1 not you")
    [message_id] = relay.send(envelope("x@b.test"))
    relay.set_clock.advance(29)
    relay.run()
    assert relay.queue.counts.waiting == 1
    assert not peer.messages
    while relay.clock() < until:
        relay.calculator.mark_address_bad(ONE, why="554 5.7.1 not you")
        relay.set_clock.advance(25)
    relay.run()
    end = next(end for end in relay.ends if end.message_id == message_id)
    assert end.replies == [
        "451 4.4.1 no host of the destination can be reached: mx.test[127.0.0.1]: 554 5.7.1 not you"
    ]


# -- suspensions ------------------------------------------------------------------------------


def test_a_suspended_domain_gets_nothing_until_the_end_of_it(peer: Peer) -> None:
    relay = Relay({"b.test": host(ONE), "c.test": host(ONE)}, peer.port)
    relay.manager.sites.suspend(suspension(relay, DOMAIN, "b.test"))
    relay.send(*numbered(5), envelope("x@c.test"))
    relay.run()
    assert peer.arrived() == {"x@c.test": 1}, "though it shares the site"
    assert relay.manager.sites.next_at == relay.clock() + 300
    relay.set_clock.advance(299)
    assert relay.run() == []
    relay.set_clock.advance(1)
    relay.run()
    assert len(peer.messages) == 6


def test_a_suspended_exchange_gets_nothing_whatever_the_domain(peer: Peer) -> None:
    exchanges = {"b.test": host(ONE), "c.test": host(ONE, "mx.c.test"), "d.test": host(ONE)}
    relay = Relay(exchanges, peer.port)
    relay.manager.sites.suspend(suspension(relay, SITE, "mx.test"))
    relay.send(envelope("x@b.test"), envelope("x@c.test"), envelope("x@d.test"))
    relay.run()
    assert peer.arrived() == {"x@c.test": 1}
    relay.manager.sites.end_suspension((SITE, "mx.test"))
    relay.run()
    assert peer.arrived() == {"x@b.test": 1, "x@c.test": 1, "x@d.test": 1}


def test_what_is_ready_when_its_domain_is_suspended_waits_too() -> None:
    relay = Relay({"b.test": host(DEAD), "c.test": host(DEAD)}, limits=SiteLimits(1, 1))
    relay.send(*numbered(3), *numbered(2, "c.test"))
    manager = relay.manager
    for delivery in relay.queue.get_waiting():
        manager.sites.file(delivery, relay.calculator.get_exchanges(delivery.destination))
    [site] = manager.sites
    assert len(site.ready) == 5
    manager.sites.suspend(suspension(relay, DOMAIN, "b.test"))
    assert [one.destination for one in site.ready] == ["c.test"] * 2
    assert relay.queue.counts.waiting == 3


def test_a_lifetime_ends_while_its_mail_is_suspended() -> None:
    relay = Relay({"b.test": host(DEAD)})
    relay.manager.sites.suspend(suspension(relay, DOMAIN, "b.test", 1_000_000.0))
    [message_id] = relay.send(envelope("x@b.test"))
    relay.run()
    assert relay.queue.next_due_at == relay.clock() + RETRY.lifetime_s
    relay.set_clock.advance(RETRY.lifetime_s)
    relay.run()
    end = next(end for end in relay.ends if end.message_id == message_id)
    assert end.settled.settlement.expired
    assert end.replies == ["451 4.3.2 domain:b.test is suspended by an operator: on strike"]


def test_the_longer_of_two_suspensions_counts() -> None:
    clock = SetClock(100.0)
    known = [Suspended(DOMAIN, "b.test", 0.0, 200.0, ""), Suspended(SITE, "mx", 0.0, 300.0, "")]
    suspensions = Suspensions(clock, known)
    assert suspensions.of("b.test", ["mx"]) == known[1]
    assert suspensions.of("b.test", ["other"]) == known[0]
    assert suspensions.of("c.test", ["other"]) is None
    clock.now = 200.0
    assert suspensions.of("b.test", ["other"]) is None, "it is over"
    assert suspensions.running() == [known[1]]


def test_what_was_suspended_before_a_start_still_is_and_ends_in_time(peer: Peer) -> None:
    clock = SetClock()
    known = [Suspended(DOMAIN, "b.test", clock.now - 50, clock.now + 100, "")]
    relay = Relay(
        {"b.test": host(ONE)}, peer.port, clock=clock, suspensions=Suspensions(clock, known)
    )
    relay.send(envelope("x@b.test"))
    relay.run()
    assert not peer.messages
    clock.advance(100)
    relay.run()
    assert len(peer.messages) == 1


def test_a_suspension_made_longer_does_not_end_at_its_old_time(peer: Peer) -> None:
    relay = Relay({"b.test": host(ONE)}, peer.port)
    relay.manager.sites.suspend(suspension(relay, DOMAIN, "b.test", 100.0))
    relay.send(envelope("x@b.test"))
    relay.run()
    relay.manager.sites.suspend(suspension(relay, DOMAIN, "b.test", 500.0))
    relay.set_clock.advance(100)
    assert relay.run() == []
    relay.set_clock.advance(400)
    relay.run()
    assert len(peer.messages) == 1


# -- what is parked ---------------------------------------------------------------------------


def test_what_a_site_has_no_room_for_waits_in_the_queue_and_all_of_it_arrives(peer: Peer) -> None:
    relay = known(Relay({"b.test": host(ONE)}, peer.port, limits=SiteLimits(1, 1)), "b.test")
    relay.send(*numbered(300))
    manager = relay.manager
    manager.check_state()
    manager.check_state()
    [site] = manager.sites
    assert len(site.ready) <= 50
    assert len(site.parked) >= 249
    assert relay.queue.counts.waiting == len(site.parked)
    relay.run()
    assert peer.arrived() == {f"u{n}@b.test": 1 for n in range(300)}
    assert not site.parked


def test_what_is_parked_for_want_of_room_can_be_held_and_is_not_sent(peer: Peer) -> None:
    relay = known(Relay({"b.test": host(ONE)}, peer.port, limits=SiteLimits(1, 1)), "b.test")
    message_ids = relay.send(*numbered(300))
    relay.manager.check_state()
    for message_id in message_ids[100:]:
        assert len(relay.queue.orders.hold(message_id, "stop").parts) == 1
    relay.run()
    assert peer.arrived() == {f"u{n}@b.test": 1 for n in range(100)}


def test_a_retry_lets_what_waits_for_its_turn_keep_it(peer: Peer) -> None:
    relay = known(Relay({"b.test": host(ONE)}, peer.port, limits=SiteLimits(1, 1)), "b.test")
    message_ids = []
    for one in numbered(300):
        message_ids += relay.send(one)
        relay.set_clock.advance(0.001)
    relay.manager.check_state()
    orders, (first, *others) = relay.queue.orders, message_ids[50:]
    assert relay.queue.counts.waiting == 250
    assert [len(orders.retry(one).parts) for one in others] == [1] * 249
    assert relay.queue.get_waiting() == []
    orders.retry(first)
    assert [one.message_id for one in relay.queue.get_waiting()] == [first], "there is room for it"
    relay.calculator.mark_address_bad(ONE)
    orders.retry(others[-1])
    [other] = relay.queue.get_waiting()
    assert other.message_id == others[-1], "nobody knows when its turn comes"
    relay.calculator.mark_good(ONE)
    for delivery in relay.queue.get_relaying():
        if delivery.message_id in (first, other.message_id):
            relay.queue.set_waiting(delivery)
    relay.run()
    assert peer.arrived() == {f"u{n}@b.test": 1 for n in range(300)}


def rated(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> Relay:
    """b.test and c.test share a site with room for two; one message in 20 s."""
    monkeypatch.setattr("gwrelay.relay.site._READY_A_SESSION", 2)
    exchanges = {"b.test": host(ONE), "c.test": host(ONE)}
    relay = Relay(exchanges, peer.port, limits=SiteLimits(1, 1), messages_per_s=0.05)
    return known(relay, "b.test", "c.test")


def test_what_is_parked_goes_on_when_all_that_was_ready_is_held(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = rated(peer, monkeypatch)
    relay.send(*numbered(6))
    relay.run()
    [site] = relay.manager.sites
    assert (len(peer.messages), len(site.ready), len(site.parked)) == (1, 2, 3)
    for ready in relay.queue.get_relaying():
        relay.queue.orders.hold(ready.message_id, "stop")
    assert relay.queue.counts == (3, 0, 2)
    for _ in range(3):
        relay.run()
        relay.set_clock.advance(20)
    relay.run()
    assert len(peer.messages) == 4


def test_what_is_parked_behind_mail_that_is_suspended_then_goes_on(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = rated(peer, monkeypatch)
    relay.send(*numbered(5), envelope("x@c.test"))
    relay.run()
    [site] = relay.manager.sites
    assert (len(peer.messages), len(site.ready), len(site.parked)) == (1, 2, 3)
    relay.manager.sites.suspend(suspension(relay, DOMAIN, "b.test"))
    for _ in range(5):
        relay.run()
        relay.set_clock.advance(20)
    assert peer.arrived() == {"u0@b.test": 1, "x@c.test": 1}


def test_what_is_ready_can_be_held_and_what_is_in_a_relayers_hand_can_not(peer: Peer) -> None:
    relay = known(Relay({"b.test": host(ONE)}, peer.port, limits=SiteLimits(1, 1)), "b.test")
    first, *others = relay.send(*numbered(20))
    relay.manager.check_state()
    assert relay.queue.counts.relaying == 20
    orders = relay.queue.orders
    assert orders.hold(first, "stop") == ((), 1)
    assert [len(orders.hold(one, "stop").parts) for one in others[:10]] == [1] * 10
    assert [len(orders.drop(one).parts) for one in others[10:]] == [1] * 9
    assert relay.queue.counts == (0, 1, 10)
    relay.run()
    assert peer.arrived() == {"u0@b.test": 1}
    orders.release(others[0])
    relay.run()
    assert peer.arrived() == {"u0@b.test": 1, "u1@b.test": 1}


def test_mail_behind_others_that_were_deleted_does_not_wait_for_them(peer: Peer) -> None:
    relay = known(Relay({"b.test": host(ONE)}, peer.port, limits=SiteLimits(1, 1)), "b.test")
    message_ids = relay.send(*numbered(80))
    relay.manager.check_state()
    [site] = relay.manager.sites
    assert site.parked
    for message_id in message_ids[50:]:
        relay.queue.orders.drop(message_id)
    relay.run_until(lambda: not relay.manager.managed and not site.ready)
    relay.set_clock.advance(1)
    relay.send(envelope("late@b.test"))
    relay.run()
    assert peer.arrived() == {f"u{n}@b.test": 1 for n in range(50)} | {"late@b.test": 1}


def test_what_is_parked_is_looked_at_now_and_then_should_its_wake_up_be_lost() -> None:
    relay = Relay({"b.test": host(DEAD)})
    relay.manager.sites.suspend(suspension(relay, DOMAIN, "b.test", 1e9))
    relay.queue = relay.manager.queue
    now = relay.clock()
    parked = relay.manager.sites.suspensions.parked(suspension(relay, DOMAIN, "b.test"))
    delivery = Delivery(7, "b.test", (0,), now, False)
    relay.queue.set_relaying(delivery)
    relay.manager.sites.park(delivery, parked)
    due_at = relay.queue.next_due_at
    assert due_at is not None
    # The lifetime of these tests is shorter.
    assert due_at == now + min(NET_S, RETRY.lifetime_s)


def test_a_million_times_nothing_is_done_while_a_site_is_dead() -> None:
    """The queue is not asked for what is parked until the mark ends, and then for one."""
    relay = Relay({"b.test": host(DEAD)}, limits=SiteLimits(1, 1))
    relay.send(*numbered(2000))
    relay.run()
    began = relay.clock()
    assert relay.manager.sites.next_at == began + 30
    assert relay.queue.next_due_at == began + 60, "what was tried and waits for its own time"
    relay.set_clock.advance(29.9)
    assert relay.queue.get_waiting() == []
    relay.set_clock.advance(0.1)
    assert len(relay.run()) == 1


def test_mail_parked_at_a_site_that_its_domain_has_left_goes_one_after_the_other(
    peer: Peer,
) -> None:
    """The probe goes elsewhere, and tells nothing of the site: it is asked again every minute."""
    relay = Relay({"b.test": host(DEAD)}, peer.port, limits=SiteLimits(1, 1))
    relay.send(*numbered(4))
    relay.run()
    relay.resolver.table.update(site("b.test", host(ONE, "mx.new.test"), ttl_s=86400.0))
    relay.calculator.flush("b.test")
    for _ in range(5):
        relay.set_clock.advance(61)
        relay.run()
    assert len(peer.messages) == 4


def test_each_probe_of_a_dead_site_is_another_message_while_there_are_untried_ones() -> None:
    relay = Relay({"b.test": host(DEAD)}, limits=SiteLimits(1, 1))
    first, second, third = relay.send(*numbered(3))
    tried = [end.message_id for end in relay.run()]
    relay.set_clock.advance(30)
    tried += [end.message_id for end in relay.run()]
    assert tried == [first, second]
    assert third not in tried


def test_mail_for_a_destination_that_is_looked_up_for_long_is_parked_and_all_of_it_goes(
    peer: Peer,
) -> None:
    relay = Relay({"b.test": host(ONE)}, peer.port)
    relay.resolver.gate.clear()
    relay.send(*numbered(250))
    relay.manager.check_state()
    assert relay.queue.counts == (150, 100, 0)
    relay.resolver.gate.set()
    relay.run()
    assert peer.arrived() == {f"u{n}@b.test": 1 for n in range(250)}


def test_a_clock_that_is_set_back_does_not_make_alarms_late(peer: Peer) -> None:
    relay = Relay({"b.test": host(ONE)}, peer.port, limits=SiteLimits(messages_per_s=1.0))
    relay.send(*numbered(2))
    relay.run_until(lambda: len(peer.messages) == 1)
    relay.set_clock.now -= 100_000
    relay.manager.check_state()
    relay.set_clock.advance(1.0)
    relay.run_until(lambda: len(peer.messages) == 2)


def test_the_sender_of_mail_for_a_dead_site_is_warned_once() -> None:
    """Of what is parked in time, of what was tried when that comes to nothing again."""
    retry = RETRY._replace(delay_warning_s=200.0)
    relay = Relay(
        {"b.test": host(DEAD), "a.test": host(DEAD)}, retry=retry, limits=SiteLimits(1, 1)
    )
    message_ids = relay.send(*numbered(3))
    began = relay.clock()
    parked: list[tuple[int, float]] = []
    relay.queue.on_warned = lambda original, report, delayed: parked.append(
        (original.id, relay.clock() - began)
    )
    while relay.clock() < began + 900:
        relay.run()
        times = relay.queue.next_due_at, relay.manager.sites.next_at
        relay.set_clock.now = max(min(at for at in times if at is not None), relay.clock())
    tried = [end.message_id for end in relay.ends if end.settled.warned]
    assert sorted([*(one for one, _ in parked), *tried]) == message_ids
    assert min(after for _, after in parked) == 200.0


# -- limits -----------------------------------------------------------------------------------


def test_destinations_that_share_exchanges_are_sites_of_their_own_without_rollup(
    peer: Peer,
) -> None:
    exchanges = {"b.test": host(ONE), "c.test": host(ONE)}
    relay = known(Relay(exchanges, peer.port, rollup=BY_DOMAIN), *exchanges)
    relay.send(envelope("x@b.test"), envelope("x@c.test"))
    assert len(relay.manager.check_state()) == 2
    relay.run()
    assert len(peer.messages) == 2


@pytest.mark.parametrize(("rollup", "sites"), [("mx", 1), (BY_DOMAIN, 1), (OFF, 2)])
def test_a_smart_host_is_one_site_unless_nothing_is_rolled_up(
    peer: Peer, rollup: str, sites: int
) -> None:
    routes = Routes((NextHop(ONE, peer.port),))
    relay = Relay({}, peer.port, routes=routes, rollup=rollup)
    relay.send(envelope("x@b.test"), envelope("x@c.test"))
    relay.manager.check_state()
    assert len(list(relay.manager.sites)) == sites
    relay.run()
    assert len(peer.messages) == 2


def test_a_destination_has_limits_of_its_own(peer: Peer) -> None:
    own = {"b.test": SiteLimits(1, 1), "c.test": SiteLimits(messages_per_s=0.1)}
    exchanges = {f"{x}.test": host(ONE, f"mx.{x}.test") for x in "bcd"}
    relay = known(Relay(exchanges, peer.port, own_limits=own), *exchanges)
    for domain in exchanges:
        relay.send(*numbered(4, domain))
    relay.manager.check_state()
    for one in relay.manager.sites:
        assert one.relayers == {"mx.b.test": 1, "mx.c.test": 1, "mx.d.test": 4}[one.name]
    relay.run()
    assert len(peer.messages) == 4 + 1 + 4
    for _ in range(3):
        relay.set_clock.advance(10)
        relay.run()
    assert len(peer.messages) == 12


def test_a_rate_of_all_holds_for_all_of_them(peer: Peer) -> None:
    exchanges = {f"{x}.test": host(ONE, f"mx.{x}.test") for x in "bcd"}
    relay = known(Relay(exchanges, peer.port, messages_per_s=0.1), *exchanges)
    for domain in exchanges:
        relay.send(*numbered(2, domain))
    relay.run()
    assert len(peer.messages) == 1
    for n in range(2, 7):
        relay.set_clock.advance(10)
        relay.run()
        assert len(peer.messages) == n
    first_three = {one.split("@")[1] for one in list(peer.arrived())[:3]}
    assert first_three == set(exchanges)


def test_a_connection_rate_holds_over_sessions_that_end(peer: Peer) -> None:
    limits = SiteLimits(connections_per_s=0.1)
    relay = Relay(
        {"b.test": host(ONE)},
        peer.port,
        limits=limits,
        settings={"max_messages_per_connection": 3},
    )
    relay.send(*numbered(8))
    relay.run()
    assert len(peer.messages) == 3
    relay.set_clock.advance(10)
    relay.run()
    assert len(peer.messages) == 6
    relay.set_clock.advance(10)
    relay.run()
    assert len(peer.messages) == 8
    assert peer.connections == 3
