"""The managers with many relayers at work at once: each a program of its own, patched first.

What the scripts have in common is COMMON below.  gevent.sleep(0) and idle() let the others run;
nobody waits for a guessed time.
"""

from textwrap import dedent

from support.patched import run_patched

COMMON = """
    import logging, tempfile, threading
    import gevent
    from gwrelay.queue.mailqueue import Queue
    from gwrelay.queue.memorystore import MemoryStore
    from gwrelay.queue.spoolstore import SpoolStore, open_spool
    from gwrelay.relay.limits import SiteLimits
    from gwrelay.relay.manager import RelayStateHelper
    from support.mail import CONTENT, envelope
    from support.peer import DROP, POLITE, Pause, Peer, STALL
    from support.relaying import RETRY, Relay, new_queue, nobody_listens

    ONE, TWO, DEAD = "127.0.0.1", "127.0.0.2", "127.0.0.98"
    FOREVER = Pause(30)     # cut short by the end of the script

    def host(address, name="mx.test"):
        return {name: (10, [address])}

    def numbered(count, domain="b.test"):
        return [envelope(f"u{n}@{domain}") for n in range(count)]

    def helped(relay, delay=30.0):
        '''A helper that polls so rarely that only being told of a change keeps it going.'''
        stop = threading.Event()
        greenlet = gevent.spawn(RelayStateHelper(relay.manager, delay).run, stop)
        return greenlet, stop

    def until(condition):
        with gevent.Timeout(8):
            while not condition():
                gevent.sleep(0.001)
"""


def run(script: str) -> str:
    return run_patched(dedent(COMMON) + dedent(script)).stderr


def test_a_site_has_no_more_sessions_than_its_window() -> None:
    run("""
        with Peer() as peer:
            peer.always(".", (Pause(0.002), POLITE))
            relay = Relay({"b.test": host(ONE)}, peer.port, limits=SiteLimits(4))
            relay.send(*numbered(40))
            relay.run()
            assert len(peer.messages) == 40
            assert peer.most_open == 4, peer.most_open
        """)


def test_all_sites_together_have_no_more_sessions_than_the_bound() -> None:
    run("""
        with Peer() as peer:
            peer.always(".", (Pause(0.002), POLITE))
            domains = {f"d{n}.test": host(ONE, f"mx{n}.test") for n in range(10)}
            relay = Relay(domains, peer.port, max_connections=3)
            seen = []
            peer.always("MAIL", lambda c: (seen.append(len(relay.manager.managed)), POLITE)[1])
            relay.send(*(envelope(f"u{n}@{d}") for n in range(5) for d in domains))
            relay.run()
            assert len(peer.messages) == 50
            assert max(seen) == 3, seen
            # The last of a session lingers a moment in the peer.
            assert peer.most_open <= 6
        """)


def test_sockets_are_heard_between_two_takes_however_much_is_due() -> None:
    run("""
        from gevent import socket
        with Peer() as peer:
            peer.always("MAIL", (FOREVER, POLITE))
            relay = Relay({"b.test": host(ONE)}, peer.port)
            relay.send(*numbered(8500))
            ours, theirs = socket.socketpair()
            take, taken, heard = relay.queue.get_waiting, [], []

            def get_waiting(limit):
                taken.append(len(due := take(limit)))
                ours.send(b"x")
                return due

            def listen():
                while theirs.recv(1):
                    heard.append(len(taken))

            relay.queue.get_waiting = get_waiting
            gevent.spawn(listen)
            helped(relay)
            until(lambda: sum(taken) >= 8500)
            assert max(taken) == 1000
            # Each at once, or just after the next take: on a slow machine that is due as well.
            assert all(at <= n + 2 for n, at in enumerate(heard, start=1)), heard
            assert len(heard) >= taken.count(1000) - 1, (heard, taken)
        """)


def test_a_place_that_becomes_free_is_used_at_once() -> None:
    """The helper's delay is no part of it: half a minute here."""
    run("""
        with Peer() as peer:
            domains = {f"d{n}.test": host(ONE, f"mx{n}.test") for n in range(20)}
            relay = Relay(domains, peer.port, max_connections=1)
            helper, stop = helped(relay)
            relay.send(*(envelope(f"u@{d}") for d in domains))
            until(lambda: len(relay.ends) == 20)
        """)


def test_a_session_that_idled_in_vain_makes_room_for_another_site() -> None:
    run("""
        with Peer() as peer:
            relay = Relay(
                {"b.test": host(ONE), "c.test": host(ONE, "mx.c.test")},
                peer.port,
                max_connections=1,
                settings={"idle_timeout_s": 0.01},
            )
            helper, stop = helped(relay)
            relay.send(envelope("x@b.test", "y@c.test"))
            until(lambda: len(relay.ends) == 2)
        """)


def test_an_idle_session_leaves_at_once_when_another_site_wants_its_place() -> None:
    run("""
        with Peer() as peer:
            relay = Relay(
                {"b.test": host(ONE), "c.test": host(ONE, "mx.c.test")},
                peer.port,
                max_connections=1,
                settings={"idle_timeout_s": 60.0},
            )
            helper, stop = helped(relay)
            for domain in ("b.test", "c.test", "b.test"):
                before = len(relay.ends)
                relay.send(envelope(f"x@{domain}"))
                until(lambda: len(relay.ends) > before)
        """)


def test_a_site_with_much_mail_lets_the_others_have_their_turn() -> None:
    run("""
        with Peer() as peer:
            relay = Relay(
                {"b.test": host(ONE), "c.test": host(ONE, "mx.c.test")},
                peer.port,
                max_connections=1,
            )
            helper, stop = helped(relay)
            relay.send(*numbered(200))
            until(lambda: relay.ends)
            [message_id] = relay.send(envelope("x@c.test"))
            until(lambda: any(end.message_id == message_id for end in relay.ends))
            assert len(relay.ends) < 100, len(relay.ends)
            until(lambda: len(relay.ends) == 201)
        """)


def test_a_campaign_does_not_hold_up_another_sender_at_the_same_site() -> None:
    run("""
        with Peer() as peer:
            relay = Relay({"b.test": host(ONE)}, peer.port, limits=SiteLimits(1))
            campaign = [envelope(f"u{n}@b.test", reverse_path="news@a.test") for n in range(500)]
            relay.send(*campaign)
            [message_id] = relay.send(envelope("x@b.test", reverse_path="login@c.test"))
            relay.run()
            order = [end.message_id for end in relay.ends]
            assert len(order) == 501
            assert order.index(message_id) < 4, order.index(message_id)
        """)


def test_sites_that_hang_leave_room_for_those_that_answer() -> None:
    run("""
        with Peer() as peer, Peer(TWO, peer.port) as silent:
            silent.always("CONNECT", FOREVER)
            hanging = {f"d{n}.test": host(TWO, f"mx{n}.test") for n in range(20)}
            relay = Relay({"b.test": host(ONE), **hanging}, peer.port, max_connections=8)
            helper, stop = helped(relay)
            relay.send(envelope("x@b.test"))
            until(lambda: relay.ends)
            relay.send(*(envelope(f"x@{domain}") for domain in hanging))
            until(lambda: silent.open == 6)
            relay.send(*numbered(50))
            until(lambda: len(relay.ends) == 51)
            assert silent.open == 6, silent.open
        """)


def test_a_site_starts_with_few_sessions_and_has_more_when_it_answers() -> None:
    run("""
        with Peer() as peer:
            gate = threading.Event()
            peer.always(".", lambda _: (gate.wait(), POLITE)[1])
            relay = Relay({"b.test": host(ONE)}, peer.port, limits=SiteLimits(initial=2))
            helper, stop = helped(relay)
            relay.send(*numbered(60))
            until(lambda: peer.open == 2)
            gate.set()
            until(lambda: len(relay.ends) == 60)
            assert 2 < peer.most_open <= 20, peer.most_open
        """)


def test_a_site_that_asks_to_slow_down_has_fewer_sessions() -> None:
    run("""
        with Peer() as peer:
            peer.always("MAIL", "451 4.7.1 too much mail")
            relay = Relay({"b.test": host(ONE)}, peer.port, limits=SiteLimits(initial=9))
            relay.send(*numbered(9))
            relay.run()
            peer.always("MAIL", POLITE)
            peer.always(".", (Pause(0.002), POLITE))
            until(lambda: peer.open == 0)
            relay.set_clock.advance(61)
            peer.most_open = 0
            relay.run()
            assert len(peer.messages) == 9
            assert peer.most_open < 9, peer.most_open
        """)


def test_idle_sessions_are_used_for_mail_that_comes_later() -> None:
    said = run("""
        with Peer() as peer:
            relay = Relay({"b.test": host(ONE)}, peer.port, settings={"idle_timeout_s": 20.0})
            helper, stop = helped(relay)
            for n in range(10):
                relay.send(envelope(f"u{n}@b.test"))
                until(lambda: len(relay.ends) == n + 1)
            assert peer.connections == 1
            relay.manager.stop(within_s=5)
            assert relay.manager.managed == {}
            until(lambda: peer.verbs()[-1] == "QUIT")
        """)
    assert "cut off" not in said, "stop waited for relayers that had nothing to do"


def test_an_idle_session_that_was_closed_meanwhile_is_replaced() -> None:
    run("""
        with Peer() as peer:
            relay = Relay({"b.test": host(ONE)}, peer.port, settings={"idle_timeout_s": 20.0})
            helper, stop = helped(relay)
            relay.send(envelope("x@b.test"))
            until(lambda: relay.ends)
            peer.drop_sessions()
            until(lambda: peer.open == 0)
            relay.send(envelope("y@b.test"))
            until(lambda: len(relay.ends) == 2)
            assert peer.arrived() == {"x@b.test": 1, "y@b.test": 1}
            assert [end.attempt for end in relay.ends] == [1, 1]
            relay.manager.stop(within_s=5)
        """)


def test_an_idle_session_that_was_given_notice_is_replaced() -> None:
    """The 421 came while nobody read; it must not pass for the reply to the next MAIL."""
    run("""
        with Peer() as peer:
            peer.once(".", (POLITE, Pause(0.001), "421 4.4.2 idle for too long", DROP))
            relay = Relay({"b.test": host(ONE)}, peer.port, settings={"idle_timeout_s": 20.0})
            helper, stop = helped(relay)
            relay.send(envelope("x@b.test"))
            until(lambda: relay.ends and peer.open == 0)
            relay.send(envelope("y@b.test"))
            until(lambda: len(relay.ends) == 2)
            assert [end.kinds for end in relay.ends] == [["delivered"]] * 2, relay.ends
            relay.manager.stop(within_s=5)
        """)


def test_a_silent_host_holds_up_nobody_elses_mail() -> None:
    run("""
        with Peer() as peer, Peer(TWO, peer.port) as silent:
            silent.always("CONNECT", STALL)
            relay = Relay(
                {"b.test": host(TWO, "silent.test"), "c.test": host(ONE)},
                peer.port,
                limits=SiteLimits(2),
            )
            helper, stop = helped(relay)
            relay.send(*numbered(20), *numbered(20, "c.test"))
            until(lambda: len(peer.messages) == 20)
            assert silent.most_open == 2
            relay.manager.stop(within_s=0)
        """)


def test_destinations_being_looked_up_hold_up_nobody() -> None:
    """Also when there are more of them than may be looked up at once."""
    run("""
        with Peer() as peer:
            relay = Relay({"b.test": host(ONE)}, peer.port, dns_concurrency=2)
            relay.calculator.get_exchanges("b.test")
            relay.resolver.gate.clear()
            helper, stop = helped(relay)
            relay.send(*(envelope(f"x@slow{n}.test", reverse_path="") for n in range(10)))
            gevent.idle()
            assert relay.resolver.under_way == 2, relay.resolver.under_way
            relay.send(*numbered(5))
            until(lambda: len(peer.messages) == 5)
            relay.resolver.gate.set()
            until(lambda: len(relay.ends) == 15)
            assert relay.resolver.most_under_way == 2
            assert sorted(e.kinds for e in relay.ends) == [["delivered"]] * 5 + [["failed"]] * 10
        """)


def test_a_window_that_shrank_sends_relayers_away_and_loses_no_mail() -> None:
    run("""
        with Peer() as peer:
            relay = Relay({"b.test": host(ONE)}, peer.port, limits=SiteLimits(5))
            peer.always(".", (Pause(0.002), POLITE))
            peer.once("CONNECT", POLITE, "554 5.7.1 not you", "554 5.7.1 not you")
            helper, stop = helped(relay)
            relay.send(*numbered(30))
            until(lambda: len(relay.ends) == 30)
            deferred = [e for e in relay.ends if e.kinds == ["deferred"]]
            assert len(deferred) == 2
            relay.set_clock.advance(60)
            relay.queue.on_change()
            until(lambda: len(relay.queue) == 0)
            assert peer.arrived() == {f"u{n}@b.test": 1 for n in range(30)}
        """)


def test_a_site_that_dies_puts_its_mail_off_and_one_probe_finds_it_back() -> None:
    run("""
        with Peer() as peer:
            pass
        relay = Relay({"b.test": host(ONE)}, peer.port, limits=SiteLimits(5))
        helper, stop = helped(relay)
        relay.send(*numbered(50))
        until(lambda: len(relay.ends) == 5 and not relay.manager.managed)
        assert len(relay.queue) == 50
        relay.set_clock.advance(30)
        relay.queue.on_change()
        until(lambda: len(relay.ends) == 6 and not relay.manager.managed)
        relay.set_clock.advance(61)
        open_at_mail = []
        peer.always("CONNECT", lambda c: (open_at_mail.append(peer.open), POLITE)[1])
        with peer:
            relay.queue.on_change()
            until(lambda: len(relay.queue) == 0)
            assert peer.arrived() == {f"u{n}@b.test": 1 for n in range(50)}
            assert open_at_mail[0] == 1
            assert peer.most_open <= 5
        """)


def test_a_host_that_takes_only_so_many_sessions_is_not_dead() -> None:
    """It says 421 to the surplus: their mail goes out by the others, and nothing waits."""
    run("""
        with Peer() as peer:
            surplus = lambda c: ("421 4.3.2 too many of you", DROP) if peer.open > 2 else POLITE
            peer.always("CONNECT", surplus)
            peer.always(".", (Pause(0.003), POLITE))
            relay = Relay(
                {"b.test": host(ONE)},
                peer.port,
                limits=SiteLimits(6),
                settings={"idle_timeout_s": 20.0},
            )
            helper, stop = helped(relay)
            relay.send(envelope("first@b.test"))
            until(lambda: relay.ends)
            relay.send(*numbered(59))
            until(lambda: len(relay.ends) == 60)
            assert [e.kinds for e in relay.ends] == [["delivered"]] * 60
            assert {e.attempt for e in relay.ends} == {1}
            assert relay.calculator.bad_until(ONE) == 0.0
            assert peer.connections <= 6, "those refused were not tried again and again"
            relay.manager.stop(within_s=5)
        """)


def test_a_lack_of_descriptors_marks_no_host() -> None:
    run("""
        import os, resource
        with Peer() as peer:
            relay = Relay({"b.test": host(ONE)}, peer.port)
            relay.send(envelope("x@b.test"))
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest = os.open("/dev/null", os.O_RDONLY)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
            [end] = relay.run()
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert "too many open files" in end.replies[0], end.replies
            assert relay.calculator.bad_until(ONE) == 0.0
            relay.set_clock.advance(60)
            relay.run()
            assert peer.arrived() == {"x@b.test": 1}
        """)


# -- stopping -----------------------------------------------------------------------------------


def test_stop_lets_relayers_finish_what_they_have_in_hand() -> None:
    run("""
        with Peer() as peer:
            held = threading.Event()
            peer.always(".", lambda c: (held.wait(8), POLITE)[1])
            relay = Relay({"b.test": host(ONE)}, peer.port, limits=SiteLimits(2))
            helper, stop = helped(relay)
            relay.send(*numbered(6))
            until(lambda: peer.verbs().count(".") == 2)
            stopping = gevent.spawn(relay.manager.stop, 5)
            gevent.idle()
            held.set()
            stopping.join()
            assert [e.kinds for e in relay.ends] == [["delivered"]] * 2
            assert len(peer.messages) == 2
            assert relay.manager.managed == {}
        """)


def test_stop_cuts_off_what_does_not_end_in_time_and_loses_nothing() -> None:
    said = run("""
        with Peer() as peer, tempfile.TemporaryDirectory() as directory:
            peer.always("DATA", STALL)
            store = SpoolStore(open_spool(directory))
            relay = Relay({"b.test": host(ONE)}, peer.port, store=store, limits=SiteLimits(2))
            helper, stop = helped(relay)
            relay.send(*numbered(6))
            until(lambda: peer.verbs().count("DATA") == 2)
            relay.manager.stop(within_s=0.01)
            assert relay.manager.managed == {}
            assert relay.ends == []
            relay.queue.close()
            again = new_queue(SpoolStore(open_spool(directory)), relay.clock)
            assert [d.attempts for d in again.get_waiting()] == [0] * 6
            assert peer.messages == []
        """)
    assert "2 relayers cut off" in said
    assert "0 of them past the final dot" in said


def test_stop_past_the_final_dot_leaves_it_in_doubt() -> None:
    said = run("""
        with Peer() as peer, tempfile.TemporaryDirectory() as directory:
            peer.always(".", STALL)
            store = SpoolStore(open_spool(directory))
            relay = Relay({"b.test": host(ONE)}, peer.port, store=store)
            helper, stop = helped(relay)
            relay.send(envelope("x@b.test"))
            until(lambda: "." in peer.verbs())
            relay.manager.stop(within_s=0.01)
            [end] = relay.ends
            assert end.told[0].in_doubt
            assert end.told[0].address == ONE
            assert relay.manager.in_doubt == 1
            relay.queue.close()
            again = new_queue(SpoolStore(open_spool(directory)), relay.clock)
            relay.set_clock.advance(RETRY.in_doubt_wait_s - 1)
            assert again.get_waiting() == []
            relay.set_clock.advance(1)
            [waiting] = again.get_waiting()
            assert (waiting.attempts, waiting.doubt.host.address) == (1, ONE)
        """)
    assert "1 of them past the final dot" in said


def test_stop_keeps_what_is_known_of_a_delivery_it_cuts_off() -> None:
    """The first batch was delivered, and must not be again; only the second is in doubt."""
    run("""
        with Peer() as peer:
            peer.once(".", POLITE, STALL)
            relay = Relay(
                {"b.test": host(ONE)}, peer.port, settings={"recipients_per_message": 2}
            )
            helper, stop = helped(relay)
            relay.send(envelope(*(f"u{n}@b.test" for n in range(5))))
            until(lambda: peer.verbs().count(".") == 2)
            relay.manager.stop(within_s=0.01)
            [end] = relay.ends
            assert end.kinds == ["delivered"] * 2 + ["deferred"] * 3, end.kinds
            assert [end.told[n].in_doubt for n in range(5)] == [False, False, True, True, False]
        """)


def test_stop_while_destinations_are_looked_up_leaves_their_mail() -> None:
    run("""
        relay = Relay({}, dns_concurrency=2)
        relay.resolver.gate.clear()
        helper, stop = helped(relay)
        relay.send(*numbered(3), *numbered(3, "c.test"))
        gevent.idle()
        relay.manager.stop(within_s=1)
        relay.resolver.gate.set()
        gevent.idle()
        assert relay.ends == []
        assert len(relay.queue) == 6
        stop.set()
        relay.queue.on_change()
        helper.join(5)
        assert helper.ready()
        """)


def test_a_stopping_helper_does_not_spin_over_mail_that_is_due() -> None:
    run("""
        relay = Relay({})
        relay.manager.stop(within_s=0)
        checks = []
        check_state = relay.manager.check_state
        relay.manager.check_state = lambda: (checks.append(1), check_state())[1]
        relay.send(*numbered(3))
        helper, stop = helped(relay)
        for _ in range(50):
            gevent.sleep(0.001)
        stop.set()
        relay.queue.on_change()
        helper.join(5)
        assert len(checks) <= 3, len(checks)
        """)


def test_many_sites_and_relayers_deliver_everything_once() -> None:
    run("""
        with Peer() as peer, Peer(TWO, peer.port) as second:
            peer.always("RCPT", lambda c: POLITE)
            domains = {
                f"d{n}.test": {
                    f"a{n}.test": (10, [ONE if n % 3 else DEAD]),
                    f"b{n}.test": (20, [TWO]),
                }
                for n in range(15)
            }
            relay = Relay(
                domains, peer.port, max_connections=12, limits=SiteLimits(3),
                settings={"max_messages_per_connection": 3},
            )
            helper, stop = helped(relay)
            for n in range(20):
                relay.send(envelope(*(f"u{n}@{d}" for d in domains)))
                gevent.sleep(0)
            until(lambda: len(relay.ends) == 300)
            assert all(e.kinds == ["delivered"] for e in relay.ends)
            arrived = peer.arrived() + second.arrived()
            assert arrived == {f"u{n}@{d}": 1 for n in range(20) for d in domains}
            assert len(relay.queue) == 0 and relay.queue.get_relayed() == 20
        """)
