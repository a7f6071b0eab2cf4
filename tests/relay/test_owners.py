"""Who has what is being relayed, and who sees to each site: faults are found, told, counted and put
right; and mail that moves is none."""

from collections.abc import Iterator
from contextlib import suppress

import pytest

from gwrelay.queue.delivery import Delivery
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.relay import owners
from gwrelay.relay.limits import SiteLimits
from gwrelay.relay.owners import Owners
from gwrelay.relay.site import Site
from gwrelay.relay.transit import Transit
from support.mail import envelope
from support.patched import run_patched
from support.peer import Peer
from support.relaying import Relay

ONE = "127.0.0.1"


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer(ONE) as found:
        yield found


def with_ready(peer: Peer, count: int = 3, **options: object) -> tuple[Relay, Site]:
    """So many deliveries ready at a site that wants a relayer, and has none yet."""
    relay = Relay({"b.test": {"mx.test": (10, [ONE])}}, peer.port, **options)
    exchanges = relay.calculator.get_exchanges("b.test")
    relay.send(*(envelope(f"u{n}@b.test") for n in range(count)))
    for delivery in relay.queue.get_waiting():
        relay.manager.sites.file(delivery, exchanges)
    [site] = relay.manager.sites
    return relay, site


def check(relay: Relay) -> int:
    """How many violations one check finds."""
    before = relay.queue.violations.count
    for _ in Owners(relay.manager).check():
        pass
    return relay.queue.violations.count - before


def test_nothing_is_found_where_all_is_in_order(peer: Peer) -> None:
    relay, _ = with_ready(peer)
    assert check(relay) == 0
    relay.run()
    assert check(relay) == 0
    assert len(peer.messages) == 3


def test_a_delivery_that_a_site_has_lost_waits_again_and_arrives_once(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    relay, site = with_ready(peer)
    lost = site.ready.popleft()
    assert check(relay) == 1
    [line] = caplog.messages
    assert line.endswith("recipient 0: is being relayed by nobody; waits again")
    assert not relay.queue.is_relaying(lost)
    assert check(relay) == 0
    relay.run()
    assert len(peer.messages) == 3
    assert relay.queue.violations.count == 1


def test_a_delivery_that_a_lookup_has_lost_waits_again(peer: Peer) -> None:
    relay = Relay({}, peer.port)
    relay.send(envelope("u@b.test"))
    [delivery] = relay.queue.get_waiting()
    assert check(relay) == 1
    assert not relay.queue.is_relaying(delivery)


def test_a_site_that_nobody_looks_at_is_looked_at_again(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    relay, _ = with_ready(peer)
    for line in relay.manager.pool._without:
        line.clear()
    assert relay.manager.check_state() == []
    assert check(relay) == 1
    assert "mx.test has 3 deliveries ready and 0 parked, and nobody to see to them" in caplog.text
    assert check(relay) == 0
    relay.run()
    assert len(peer.messages) == 3


def test_what_is_parked_and_has_lost_its_alarm_is_looked_at_again() -> None:
    """Not after the four hours of the net alone."""
    relay, site = with_ready(_Nobody(), count=1)  # type: ignore[arg-type]
    relay.run()
    assert len(site.parked) == 1
    assert check(relay) == 0
    relay.manager.sites._alarms.cancel(site)
    assert check(relay) == 1
    assert check(relay) == 0
    assert relay.manager.sites.next_at is not None
    assert relay.manager.sites.next_at <= relay.clock()


class _Nobody:
    """Where nobody listens."""

    port = 1


def test_what_two_have_is_told_and_arrives_once(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    relay, site = with_ready(peer, limits=SiteLimits(1, 1))
    site.ready.append(next(iter(site.ready)))
    assert check(relay) == 1
    assert "is in several hands; left alone" in caplog.text
    relay.run()
    assert sorted(peer.arrived().values()) == [1, 1, 1]


def test_what_was_lost_for_a_moment_is_not_lost(peer: Peer) -> None:
    relay, site = with_ready(peer)
    delivery = site.ready.popleft()
    steps = Owners(relay.manager).check()
    while next(steps) != owners._MOMENT_S:
        pass
    site.ready.appendleft(delivery)
    assert list(steps) != []
    assert relay.queue.violations.count == 0


def test_what_a_relayer_will_begin_with_and_what_it_took_early_is_not_lost(peer: Peer) -> None:
    relay, site = with_ready(peer, limits=SiteLimits(1, 1))
    [attempts] = relay.manager.check_state()
    [relayer] = relay.manager.managed
    assert attempts.deliveries != []
    assert check(relay) == 0
    relayer._transfer.upcoming = site.ready.popleft()
    assert check(relay) == 0


def test_what_ends_during_a_look_is_not_looked_for(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy gateway would look again and again."""
    monkeypatch.setattr(owners, "_DELIVERIES_AT_ONCE", 1)
    relay, _ = with_ready(peer)
    steps = Owners(relay.manager).check()
    next(steps)
    relay.run()
    assert len(peer.messages) == 3
    assert owners._MOMENT_S not in list(steps)


def test_what_ends_between_two_looks_is_not_lost(peer: Peer) -> None:
    relay, site = with_ready(peer)
    site.ready.popleft()
    steps = Owners(relay.manager).check()
    while next(steps) != owners._MOMENT_S:
        pass
    for message_id in [one.message_id for one in relay.queue.get_relaying()]:
        relay.queue.done(message_id)
    list(steps)
    assert relay.queue.violations.count == 0


def test_what_waits_for_its_turn_to_be_filed_is_not_lost(peer: Peer) -> None:
    """Before it, the disk has to take what became of others."""
    found: list[int] = []

    class SlowStore(MemoryStore):
        def flush(self) -> None:
            found.append(check(relay))

    relay = Relay({}, peer.port, store=SlowStore())
    for times in (1, 2):  # looked up, and then remembered
        relay.send(*(envelope(f"u{n}@gone.test") for n in range(3)))
        relay.run()
        assert found == [0, 0, 0] * times


def test_what_is_just_being_taken_is_not_lost(peer: Peer) -> None:
    """While the disk takes what has to be durable before the mail goes out."""
    found: list[int] = []

    class SlowStore(MemoryStore):
        def flush(self) -> None:
            found.append(check(relay))

    relay = Relay({"b.test": {"mx.test": (10, [ONE])}}, peer.port, store=SlowStore())
    [warning] = relay.send(envelope("u@b.test", reverse_path=""))
    relay.queue._unsynced_from = warning
    relay.calculator.get_exchanges("b.test")
    relay.manager.check_state()
    assert found == [0]
    assert check(relay) == 0
    relay.run()
    assert len(peer.messages) == 1


def test_a_manager_that_is_stopping_leaves_things_to_nobody(peer: Peer) -> None:
    relay, site = with_ready(peer)
    relay.manager.stop(0.0)
    site.ready.popleft()
    assert check(relay) == 0


def test_relayers_in_the_middle_of_everything_have_what_they_have() -> None:
    """Looked at whenever anything happens at all."""
    run_patched("""
        import gevent
        from gwrelay.relay.owners import Owners
        from gwrelay.relay.limits import SiteLimits
        from support.mail import envelope
        from support.peer import POLITE, Pause, Peer
        from support.relaying import Relay

        with Peer() as peer:
            peer.always(".", (Pause(0.001), POLITE))
            hosts = {f"d{n}.test": {f"mx{n}.test": (10, ["127.0.0.1"])} for n in range(5)}
            settings = {"idle_timeout_s": 0.01}
            relay = Relay(hosts, peer.port, limits=SiteLimits(3, 3), settings=settings)
            owners = Owners(relay.manager)
            looks = 0

            def look():
                global looks
                while True:
                    steps = owners._look(relay.queue.get_relaying(), in_one_go=True)
                    try:
                        next(steps)
                    except StopIteration as end:
                        # One look may find relayers that were woken and have not run yet.
                        assert not end.value.shared and not end.value.forgotten, end.value
                    for pause_s in owners.check():
                        gevent.sleep(0.002 if pause_s >= 1 else 0)
                    looks += 1
                    gevent.sleep(0.001)

            looking = gevent.spawn(look)
            for n in range(20):
                relay.send(*(envelope(f"u{n}@d{m % 5}.test") for m in range(20)))
                relay.run()
            assert not looking.dead, looking.exception
            assert looks > 50, looks
            assert relay.queue.violations.count == 0
            assert len(peer.messages) == 400
            assert set(peer.arrived().values()) == {4}
    """)


def test_a_check_goes_on_until_it_is_stopped(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    relay, site = with_ready(peer)
    site.ready.popleft()
    asked: list[float] = []

    class Stop:
        def wait(self, timeout: float) -> bool:
            asked.append(timeout)
            return asked.count(60.0) > 2

    Owners(relay.manager).run(Stop())  # type: ignore[arg-type]
    assert asked.count(1.0) == 2
    assert relay.queue.violations.count == 1
    monkeypatch.setattr(relay.manager, "lookups", lambda: 1 / 0)
    asked.clear()
    Owners(relay.manager).run(Stop())  # type: ignore[arg-type]
    assert asked == [60.0] * 3
    assert "ZeroDivisionError" in caplog.text


# -- on the way -------------------------------------------------------------------------------


def numbered(count: int) -> list[Delivery]:
    return [Delivery(n, "b.test", (0,), 0.0, False) for n in range(count)]


def test_what_is_in_transit_is_found_there_until_its_turn_is_over() -> None:
    transit, some = Transit(), numbered(3)
    left = []
    for delivery in transit.each(some):
        assert delivery in list(transit)
        left.append(len(transit))
    assert left == [3, 2, 1]
    assert (len(transit), transit.ended) == (0, 3)


def test_those_that_are_given_up_on_the_way_are_nobodys() -> None:
    transit = Transit()
    with suppress(ZeroDivisionError):
        for delivery in transit.each(numbered(3)):
            1 / delivery.message_id
    assert len(transit) == 0
