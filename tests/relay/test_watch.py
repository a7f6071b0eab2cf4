"""What raises an alarm of --stuck-after, and what does not: each thing that should move."""

import time
from textwrap import dedent

import pytest

from gwrelay.relay.limits import SiteLimits
from gwrelay.relay.node import NodeSites, new_sites
from gwrelay.relay.pace import session_key
from gwrelay.relay.site import Site
from gwrelay.relay.watch import Watch
from support.mail import envelope
from support.patched import run_patched
from support.relaying import Relay
from support.table_resolver import SetClock

ONE = "127.0.0.1"

COMMON = """
    import gevent
    from gwrelay.relay.limits import SiteLimits
    from gwrelay.relay.watch import Watch
    from support.mail import CONTENT, envelope
    from support.peer import POLITE, STALL, Peer
    from support.relaying import Relay
    from support.table_resolver import SetClock

    MX = {"b.test": {"mx.b.test": (10, ["127.0.0.1"])}}

    def watched(relay):
        '''Looks, and says what is told; the time passes as it is told.'''
        clock, told = SetClock(0.0), []
        watch = Watch(relay.manager, 100.0, alarmed=lambda *one: told.append(one), clock=clock)

        def look(seconds=40.0):
            clock.advance(seconds)
            told.clear()
            list(watch.look())
            return list(told)

        watch.told = look
        return watch
"""


def run(script: str) -> str:
    return run_patched(dedent(COMMON) + dedent(script)).stderr


class Looking:
    """A site with deliveries ready that nobody takes, and a watch over it."""

    def __init__(self) -> None:
        self.descriptor = new_sites(workers=2)
        node = NodeSites(self.descriptor, workers=2, number=0)
        self.relay = Relay({"b.test": {"mx.test": (10, [ONE])}}, 1, node=node)
        exchanges = self.relay.calculator.get_exchanges("b.test")
        self.relay.send(*(envelope(f"u{n}@b.test") for n in range(3)))
        for delivery in self.relay.queue.get_waiting():
            self.relay.manager.sites.file(delivery, exchanges)
        [self.site] = self.relay.manager.sites
        self.clock = SetClock(0.0)
        self.told: list[tuple[str, float]] = []
        self.watch = Watch(
            self.relay.manager,
            100.0,
            alarmed=lambda what, for_s: self.told.append((what, for_s)),
            clock=self.clock,
        )

    def pass_time(self) -> list[tuple[str, float]]:
        """What is told in two minutes."""
        for _ in range(4):
            list(self.watch.look())
            self.clock.advance(40.0)
        told, self.told = self.told, []
        return told


def test_mail_that_is_ready_and_that_nobody_takes_is_stuck(
    caplog: pytest.LogCaptureFixture,
) -> None:
    looking = Looking()
    assert looking.pass_time() == [("3 deliveries that are ready for mx.test", 120.0)]
    assert caplog.messages == [
        "stuck: 3 deliveries that are ready for mx.test; nothing has moved for 120 s"
    ]
    assert caplog.records[0].levelname == "ERROR"
    assert looking.watch.count == 1
    [delivery, *_] = looking.site.ready
    assert looking.watch.stuck_for_s(delivery, looking.site) == 160.0
    assert looking.watch.stuck_for_s(delivery, None) is None
    looking.site.start()
    assert looking.pass_time() == [("2 deliveries that are ready for mx.test", 120.0)]


def taken_now_and_then(looking: Looking) -> None:
    looking.clock.advance(-40.0)
    look = looking.watch.look

    def take_and_look() -> object:
        if looking.site.ready:
            looking.site.start()
        return look()

    looking.watch.look = take_and_look  # type: ignore[method-assign, assignment]


def in_use(looking: Looking) -> None:
    for _ in range(looking.site.window):
        looking.site.add_relayer()


def without_relayers(looking: Looking) -> None:
    looking.relay.manager.pool._by_health[looking.site.health] = looking.relay.manager.pool.limit


def with_marked_hosts(looking: Looking) -> None:
    looking.relay.calculator.mark_bad("mx.test", 1000.0)


def at_its_rate(looking: Looking) -> None:
    looking.site.restrict(SiteLimits(20, 5, messages_per_s=0.001))
    looking.site.start()


def in_use_by_another_worker(looking: Looking) -> None:
    other = NodeSites(looking.descriptor, workers=2, number=1)
    for _ in range(looking.site.limits.concurrency):
        assert other.open_session(session_key(looking.site.key), 20, time.monotonic())


def with_a_manager_that_stops(looking: Looking) -> None:
    looking.relay.manager.stop(0.0)


@pytest.mark.parametrize(
    "blocked",
    [
        taken_now_and_then,
        in_use,
        in_use_by_another_worker,
        without_relayers,
        with_marked_hosts,
        at_its_rate,
        with_a_manager_that_stops,
    ],
)
def test_mail_that_is_ready_and_waits_for_something_is_not_stuck(blocked: object) -> None:
    looking = Looking()
    blocked(looking)  # type: ignore[operator]
    assert looking.pass_time() == []
    assert looking.watch.count == 0


def test_what_is_filed_too_slowly_is_stuck_and_what_goes_on_is_not() -> None:
    looking = Looking()
    looking.site.take_ready()
    steps = looking.relay.manager.transit.each(looking.relay.queue.get_relaying())
    next(steps)
    assert looking.pass_time() == [("the filing of 3 deliveries", 120.0)]
    next(steps)
    assert looking.pass_time() == [("the filing of 2 deliveries", 120.0)]
    list(steps)
    assert looking.pass_time() == []


def test_the_log_has_a_few_of_many_and_the_count_has_all(caplog: pytest.LogCaptureFixture) -> None:
    looking = Looking()
    sites = looking.relay.manager.sites
    for n in range(49):
        other = Site(n, f"mx{n}.test", looking.site.hosts, SiteLimits(), clock=SetClock())
        other.ready.append(next(iter(looking.site.ready)))
        sites._sites[n] = other
    assert len(looking.pass_time()) == 50
    assert looking.watch.count == 50
    assert len(caplog.messages) == 21
    assert caplog.messages[-1] == "stuck: and more, which are only counted"


def test_a_host_that_hangs_is_told_and_one_that_goes_on_in_time_is_not() -> None:
    run("""
        gate = gevent.event.Event()
        with Peer() as peer:
            peer.always("RCPT", lambda _: (gate.wait(), gate.clear(), POLITE)[2])
            relay = Relay(MX, peer.port, settings={"pipelining": False})
            watch = watched(relay)
            [message_id] = relay.send(envelope(*(f"u{n}@b.test" for n in range(4))))
            relay.run_until(lambda: "RCPT" in peer.verbs())
            for n in range(1, 4):
                for _ in range(2):
                    assert watch.told(45.0) == []
                gate.set()
                relay.run_until(lambda: peer.verbs().count("RCPT") == n + 1)
                assert relay.manager.managed
            told = [watch.told() for _ in range(4)]
            assert [len(one) for one in told] == [0, 0, 0, 1], told
            [(what, for_s)] = told[3]
            assert what.endswith(" to b.test, at mx.b.test[127.0.0.1], in rcpt"), what
            assert for_s == 120.0
            [part] = relay.queue.parts(message_id)
            assert watch.stuck_for_s(part.delivery, None) == 120.0
            gate.set()
            relay.run()
            assert watch.told() == []
            assert watch.count == 0
    """)


def test_content_that_is_taken_slowly_moves() -> None:
    run("""
        from gwrelay.smtp.connection import Connection
        moves = []
        write = Connection.send_block

        def slowly(self, *arguments):
            assert watch.told(90.0) == []
            before = self.moves
            write(self, *arguments)
            moves.append(self.moves - before)

        Connection.send_block = slowly
        with Peer() as peer:
            relay = Relay(MX, peer.port)
            watch = watched(relay)
            relay.send(envelope("u@b.test"), content=CONTENT * 20000)
            relay.run()
            assert len(peer.messages) == 1
        assert len(moves) > 3 and all(moves), moves
    """)


def test_a_lookup_without_an_end_is_told_and_another_one_begins_anew() -> None:
    run("""
        relay = Relay(MX)
        watch = watched(relay)
        relay.resolver.gate.clear()
        [message_id] = relay.send(envelope("u@b.test"))
        relay.manager.check_state()
        told = [watch.told() for _ in range(4)]
        assert told == [[], [], [], [("the lookup of b.test, for 1 or more", 120.0)]], told
        [part] = relay.queue.parts(message_id)
        assert watch.stuck_for_s(part.delivery, None) == 120.0
        relay.resolver.gate.set()
        relay.manager.stop(0.0)
    """)


class Stop:
    """Set when it has been waited for three times."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def wait(self, timeout: float) -> bool:
        self.asked.append(timeout)
        return len(self.asked) > 2


@pytest.mark.parametrize(("after_s", "asked"), [(0.0, []), (2.0, [0.5] * 3), (900.0, [60.0] * 3)])
def test_looks_come_often_enough_and_never_when_nothing_is_ever_stuck(
    after_s: float, asked: list[float]
) -> None:
    stop = Stop()
    Watch(Relay({}).manager, after_s).run(stop)  # type: ignore[arg-type]
    assert stop.asked == asked


def test_a_bug_ends_the_look_and_not_the_looks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop, manager = Stop(), Relay({}).manager
    monkeypatch.setattr(manager, "lookups", lambda: 1 / 0)
    Watch(manager, 100.0).run(stop)  # type: ignore[arg-type]
    assert stop.asked == [25.0] * 3
    assert "ZeroDivisionError" in caplog.text
