"""The public face: a durable map of keys to a small state and a large body.

Knows nothing of what the bytes mean.  items() shows what is durable: a record counts once the
commit that carries it is done.  head() and body() give an unwaited Put out at once.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from spool.commit import Committer
from spool.compact import Compactor
from spool.copying import Copying
from spool.counters import Counters
from spool.entry import Entry
from spool.errors import SpoolClosed, SpoolError, SpoolFailed
from spool.files import Files
from spool.frame import Chunk, Drop, Put, Record
from spool.index import Index, Place
from spool.loading import Loader
from spool.log import Log
from spool.losses import Losses
from spool.reading import Reader
from spool.recovery import check_version
from spool.saving import Saver
from spool.unlanded import Unlanded
from spool.waiting import Event, Lock, locked

_new = tuple.__new__

#: Chunks gathered for the next commit, in bytes, above which their writer waits for it: the one
#: kind of unwaited record that clients can send faster than the disk takes it.
GATHER_BYTES = 8 * 1024 * 1024
#: Seconds between two rounds of upkeep; twice that bounds how long anything stays unsynced.
UPKEEP_S = 0.25


class Spool:
    """One directory, one process.  Methods may be called from any thread or greenlet."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sync: Callable[[int], None] = os.fdatasync,
        lock: Callable[[], Lock] = threading.Lock,
        event: Callable[[], Event] = threading.Event,
        clock: Callable[[], float] = time.time,
        key_name: Callable[[int], str] = str,
        share: tuple[int, int] = (0, 1),
        lazy: bool = False,
        segment_bytes: int = 16 * 1024 * 1024,
        checkpoint_bytes: int = 64 * 1024 * 1024,
        compact_ratio: float = 0.5,
        compact_rate_bytes_s: float = 50 * 1024 * 1024,
        logger: logging.Logger | None = None,
        files: Callable[[str, Callable[[int], None]], Files] = Files,
    ) -> None:
        """Open and lock.  `sync(fd)` makes a descriptor durable, `clock` is Unix seconds,
        `key_name` says what people call a key, where the log names those that are damaged.
        `share` is (number, of): of several spools whose keys must all differ each gives out those
        that leave its own number when divided by `of`.

        `lock` makes what guards the spool's memory, never held by one who waits for anything;
        `event` what writers wait by.  Where greenlets are the only callers, these may be
        cheaper than the standard library's.

        With `lazy` new keys may be written at once, and those of before do not exist until
        load() has given them out; otherwise they are all there on return.

        A checkpoint is written when the log has grown by `checkpoint_bytes`, and by close().
        A segment whose dead share is above `compact_ratio` (0..1) is compacted, reading at most
        `compact_rate_bytes_s`.  All that only while run() runs.

        Raises SpoolLocked, SpoolVersion, SpoolOwner, OSError.  A full disk is no reason.
        """
        self._clock = clock
        self._number, self._of = share
        self._logger = logger or logging.getLogger("spool")
        #: Make what they say above, for callers who have something of the kind to guard as well.
        self.new_lock, self.new_event = lock, event
        self._lock = lock()
        self._upkeep = threading.Lock()
        self._index = Index()
        #: Why chunks of these keys are not in the log; told to whoever writes the Put.
        self._spoilt: dict[int, SpoolError] = {}
        self._unlanded = Unlanded()
        self._closed = False
        self._last_key = 0
        #: Compacted segments that the log has been told of.
        self._told_segments = 0
        self.counters = Counters()
        name = os.fspath(path)
        self._files = files(name, sync)
        losses = Losses(self._files, self._logger, key_name)
        try:
            check_version(self._files, name)
            self._files.tighten(self._logger)
            self._files.lock()
            self._log = Log(
                self._files,
                segment_bytes,
                self._landed,
                self._issued,
                losses,
                self.counters,
                self._logger,
                lock,
            )
            past = self._log.open()
        except BaseException:
            self._files.close()
            raise
        self._committer = Committer(self._log.commit, self._lost, self._lock, event)
        self._reader = Reader(self._log, self._index, self._unlanded, self._lock)
        copying = Copying(
            self._log, self._index, self._unlanded, self._committer, self._lock, self.counters
        )
        self._compactor = Compactor(
            copying, self._logger, ratio=compact_ratio, rate_bytes_s=compact_rate_bytes_s
        )
        self._saver = Saver(
            self._files,
            self._log,
            self._index,
            self._committer,
            self._lock,
            self._issued,
            self.counters,
            self._logger,
            checkpoint_bytes,
            None if past.checkpoint is None else past.checkpoint.covered.position,
        )
        self._last_key = past.last_key
        self._loader = Loader(self._log, past, self._index, self._lock, losses, self._logger)
        if not lazy:
            self._load_all()

    def __len__(self) -> int:
        """Living keys."""
        return len(self._index)

    @property
    def living_bytes(self) -> int:
        """Bytes of records still needed."""
        return self._index.living_bytes

    @property
    def segments(self) -> int:
        return len(self._log.present())

    def new_key(self) -> int:
        """Greater than all before, restarts included; microseconds of the clock, or just above."""
        with self._lock:
            key = max(int(self._clock() * 1_000_000), self._last_key + 1)
            key += (self._number - key) % self._of
            self._last_key = key
            return key

    @property
    def last_key(self) -> int:
        """No key that was ever given out here is above it."""
        return self._last_key

    def give_out_above(self, key: int) -> None:
        """new_key() gives out nothing up to `key` from now on."""
        with self._lock:
            self._last_key = max(self._last_key, key)

    def write(self, batch: Sequence[Record], wait: bool = True) -> None:
        """Write `batch` as one frame: after a crash all of it is there, or nothing.

        With `wait` returns when it is durable; raises SpoolFull or SpoolFailed when it is not
        in the log and never will be.  Without, it rides with the next commit, and returns at
        once; what the disk refuses then is tried again with each commit, but for chunks: the
        Put that names those raises.  Who gives up a key after chunks must Drop it.  What an
        unwaited batch put beside a key's Amend or Drop is not lost without that, either, when
        the key is amended or dropped again meanwhile.
        Raises SpoolClosed; TypeError or ValueError for a batch that makes no frame.
        """
        if not batch:
            return
        has_chunks, has_newest = False, False
        for record in batch:
            if type(record) is Put:
                # One that is waited for has no key that anybody knows of.
                has_newest = has_newest or not wait
                if record.chunks:
                    self._require_chunks(record)
            elif type(record) is Chunk:
                has_chunks = True
            else:
                has_newest = True
                if self._spoilt and type(record) is Drop:
                    self._spoilt.pop(record.key, None)
        if has_chunks and self._committer.gathered_bytes() > GATHER_BYTES:
            wait = True
        entry = Entry(batch, waits=wait, kept=not wait and not has_chunks)
        with self._lock:
            if has_newest and not wait and (beside := self._unlanded.beside(batch)):
                entry = Entry([*beside, *batch], waits=False, kept=entry.kept)
            group = self._committer.gather(entry)
            if has_newest:
                self._unlanded.add(entry)
        if wait:
            self._committer.wait(entry, group)

    def note(self, batch: Sequence[Record]) -> bool:
        """As an unwaited write(), but in the file when this returns, without waiting for a sync
        that is running: a killed process leaves it behind, a power loss may take it until the
        next commit.  Not for chunks.

        → False where that cannot be, as there is no room for it, or what was written of these keys
        before, and comes before it, waits for its commit: it rides with that, like any other.
        """
        entry = Entry(batch, waits=False, kept=True)
        with self._lock:
            if beside := self._unlanded.beside(batch):
                entry = Entry([*beside, *batch], waits=False, kept=True)
            waits = self._unlanded.gathered(entry.batch)
            if waits or self._closed or not self._log.note(entry):
                self._committer.gather(entry)
            self._unlanded.add(entry)
        return entry.noted

    def sync(self) -> None:
        """Everything written so far is durable on return; else raises SpoolFull, SpoolFailed."""
        self._check_open()
        error = self._committer.flush()
        if error is not None:
            raise error

    def run(self, stop: threading.Event) -> None:
        """Upkeep until `stop`: commits what nobody waits for, removes segments nobody needs,
        has room ready for the next, and compacts."""
        delay_s, round_at = 0.0, float("-inf")
        steps = [self._compact_step, self._saver.step]
        due_at = [round_at, round_at]
        while not stop.wait(delay_s):
            with self._upkeep:
                if self._closed:
                    return
                if time.monotonic() >= round_at:
                    # The log reports what is refused, and settlements among it stay in the queue.
                    self._committer.flush()
                    if self._loader.is_done:
                        self._sweep()
                    self._log.prepare()
                    round_at = time.monotonic() + UPKEEP_S
                for n, step in enumerate(steps if self._loader.is_done else ()):
                    # Neither goes on before its own rest is over because the other does.
                    if time.monotonic() >= due_at[n]:
                        rest_s = step()
                        due_at[n] = round_at if rest_s is None else time.monotonic() + rest_s
            wakes_at = min([round_at, *due_at]) if self._loader.is_done else round_at
            delay_s = max(0.0, wakes_at - time.monotonic())

    def _compact_step(self) -> float | None:
        rest_s = self._compactor.step()
        if rest_s is None and self.counters.compacted_segments > self._told_segments:
            self._tell_compacted()
        return rest_s

    def _tell_compacted(self) -> None:
        """How much it was, when all that is worth it has been done."""
        counters = self.counters
        count = counters.compacted_segments - self._told_segments
        self._told_segments = counters.compacted_segments
        self._logger.info(
            "spool: %d segments compacted; %d bytes copied since the start, write amplification "
            "%.2f",
            count,
            counters.compacted_bytes,
            counters.write_amplification,
        )

    def compact(self, progress: Callable[[], None] = lambda: None) -> None:
        """Compact whatever is worth it, at once; `progress` is called again and again."""
        with self._upkeep:
            self._check_open()
            while self._compactor.step(at_once=True) is not None:
                progress()

    def items(self) -> Iterator[tuple[int, bytes]]:
        """(key, newest state) of every living key, oldest first.  Keys that come or die meanwhile
        may be left out."""
        for keys in self._slices():
            for key in keys:
                with contextlib.suppress(KeyError):
                    yield key, self._index.state(key)

    def keys(self) -> Iterator[list[int]]:
        """The keys of items(), in small lists."""
        return self._slices()

    def load(self) -> Iterator[list[tuple[int, bytes]]]:
        """(key, newest state) of every key that lived when the spool was opened, once each, in
        small lists, oldest first, some of them empty: what to do in one go while others wait.

        What is given out may be read, amended and dropped at once.  With `lazy` it must be
        gone through once, to its end; a spool closed before that has lost nothing.  Raises
        OSError, as when no more files can be opened: then call it again, for the rest.
        """
        loads = not self._loader.is_done
        for keys in self._loader.run() if loads else self._slices():
            yield self._with_states(keys)
        if loads:
            self._loaded()

    def state(self, key: int) -> bytes:
        """The newest state, durable or not.  KeyError when the key has ended, or never was."""
        with self._lock:
            newest = self._unlanded.newest(key)
            if newest is None:
                return self._index.state(key)
        if isinstance(newest, Drop):
            raise KeyError(key)
        return newest.state

    def head(self, key: int) -> bytes:
        """As the Put wrote it.  KeyError when gone, CorruptFrame when damaged, SpoolFailed."""
        self._check_open()
        return self._reader.put(key).head

    def body(self, key: int) -> Iterator[bytes]:
        """The pieces in order, each verified before it is given out.  Raises as head() does,
        also between two pieces: what was given out is then to be thrown away."""
        self._check_open()
        return self._reader.body(key)

    def close(self) -> None:
        """Commit what is left and let go of the directory.  Does nothing the second time."""
        with self._upkeep:
            if self._closed:
                return
            self._closed = True
            error = self._committer.close()
            if error is not None:
                self._logger.error("spool: closed with records unwritten: %s", error)
            if self._loader.is_done:
                self._saver.save(self._loader.is_covered)
            self._loader.close()
            self._log.close()
            self._files.close()

    def _load_all(self) -> None:
        try:
            for _ in self.load():
                pass
        except BaseException:
            self._files.close()
            raise

    def _loaded(self) -> None:
        with self._lock:
            self._last_key = max(self._last_key, self._index.last_key)
        if self._loader.has_missed:
            self._saver.hasten()
        with self._upkeep:
            if not self._closed:
                self._sweep()

    def _slices(self) -> Iterator[list[int]]:
        return locked(self._lock, self._index.slices())

    def _with_states(self, keys: list[int]) -> list[tuple[int, bytes]]:
        with self._lock:
            return self._index.states(keys)

    def _issued(self) -> int:
        return self._last_key

    def _landed(self, entries: Sequence[Entry]) -> None:
        apply = self._index.apply
        with self._lock:
            for entry in entries:
                # Calling the class is Python of its own.
                apply(_new(Place, (entry.segment, entry.offset, entry.size)), entry.batch)
            if self._unlanded:
                for entry in entries:
                    self._unlanded.discard(entry)

    def _lost(self, entry: Entry) -> None:
        """`entry` was refused for good.  Its chunks, or those its Put names, are of no use."""
        with self._lock:
            self._unlanded.discard(entry)
            for record in () if entry.copies else entry.batch:
                if type(record) is Chunk and entry.error is not None:
                    self._spoilt[record.key] = entry.error
                elif type(record) is Put and record.chunks:
                    self._index.forget_chunks(record.key)

    def _require_chunks(self, put: Put) -> None:
        """Chunks are durable before the Put that names them is written, or it is refused.

        So a crash never leaves a Put whose chunks were lost with the unsynced tail.
        """
        self._committer.flush()
        with self._lock:
            places = self._index.chunks(put.key)
            whole = len(places) == put.chunks and None not in places
            if not whole:
                self._index.forget_chunks(put.key)
        if not whole:
            spoilt = self._spoilt.pop(put.key, None)
            raise spoilt or SpoolFailed(f"key {put.key} has not the {put.chunks} chunks it names")

    def _sweep(self) -> None:
        """Remove segments nobody needs, in rounds: one that keeps another's dead from coming
        back goes only after that one's removal is durable."""
        while True:
            with self._lock:
                present = self._log.present()
                spent = [n for n in self._log.removable() if not self._index.is_needed(n, present)]
            if not spent and not self._log.is_removing:
                return
            try:
                if spent and not self._log.goes_on_behind(self._saver.position, spent):
                    # What ended keys of the checkpoint goes, and with nothing behind it the next
                    # start would take them for damaged.
                    if self._log.is_missing_some:
                        return
                    self._saver.forget()
                gone = self._log.remove(spent)
            except OSError as error:
                self._logger.error("spool: cannot remove spent segments: %s", error)
                return
            with self._lock:
                for number in gone:
                    self._index.forget_segment(number)

    def _check_open(self) -> None:
        if self._closed:
            raise SpoolClosed("the spool is closed")
