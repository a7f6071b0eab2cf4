"""commit.py: many writers, few syncs, and nobody told before the sync that covers it."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spool import Amend, Drop, Put, Spool, SpoolFailed
from spool.segment import name_of

LIMIT_S = 20


class GatedSync:
    """A sync that waits until it is let through, and says when it has begun."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.kill: BaseException | None = None

    def close(self) -> None:
        self.begun.clear()
        self.gate.clear()

    def __call__(self, fd: int) -> None:
        self.begun.set()
        assert self.gate.wait(LIMIT_S)
        if self.kill is not None:
            error, self.kill = self.kill, None
            raise error
        os.fdatasync(fd)


def in_threads(*works: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(LIMIT_S * 200):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("waited in vain")


def test_writers_that_come_during_a_sync_share_the_next_one(tmp_path: Path) -> None:
    sync = GatedSync()
    spool = Spool(tmp_path, sync=sync)
    spool.write([Put(1, b"", b"", b"")])
    syncs = spool.counters.syncs
    sync.close()
    first = in_threads(lambda: spool.write([Put(2, b"", b"", b"")]))
    assert sync.begun.wait(LIMIT_S)
    entered = []

    def write(key: int) -> None:
        entered.append(key)
        spool.write([Put(key, b"", b"", b"")])

    rest = in_threads(*[lambda key=key: write(key) for key in range(3, 53)])
    until(lambda: len(entered) == 50)
    # Nobody's record counts before the sync that covers it.
    assert [key for key, _ in spool.items()] == [1]
    sync.gate.set()
    join(first + rest)
    assert len(spool) == 52
    # One for the first; one for all the others, or two if some were still on their way in.
    assert spool.counters.syncs - syncs <= 3
    spool.close()


def test_many_writers_need_few_syncs(tmp_path: Path) -> None:
    def sync(fd: int) -> None:
        os.fdatasync(fd)
        time.sleep(0)  # lets the other writers run, greenlets too

    spool = Spool(tmp_path, sync=sync, segment_bytes=64 * 1024)
    syncs = spool.counters.syncs

    def write() -> None:
        for _ in range(50):
            key = spool.new_key()
            spool.write([Put(key, b"state", b"", b"x" * 100)])
            assert key in spool_keys(spool, key)

    join(in_threads(*[write] * 32))
    assert len(spool) == 1600
    assert spool.counters.syncs - syncs < 800
    spool.close()
    spool = Spool(tmp_path)
    assert len(spool) == 1600
    spool.close()


def spool_keys(spool: Spool, key: int) -> list[int]:
    """[key] if it lives."""
    return [key] if spool.head(key) == b"" else []


def test_an_unwaited_write_does_not_wait_for_a_sync_in_progress(tmp_path: Path) -> None:
    sync = GatedSync()
    spool = Spool(tmp_path, sync=sync)
    spool.write([Put(1, b"old", b"", b"")])
    sync.close()
    waiting = in_threads(lambda: spool.write([Put(2, b"", b"", b"")]))
    assert sync.begun.wait(LIMIT_S)
    spool.write([Amend(1, b"new")], wait=False)  # this thread is the only one to open the gate
    sync.gate.set()
    join(waiting)
    spool.sync()
    assert dict(spool.items())[1] == b"new"
    spool.close()


def test_sync_waits_for_the_commit_in_progress(tmp_path: Path) -> None:
    sync = GatedSync()
    spool = Spool(tmp_path, sync=sync)
    spool.write([Put(1, b"", b"", b"")])
    sync.close()
    writing = in_threads(lambda: spool.write([Put(2, b"", b"", b"")]))
    assert sync.begun.wait(LIMIT_S)
    seen: list[int] = []

    def sync_then_look() -> None:
        spool.sync()
        seen.extend(key for key, _ in spool.items())

    looking = in_threads(sync_then_look)
    sync.gate.set()
    join(writing + looking)
    assert seen == [1, 2]
    spool.close()


class Killed(BaseException):
    """As gevent's GreenletExit, or a Timeout, thrown into whoever waits in a sync."""


def test_a_leader_killed_during_its_sync_leaves_nobody_waiting(tmp_path: Path) -> None:
    sync = GatedSync()
    spool = Spool(tmp_path, sync=sync)
    spool.write([Put(1, b"old", b"", b"")])
    sync.close()
    sync.kill = Killed()
    told: list[BaseException] = []

    def write(key: int) -> None:
        try:
            spool.write([Put(key, b"", b"", b"")])
        except (Killed, SpoolFailed) as error:
            told.append(error)

    leader = in_threads(lambda: write(2))
    assert sync.begun.wait(LIMIT_S)
    spool.write([Amend(1, b"new")], wait=False)
    others = in_threads(lambda: write(3), lambda: write(4))
    sync.gate.set()
    join(leader + others)
    assert [type(error) for error in told] == [Killed]
    spool.sync()
    assert dict(spool.items()) == {1: b"new", 3: b"", 4: b""}
    spool.close()
    spool = Spool(tmp_path)
    assert dict(spool.items()) == {1: b"new", 3: b"", 4: b""}
    spool.close()


def test_what_was_refused_is_written_again_before_what_came_later(tmp_path: Path) -> None:
    sync = GatedSync()
    spool = Spool(tmp_path, sync=sync)
    spool.write([Put(1, b"old", b"", b"")])
    sync.close()
    sync.kill = Killed()
    spool.write([Amend(1, b"first")], wait=False)

    def flush() -> None:
        with pytest.raises(Killed):
            spool.sync()

    flushing = in_threads(flush)
    assert sync.begun.wait(LIMIT_S)
    spool.write([Amend(1, b"second")], wait=False)
    sync.gate.set()
    join(flushing)
    spool.sync()
    assert dict(spool.items()) == {1: b"second"}
    spool.close()


GREENLETS = """
import gevent.monkey; gevent.monkey.patch_all()
import os, sys, threading, gevent
from spool import Amend, Put, Spool

def sync(fd):
    gevent.get_hub().threadpool.apply(os.fdatasync, (fd,))

spool = Spool(sys.argv[1], sync=sync, segment_bytes=65536)
stop = threading.Event()
keeper = gevent.spawn(spool.run, stop)

def write():
    for _ in range(20):
        key = spool.new_key()
        spool.write([Put(key, b"state", b"head", b"x" * 1000)])
        assert spool.head(key) == b"head"
        spool.write([Amend(key, b"newer")], wait=False)

writers = [gevent.spawn(write) for _ in range(64)]
gevent.joinall(writers, raise_error=True)

# Greenlets killed while they lead, queue or follow leave the others as they were.
victims = [gevent.spawn(spool.write, [Put(spool.new_key(), b"newer", b"", b"")]) for _ in range(30)]
gevent.sleep(0)
# The first is in its sync, the second queues to lead the next group.
for victim in victims[:2] + victims[3::3]:
    victim.kill(block=False)
late = [gevent.spawn(spool.write, [Put(spool.new_key(), b"newer", b"", b"")]) for _ in range(30)]
with gevent.Timeout(20):
    gevent.joinall(victims + late)
assert all(greenlet.successful() for greenlet in late), [g.exception for g in late]
count = len(spool)
stop.set()
gevent.joinall([keeper], raise_error=True)
spool.sync()
frames, syncs = spool.counters.frames, spool.counters.syncs
spool.close()
spool = Spool(sys.argv[1])
assert len(spool) == count, (len(spool), count)
assert {state for _, state in spool.items()} == {b"newer"}
print(frames, syncs)
"""


def test_greenlets_share_syncs_that_run_in_a_native_thread(tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    ended = subprocess.run(
        [sys.executable, "-c", GREENLETS, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    frames, syncs = map(int, ended.stdout.split())
    assert frames > 2500
    assert syncs < frames / 20


def test_a_note_is_in_the_file_while_a_sync_runs(tmp_path: Path) -> None:
    sync = GatedSync()
    spool = Spool(tmp_path, sync=sync)
    spool.write([Put(1, b"old", b"", b""), Put(2, b"old", b"", b"")])
    sync.close()
    writer = in_threads(lambda: spool.write([Put(3, b"", b"", b"")]))
    assert sync.begun.wait(LIMIT_S)
    spool.note([Amend(1, b"in doubt")])
    spool.note([Amend(2, b"in doubt too")])
    on_disk = (tmp_path / name_of(1)).read_bytes()
    assert b"in doubt" in on_disk
    assert b"in doubt too" in on_disk
    # Not durable before a sync that began after it.
    assert spool.state(1) == b"in doubt"
    assert dict(spool.items()) == {1: b"old", 2: b"old"}
    sync.gate.set()
    join(writer)
    assert dict(spool.items()) == {1: b"old", 2: b"old", 3: b""}
    spool.sync()
    assert dict(spool.items()) == {1: b"in doubt", 2: b"in doubt too", 3: b""}
    spool.close()


def test_a_note_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, sys; from spool import *; s = Spool(sys.argv[1]);"
        "s.write([Put(1, b'old', b'', b'')]); s.note([Amend(1, b'noted')]); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert done.returncode == 9
    spool = Spool(tmp_path)
    assert dict(spool.items()) == {1: b"noted"}
    spool.close()


def test_a_note_keeps_its_place_behind_what_was_written_before(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.write([Put(1, b"old", b"", b"")])
    spool.write([Amend(1, b"deferred")], wait=False)
    spool.note([Amend(1, b"in doubt")])
    spool.write([Amend(1, b"settled")], wait=False)
    spool.sync()
    assert dict(spool.items()) == {1: b"settled"}
    spool.close()
    spool = Spool(tmp_path)
    assert dict(spool.items()) == {1: b"settled"}
    spool.close()


@pytest.mark.parametrize(
    "later",
    [
        lambda spool: spool.note([Amend(1, b"held")]),
        lambda spool: spool.note([Amend(9, b"another"), Amend(1, b"held")]),
        lambda spool: spool.write([Amend(1, b"held")], wait=False),
        lambda spool: spool.write([Drop(1)], wait=False),
    ],
    ids=["noted", "noted with others", "unwaited", "dropped"],
)
def test_what_stood_beside_a_state_comes_with_the_next_when_a_power_cut_takes_the_first(
    tmp_path: Path, later: Callable[[Spool], object]
) -> None:
    spool = Spool(tmp_path / "spool")
    spool.write([Put(1, b"new", b"", b"content"), Put(9, b"", b"", b"")])
    spool.note([Amend(1, b"told"), Put(2, b"due", b"head", b"report")])
    later(spool)
    spool.sync()
    after = power_cut(tmp_path, b"told")
    assert after.get(1) in (b"held", None)
    assert after[2] == b"due"
    spool.close()


def power_cut(path: Path, lost: bytes) -> dict[int, bytes]:
    """What a start finds when the frame with `lost` did not reach the disk, and all others did."""
    shutil.copytree(path / "spool", path / "after")
    segment = path / "after" / name_of(1)
    assert segment.read_bytes().count(lost) == 1
    segment.write_bytes(segment.read_bytes().replace(lost, bytes(len(lost))))
    spool = Spool(path / "after")
    assert spool.counters.lost_frames == 1
    found = dict(spool.items())
    if 2 in found:
        assert (spool.head(2), list(spool.body(2))) == (b"head", [b"report"])
    spool.close()
    return found


def test_a_leader_that_is_killed_leaves_the_lead_to_one_of_the_others(tmp_path: Path) -> None:
    script = """
import sys
from gevent import monkey
monkey.patch_all()
import gevent
from gevent.event import Event
from spool import Put, Spool

gate = Event()
begun = Event()

def sync(fd):
    begun.set()
    gate.wait()

gate.set()
spool = Spool(sys.argv[1], sync=sync)
begun.clear()
gate.clear()
first = gevent.spawn(spool.write, [Put(1, b"", b"", b"")])
begun.wait()
leader = gevent.spawn(spool.write, [Put(2, b"", b"", b"")])
gevent.sleep(0)
others = [gevent.spawn(spool.write, [Put(key, b"", b"", b"")]) for key in (3, 4, 5)]
gevent.sleep(0)
leader.kill()
gevent.sleep(0)
gate.set()
gevent.joinall([first, *others], raise_error=True)
assert len(spool) == 5, len(spool)
"""
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, timeout=LIMIT_S)


def test_those_a_commit_has_woken_share_the_next_one(tmp_path: Path) -> None:
    """Not one of them alone, and all the others after him."""
    script = """
import sys
from gevent import monkey
monkey.patch_all()
import gevent
from gevent.threadpool import ThreadPool
import os
from spool import Put, Spool

pool = ThreadPool(1)
spool = Spool(sys.argv[1], sync=lambda fd: pool.apply(os.fdatasync, (fd,)))

def write():
    for _ in range(20):
        spool.write([Put(spool.new_key(), b"", b"", b"")])

gevent.joinall([gevent.spawn(write) for _ in range(64)], raise_error=True)
assert len(spool) == 1280
assert spool.counters.syncs <= 30, spool.counters.syncs
"""
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, timeout=LIMIT_S)


def test_a_leader_killed_while_it_lets_others_come_leaves_the_lead_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """As gevent's GreenletExit, thrown into whoever gives others a turn."""

    sync = GatedSync()
    spool = Spool(tmp_path, sync=sync)
    followers: list[threading.Thread] = []
    begun = threading.Event()

    def write(key: int) -> None:
        begun.set()
        spool.write([Put(key, b"", b"", b"")])

    def others_come(seconds: float) -> None:
        if not followers:
            followers.extend(in_threads(lambda: write(9)))
            assert begun.wait(LIMIT_S)
            until(lambda: spool._committer.gathered_bytes() > 60)
            raise Killed

    spool.write([Put(1, b"", b"", b"")])
    sync.close()
    crowd = in_threads(*[lambda key=key: write(key) for key in (2, 3, 4)])
    until(lambda: sync.begun.is_set() and spool._committer.gathered_bytes() > 60)
    sync.gate.set()
    join(crowd)
    begun.clear()
    monkeypatch.setattr(time, "sleep", others_come)
    with pytest.raises(Killed):
        spool.write([Put(8, b"", b"", b"")])
    join(followers)
    assert 9 in dict(spool.items())
    spool.close()
