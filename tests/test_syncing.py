"""Syncs that hold up nobody but their callers: the kernel's own, and those on native threads."""

import errno
import os
import platform
import select
import struct
from pathlib import Path

import pytest

from gwrelay.linuxaio import KernelSyncs
from support.patched import run_patched

KERNEL = """
import errno, os, tempfile
import gevent
from gwrelay.linuxaio import KernelSyncs
from gwrelay.syncing import KernelSync

file = tempfile.TemporaryFile()


class SlowDisk:
    # A kernel that ends a sync when the test says so.
    def __init__(self, most=9, refusal=errno.EAGAIN):
        self.most, self.refusal = most, refusal
        self.begun = []
        self.over = []
        self.told_by = os.eventfd(0, os.EFD_NONBLOCK)

    def begin(self, number, descriptor):
        if len(self.begun) == self.most:
            raise OSError(self.refusal, "not taken")
        self.begun.append((number, descriptor))

    def end(self, descriptor, failure=0):
        [number] = [n for n, d in self.begun if d == descriptor]
        self.over.append((number, failure))
        os.eventfd_write(self.told_by, 1)

    def ended(self):
        os.eventfd_read(self.told_by)
        over, self.over = self.over, []
        return over


def syncing(sync, *descriptors):
    greenlets = [gevent.spawn(sync, descriptor) for descriptor in descriptors]
    gevent.sleep(0)
    return greenlets

"""


def told_by(syncs: KernelSyncs) -> select.poll:
    poll = select.poll()
    poll.register(syncs.told_by, select.POLLIN)
    return poll


def test_the_kernel_tells_of_each_sync_once_and_what_came_of_it(tmp_path: Path) -> None:
    syncs = KernelSyncs(4)
    with (tmp_path / "one").open("wb") as one, (tmp_path / "two").open("wb") as two:
        syncs.begin(71, one.fileno())
        syncs.begin(72, two.fileno())
        told: list[tuple[int, int]] = []
        while len(told) < 2:
            assert told_by(syncs).poll(5000)
            told += syncs.ended()
    assert sorted(told) == [(71, 0), (72, 0)]


def test_when_all_have_been_told_of_nothing_is_to_be_told(tmp_path: Path) -> None:
    syncs = KernelSyncs(4)
    with (tmp_path / "one").open("wb") as one:
        syncs.begin(71, one.fileno())
        assert told_by(syncs).poll(5000)
        assert syncs.ended() == [(71, 0)]
    assert not told_by(syncs).poll(0)


def test_what_the_disk_said_to_the_kernel_comes_as_its_error_number() -> None:
    syncs = KernelSyncs(4)

    def kernel(*call: object) -> int:
        struct.pack_into("=QQqqQQqq", syncs._events, 0, 71, 0, -errno.EIO, 0, 72, 0, 0, 0)
        return 2

    syncs._call = kernel
    os.eventfd_write(syncs.told_by, 1)
    assert syncs.ended() == [(71, errno.EIO), (72, 0)]


def test_that_one_was_told_of_already_holds_up_nobody() -> None:
    # Between the look at the eventfd and the question who has ended another one may end: it is
    # told of at once, and the eventfd then says so again.
    run_patched(
        KERNEL
        + """
syncs = KernelSyncs(4)
os.eventfd_write(syncs.told_by, 1)
assert syncs.ended() == []
""",
        timeout=5,
    )


def test_what_cannot_be_synced_is_refused_at_once(tmp_path: Path) -> None:
    syncs = KernelSyncs(4)
    pipe, other_end = os.pipe()
    with pytest.raises(OSError, match="Invalid argument"):
        syncs.begin(1, pipe)
    os.close(pipe)
    os.close(other_end)
    with pytest.raises(OSError, match="Bad file descriptor"):
        syncs.begin(2, pipe)


def test_of_a_machine_whose_calls_are_not_known_none_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "sparc64")
    with pytest.raises(OSError, match="of sparc64") as caught:
        KernelSyncs(4)
    assert caught.value.errno == errno.ENOSYS


def test_a_sync_of_the_kernel_holds_up_nobody_but_its_caller_who_hears_of_a_failure() -> None:
    run_patched(
        KERNEL
        + """
disk = SlowDisk()
sync = KernelSync(disk)
first, second = syncing(sync, 71, 72)
assert [descriptor for _, descriptor in disk.begun] == [71, 72]
disk.end(72)
second.get(timeout=5)
assert not first.ready()
disk.end(71, errno.EIO)
first.join(timeout=5)
assert isinstance(first.exception, OSError) and first.exception.errno == errno.EIO
"""
    )


def test_the_loop_lives_as_long_as_somebody_waits_for_the_kernel_and_no_longer() -> None:
    run_patched(
        KERNEL
        + """
sync = KernelSync(KernelSyncs(4))
for _ in range(3):
    sync(file.fileno())
# Else it would wait for ever.
assert gevent.get_hub().join(timeout=5)
"""
    )


def test_who_is_killed_in_a_sync_of_the_kernel_is_not_told_of_it() -> None:
    run_patched(
        KERNEL
        + """
disk = SlowDisk()
sync = KernelSync(disk)
woken = []


def be_killed():
    try:
        sync(71)
    except KeyError:
        woken.append(gevent.get_hub().switch())


victim = gevent.spawn(be_killed)
gevent.sleep(0)
victim.kill(KeyError, block=False)
[other] = syncing(sync, 72)
disk.end(71)
disk.end(72)
other.get(timeout=5)
assert not woken and not victim.ready()
"""
    )


def test_threads_sync_what_the_kernel_does_not_take() -> None:
    run_patched(
        KERNEL
        + """
# Too many at once; and a kernel before 4.18, which does not know how.
for refusal in (errno.EAGAIN, errno.EINVAL):
    disk = SlowDisk(most=1, refusal=refusal)
    sync = KernelSync(disk)
    [first] = syncing(sync, 71)
    sync(file.fileno())
    assert len(disk.begun) == 1 and not first.ready()
pipe, _ = os.pipe()
try:
    KernelSync(KernelSyncs(4))(pipe)
except OSError as error:
    assert error.errno == errno.EINVAL
else:
    raise AssertionError("a pipe was synced")
"""
    )


def test_threads_sync_where_the_kernel_lets_nobody_ask_it() -> None:
    run_patched(
        KERNEL
        + """
import logging
from gwrelay import syncing


def refuse(most):
    raise PermissionError(errno.EPERM, "Operation not permitted")


said = []
logging.getLogger("gwrelay.syncing").addFilter(lambda record: said.append(record.getMessage()))
logging.getLogger("gwrelay.syncing").setLevel(logging.INFO)
assert type(syncing.sync_for_greenlets()) is KernelSync and not said
syncing.KernelSyncs = refuse
sync = syncing.sync_for_greenlets()
assert type(sync) is syncing.NativeSync
assert "Operation not permitted" in said[0]
sync(file.fileno())
"""
    )


THREADS = """
import errno, os, tempfile, threading
import gevent
from gwrelay import syncing
from gwrelay.syncing import NativeSync

file = tempfile.TemporaryFile()
sync = NativeSync()


class SlowDisk:
    # os.fdatasync that blocks its native thread until the test lets it go.
    def __init__(self):
        self.begun = []
        self.go, self.gone = os.pipe()

    def fdatasync(self, descriptor):
        self.begun.append(descriptor)
        original_read(self.go, 1)

    def release(self, count=1):
        os.write(self.gone, b"x" * count)


from gevent.monkey import get_original

original_read = get_original("os", "read")


def until(condition):
    with gevent.Timeout(5):
        while not condition():
            gevent.sleep(0.001)

"""


def test_a_sync_blocks_nobody_but_its_caller_and_threads_serve_again() -> None:
    run_patched(
        THREADS
        + """
syncing.os = disk = SlowDisk()
first = gevent.spawn(sync, 71)
second = gevent.spawn(sync, 72)
until(lambda: sorted(disk.begun) == [71, 72])
assert not first.ready() and not second.ready()
disk.release(2)
gevent.joinall([first, second], timeout=5, raise_error=True)
threads = len(sync._idle)
disk.release()
sync(73)
assert (threads, len(sync._idle)) == (2, 2)
"""
    )


def test_what_the_disk_says_is_raised_and_the_thread_goes_on() -> None:
    run_patched(
        THREADS
        + """
sync(file.fileno())
pipe, _ = os.pipe()
for wrong, kind in ((pipe, OSError), ("no number", TypeError)):
    try:
        sync(wrong)
    except kind as error:
        assert kind is TypeError or error.errno == errno.EINVAL, error
    else:
        raise AssertionError(wrong)
sync(file.fileno())
assert len(sync._idle) == 1
"""
    )


def test_who_is_killed_in_a_sync_spends_its_thread_and_nobody_else_is_told_of_it() -> None:
    run_patched(
        THREADS
        + """
syncing.os = disk = SlowDisk()
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
victim = gevent.spawn(sync, 71)
until(lambda: disk.begun == [71])
victim.kill()
assert sync._idle == []
other = gevent.spawn(sync, 72)
until(lambda: disk.begun == [71, 72])
assert threads() == before + 2
disk.release(2)
gevent.joinall([other], timeout=5, raise_error=True)
assert len(sync._idle) == 1
until(lambda: threads() == before + 1)
"""
    )
