"""What stands between mail and its delivery, one case after the other."""

from gwrelay.relay.explained import DEAD, DUE, OPERATOR, RETRY, Blocker, Explainer
from support.mail import envelope
from support.patched import run_patched
from support.peer import Peer
from support.relaying import Relay, nobody_listens

COMMON = """
        from gwrelay.relay.explained import ATTEMPT, LOOKUP, POOL, WINDOW, Explainer
        from gwrelay.relay.limits import SiteLimits
        from support.mail import envelope
        from support.peer import STALL, Peer
        from support.relaying import Relay

        def explainer_of(relay):
            return Explainer(relay.manager, relay.calculator, clock=relay.clock)

        def kind(relay, message_id):
            [part] = relay.queue.parts(message_id)
            return explainer_of(relay).blocker(part).kind
"""

MX = {"b.test": {"mx.b.test": (10, ["127.0.0.1"])}, "c.test": {"mx.c.test": (10, ["127.0.0.2"])}}


def explainer_of(relay: Relay) -> Explainer:
    return Explainer(relay.manager, relay.calculator, clock=relay.clock)


def blocker(relay: Relay, message_id: int) -> Blocker:
    [part] = relay.queue.parts(message_id)
    return explainer_of(relay).blocker(part)


def test_what_is_held_names_the_reason() -> None:
    relay = Relay(MX)
    [message_id] = relay.send(envelope("u@b.test"))
    assert blocker(relay, message_id).kind == DUE
    relay.queue.orders.hold(message_id, "looks odd")
    assert blocker(relay, message_id) == Blocker(OPERATOR, "looks odd")


def test_what_was_deferred_waits_for_its_turn() -> None:
    with Peer() as peer:
        peer.always("RCPT", "450 4.2.1 greylisted")
        relay = Relay(MX, peer.port)
        [message_id] = relay.send(envelope("u@b.test"))
        relay.run()
    found = blocker(relay, message_id)
    assert (found.kind, found.until) == (RETRY, relay.clock() + 60)


def test_what_sleeps_for_a_dead_site_says_until_when_and_since() -> None:
    relay = Relay(MX, nobody_listens()[1])
    relay.send(envelope("u@b.test"))
    relay.run()
    began = relay.clock()
    relay.set_clock.advance(1)
    [message_id] = relay.send(envelope("v@b.test"))
    relay.run()
    relay.set_clock.advance(1)
    found = blocker(relay, message_id)
    assert (found.kind, found.until) == (DEAD, began + 30)
    explainer = explainer_of(relay)
    assert explainer.dead_since("b.test") == began
    assert explainer.sites() == (1, 1)
    [host] = explainer.route("b.test").hosts
    assert (host.place, host.bad_since, host.bad_until) == (1, began, began + 30)


def test_a_destination_that_is_looked_up_says_so() -> None:
    run_patched(f"""{COMMON}
        relay = Relay({{"b.test": {{"mx.b.test": (10, ["127.0.0.1"])}}}})
        relay.resolver.gate.clear()
        [message_id] = relay.send(envelope("u@b.test"))
        relay.manager.check_state()
        assert kind(relay, message_id) == LOOKUP
        assert not explainer_of(relay).route("b.test").is_known
        relay.resolver.gate.set()
        relay.manager.stop(0.0)
    """)


def test_a_domain_that_nobody_asked_for_is_looked_up_on_demand() -> None:
    route = explainer_of(Relay(MX)).route("gone.test", asks=True)
    assert (route.hosts, route.is_known) == ((), True)
    assert route.reply.startswith("550 5.1.2")


def test_one_attempt_then_a_full_window_then_no_relayer_left() -> None:
    run_patched(f"""{COMMON}
        with Peer() as peer:
            peer.always("RCPT", STALL)
            mx = {{"b.test": {{"mx.b.test": (10, ["127.0.0.1"])}},
                   "c.test": {{"mx.c.test": (10, ["127.0.0.2"])}}}}
            relay = Relay(mx, peer.port, limits=SiteLimits(1), max_connections=1)
            first, ready = relay.send(envelope("u@b.test"), envelope("v@b.test"))
            relay.run_until(lambda: "RCPT" in peer.verbs())
            [other] = relay.send(envelope("u@c.test"))
            relay.run_until(lambda: len(relay.queue.get_relaying()) == 3)
            found = [kind(relay, one) for one in (first, ready, other)]
            assert found == [ATTEMPT, WINDOW, POOL], found
            relay.manager.stop(0.0)
    """)


def test_an_exchange_marked_by_name_is_marked_at_all_its_addresses() -> None:
    relay = Relay({"b.test": {"mx.b.test": (10, ["127.0.0.1"]), "mx2.b.test": (20, ["127.0.0.2"])}})
    relay.calculator.mark_bad("mx.b.test", 100.0)
    first, second = explainer_of(relay).route("b.test", asks=True).hosts
    assert (first.candidate.exchange, first.bad_until) == ("mx2.b.test", None)
    assert second.bad_until == relay.clock() + 100
    assert explainer_of(relay).dead_since("b.test") is None
