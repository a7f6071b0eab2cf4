"""What the gateway waits by: greenlets let through, killed, peers that say something."""

from support.patched import run_patched

GATE = """
import gevent
from gwrelay.waiting import Gate

passed = []


def pass_through(name, gate):
    gate.wait()
    passed.append(name)


def waiting(count, gate):
    greenlets = [gevent.spawn(pass_through, name, gate) for name in range(count)]
    gevent.sleep(0)
    assert not passed
    return greenlets

"""


def test_a_gate_lets_all_pass_in_their_order_and_whoever_comes_later() -> None:
    run_patched(
        GATE
        + """
gate = Gate()
greenlets = waiting(5, gate)
gate.set()
gate.set()
assert not passed  # in their own turn of the loop
gevent.joinall(greenlets, timeout=5, raise_error=True)
assert passed == [0, 1, 2, 3, 4]
gate.wait()
"""
    )


def test_who_is_killed_at_a_gate_is_not_woken_there_again() -> None:
    run_patched(
        GATE
        + """
gate = Gate()
greenlets = waiting(5, gate)
greenlets[1].kill()
greenlets[3].kill(block=False)  # comes before the waking
gate.set()
greenlets[4].kill(block=False)  # comes after it
gevent.joinall(greenlets, timeout=5)
assert passed == [0, 2, 4]
gevent.sleep(0)
"""
    )


def test_who_was_driven_off_and_waits_elsewhere_is_not_woken_by_the_gate_it_left() -> None:
    run_patched(
        GATE
        + """
first, second = Gate(), Gate()


def move_on():
    try:
        first.wait()
    except KeyError:
        pass_through("moved", second)


greenlet = gevent.spawn(move_on)
gevent.sleep(0)
greenlet.kill(KeyError, block=False)
gevent.sleep(0)
first.set()
gevent.sleep(0)
assert not passed
second.set()
gevent.joinall([greenlet], timeout=5, raise_error=True)
assert passed == ["moved"]
"""
    )


def test_who_leaves_while_others_are_being_woken_is_left_out() -> None:
    run_patched(
        GATE
        + """
gate = Gate()
victim = None


def kill_the_next():
    gate.wait()
    victim.throw(gevent.GreenletExit)


killer = gevent.spawn(kill_the_next)
gevent.sleep(0)
victim, = waiting(1, gate)
last = gevent.spawn(pass_through, "last", gate)
gevent.sleep(0)
gate.set()
gevent.joinall([killer, last], timeout=5, raise_error=True)
assert passed == ["last"]
"""
    )


def test_no_greenlet_ever_finds_a_lock_of_the_spool_held() -> None:
    # They are native locks: who waited for one would stop the loop, and with it whoever holds it.
    run_patched(
        """
import os, random, tempfile, threading
import gevent
from gwrelay.waiting import for_greenlets
from spool import Amend, Chunk, Drop, Put, Spool


class Lock:
    held = taken = 0
    mine = False

    def __enter__(self):
        assert not self.mine
        self.mine = True
        Lock.held += 1
        Lock.taken += 1

    def __exit__(self, *_):
        self.mine = False
        Lock.held -= 1


directory = tempfile.mkdtemp()
options = {**for_greenlets(), "lock": Lock}
opened = lambda **more: Spool(
    directory, segment_bytes=65536, checkpoint_bytes=65536, compact_ratio=0.1, **options, **more
)
spool = opened()
stop = threading.Event()
keeper = gevent.spawn(spool.run, stop)
rng = random.Random(5)
lives = {}


def use():
    for turn in range(25):
        key = spool.new_key()
        chunks = turn % 3
        for number in range(chunks):
            spool.write([Chunk(key, number, b"c" * 500)], wait=False)
        spool.write([Put(key, b"state", b"head", b"x" * 1000, chunks)])
        assert b"".join(spool.body(key)) == b"c" * 500 * chunks + b"x" * 1000
        spool.note([Amend(key, b"noted")])
        spool.write([Amend(key, b"newer")], wait=rng.random() < 0.2)
        if rng.random() < 0.7:
            spool.write([Drop(key)], wait=False)
        else:
            lives[key] = b"newer"
        if rng.random() < 0.1:
            gevent.sleep(0.01)
            if key in lives:  # perhaps while others sync
                spool.note([Amend(key, b"newer")])


gevent.joinall([gevent.spawn(use) for _ in range(40)], raise_error=True, timeout=60)
with gevent.Timeout(20):
    while not spool.counters.compacted_segments or "checkpoint" not in os.listdir(directory):
        key = spool.new_key()
        spool.write([Put(key, b"state", b"", b"x" * 9000)])
        spool.write([Drop(key)])
        gevent.sleep(0.02)
stop.set()
gevent.joinall([keeper], raise_error=True)
spool.close()
spool = opened(lazy=True)
for _ in spool.load():
    gevent.sleep(0)
assert dict(spool.items()) == lives
spool.close()
assert Lock.taken > 10_000 and not Lock.held, Lock.taken
"""
    )


PATIENCE = """
import socket, time
import gevent
from gwrelay.waiting import Patience

ours, theirs = socket.socketpair()
patience = Patience(ours)
LONG_S = 20.0
loop = gevent.get_hub().loop
active = loop.activecnt
"""


def test_patience_ends_when_something_comes_and_when_the_other_end_leaves() -> None:
    run_patched(
        PATIENCE
        + """
waiting = gevent.spawn(patience, LONG_S)
gevent.sleep(0)
assert not patience.has_come() and not waiting.ready()
theirs.send(b"250 ok")
assert waiting.get(timeout=5) is True
assert patience.has_come() and patience(LONG_S)  # nothing was read yet
assert ours.recv(100) == b"250 ok"
assert not patience.has_come()
assert not patience(0.001)
theirs.close()
assert patience(LONG_S) and patience.has_come()
patience.close()
assert loop.activecnt == active, "a watcher or a timer is left"
"""
    )


def test_patience_is_over_in_its_time_and_not_before_its_time() -> None:
    run_patched(
        PATIENCE
        + """
began = time.monotonic()
assert patience(0.2) is False
assert 0.19 < time.monotonic() - began < 5
assert patience(0.0) is False and patience(-1.0) is False
theirs.send(b"x")
assert patience(LONG_S) is True  # no timer of before ends it
"""
    )


def test_patience_has_another_end_each_time_be_it_sooner_or_later() -> None:
    run_patched(
        PATIENCE
        + """
def wait(seconds):
    began = time.monotonic()
    return patience(seconds), time.monotonic() - began


for seconds in (LONG_S, 0.2):
    theirs.send(b"x")
    assert patience(seconds) and ours.recv(1)
has_come, took_s = wait(0.1)  # sooner than those two
assert not has_come and 0.09 < took_s < 0.19
theirs.send(b"x")
assert patience(0.1) and ours.recv(1)
has_come, took_s = wait(0.3)  # the timer that was set for 0.1 rings meanwhile
assert not has_come and 0.29 < took_s < 5
"""
    )


def test_what_nobody_waits_for_is_not_told_of_again_and_again() -> None:
    run_patched(
        PATIENCE
        + """
turns = []
counting = loop.prepare()
theirs.send(b"x")
assert patience(LONG_S)
counting.start(turns.append, None)
gevent.sleep(0.2)
assert len(turns) < 20
assert patience(LONG_S) and ours.recv(1)  # it is there all the same
assert patience(0.01) is False
"""
    )


def test_who_is_killed_while_he_waits_leaves_nothing_behind_that_wakes_him() -> None:
    run_patched(
        PATIENCE
        + """
def wait_twice():
    try:
        patience(0.05)
    except KeyError:
        return gevent.event.Event().wait(0.5)


import gevent.event
greenlet = gevent.spawn(wait_twice)
gevent.sleep(0)
greenlet.kill(KeyError, block=False)
theirs.send(b"x")
assert greenlet.get(timeout=5) is False
assert patience(LONG_S) is True
"""
    )


def test_who_waits_is_let_go_when_the_socket_is_to_be_closed() -> None:
    run_patched(
        PATIENCE
        + """
waiting = gevent.spawn(patience, LONG_S)
gevent.sleep(0)
patience.close()
ours.close()
assert waiting.get(timeout=5) is False
assert patience(LONG_S) is False
patience.close()
"""
    )


def test_a_gate_that_nobody_opens_lets_go_in_time_and_wakes_nobody_later() -> None:
    run_patched(
        """
import time
import gevent
from gwrelay.waiting import Gate

loop = gevent.get_hub().loop
gate, active = Gate(), loop.activecnt
began = time.monotonic()
assert gate.wait(0.1) is False
assert 0.09 < time.monotonic() - began < 5
gate.set()
gevent.sleep(0.05)  # ended by nobody but its own timer
assert time.monotonic() - began > 0.14
assert gate.wait(5) is True and gate.wait() is True
assert loop.activecnt == active, "a timer is left"
"""
    )


def test_a_gate_that_opens_in_time_lets_all_go_and_stops_their_timers() -> None:
    run_patched(
        """
import gevent
from gwrelay.waiting import Gate

loop = gevent.get_hub().loop
gate, active = Gate(), loop.activecnt


def wait_and_rest(seconds):
    has_opened = gate.wait(seconds)
    gevent.sleep(0.3)  # longer than the timer would have run
    return has_opened


waiting = [gevent.spawn(wait_and_rest, seconds) for seconds in (0.2, 5, None)]
killed = gevent.spawn(gate.wait, 5)
gevent.sleep(0)
killed.kill()
gate.set()
gevent.joinall(waiting, raise_error=True, timeout=5)
assert [one.value for one in waiting] == [True, True, True]
assert loop.activecnt == active, "a timer is left"
"""
    )
