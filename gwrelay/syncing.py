"""How greenlets wait for the disk: while the kernel syncs, or native threads of ours do."""

import errno
import logging
import os
from collections.abc import Callable

import gevent
from gevent.hub import Waiter
from gevent.monkey import get_original

from gwrelay.linuxaio import KernelSyncs

_new_thread = get_original("_thread", "start_new_thread")
_NativeQueue = get_original("queue", "SimpleQueue")
_READ = 1

#: Syncs at once.  The spool's commits are one; compaction, checkpoints and new segments are others.
_MOST_AT_ONCE = 32

logger = logging.getLogger(__name__)


def sync_for_greenlets() -> Callable[[int], None]:
    """fdatasync during which the hub's other greenlets go on.  Call it with a descriptor; it
    raises OSError."""
    try:
        return KernelSync(KernelSyncs(_MOST_AT_ONCE))
    except OSError as error:
        logger.info("native threads sync the spool: the kernel's AIO is not to be had: %s", error)
        return NativeSync()


class KernelSync:
    """fdatasync by the kernel.

    Of the threads that serve otherwise two must be woken for each sync, ours and the loop's,
    and both want the interpreter: between a write of 4 KiB and the end of its sync 90 microseconds
    of CPU are ours with a thread, and 35 so.
    """

    def __init__(self, syncs: KernelSyncs) -> None:
        self._syncs = syncs
        self._threads = NativeSync()
        self._last = 0
        #: By the number of the sync, who waits for it.
        self._waiting: dict[int, Callable[[int], object]] = {}
        # Always on, as it costs a system call to start it.  It keeps the loop alive only while
        # somebody waits.
        self._watcher = gevent.get_hub().loop.io(syncs.told_by, _READ, ref=False)
        self._watcher.start(self._note_ended)

    def __call__(self, descriptor: int) -> None:
        number = self._last = self._last + 1
        try:
            self._syncs.begin(number, descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EAGAIN):
                raise
            self._threads(descriptor)
            return
        self._waiting[number] = gevent.getcurrent().switch
        self._watcher.ref = True
        try:
            failure: int = gevent.get_hub().switch()
        except BaseException:  # killed: the sync goes on without it
            self._waiting[number] = _nobody
            raise
        if failure:
            raise OSError(failure, os.strerror(failure))

    def _note_ended(self) -> None:
        for number, failure in self._syncs.ended():
            self._waiting.pop(number)(failure)
        if not self._waiting:
            self._watcher.ref = False


def _nobody(failure: int) -> None:
    """Waits."""


class NativeSync:
    """fdatasync on native threads, as many as there are syncs at once; the caller's loop goes
    on.  Call it with a descriptor.  Raises OSError.

    gevent's pool makes a watcher, a result and a queue entry for each call; here a thread and
    its watcher stay together.  Between a write of 256 KiB and the end of its sync 0.36 ms pass
    instead of 0.43.
    """

    def __init__(self) -> None:
        self._idle: list[_Worker] = []

    def __call__(self, descriptor: int) -> None:
        worker = self._idle.pop() if self._idle else _Worker()
        error = worker.sync(descriptor)
        self._idle.append(worker)
        if error is not None:
            raise error


class _Worker:
    """One native thread, for one greenlet at a time."""

    def __init__(self) -> None:
        self._wanted = _NativeQueue()
        self._done = gevent.get_hub().loop.async_()
        self._error: Exception | None = None
        _new_thread(self._run, ())

    def sync(self, descriptor: int) -> Exception | None:
        """→ what the disk said.  Whoever is killed in here has spent the thread: it ends after
        its sync."""
        self._error = None
        waiter = Waiter()
        # Before the thread can be done, which would not be heard of.
        self._done.start(waiter.switch, None)
        self._wanted.put(descriptor)
        try:
            waiter.get()
        except BaseException:
            self._wanted.put(None)
            raise
        finally:
            self._done.stop()
        return self._error

    def _run(self) -> None:
        while (descriptor := self._wanted.get()) is not None:
            try:
                os.fdatasync(descriptor)
            except Exception as error:  # noqa: BLE001 - raised where somebody waits for it
                self._error = error
            self._done.send()
