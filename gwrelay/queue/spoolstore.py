"""The Store on the spool log.  The only file that imports it.

A message is one key: its Message is the record's head, its content the body, and the
State is what the spool amends.  The spool's errors become the gateway's here.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import spool
from gwrelay.errors import StoreDamaged, StoreFailed, StoreFull
from gwrelay.message.envelope import Message, message_name
from gwrelay.queue.store import (
    NewMessage,
    State,
    decode_message,
    decode_state,
    encode_message,
    encode_state,
)

logger = logging.getLogger(__name__)

#: A NamedTuple from all its fields.  Calling the class is Python of its own.
_new = tuple.__new__

#: What a spool has done, for those who tell it.
SpoolCounters = spool.Counters


class _Notes:
    """What one write notes, for all who wait for it."""

    def __init__(self, written: spool.Event) -> None:
        self.records: list[spool.Record] = []
        self._written = written
        self._error: BaseException | None = None

    def write(self, log: spool.Spool) -> None:
        try:
            if not log.note(self.records):
                log.sync()
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._written.set()

    def wait(self) -> None:
        self._written.wait()
        if self._error is not None:
            raise StoreFailed(f"not noted: {self._error}") from self._error


class SpoolStore:
    def __init__(self, log: spool.Spool) -> None:
        self._log = log
        self._notes = _Notes(log.new_event())
        self._lock = log.new_lock()

    def next_id(self) -> int:
        return self._log.new_key()

    def add_piece(self, message_id: int, number: int, piece: bytes) -> None:
        self._write([spool.Chunk(message_id, number, piece)], wait=False)

    def discard(self, message_id: int) -> None:
        self._write([spool.Drop(message_id)], wait=False)

    def accept(self, new: NewMessage) -> None:
        self._write([_put(new)], wait=True)

    def load(self) -> Iterator[list[tuple[int, State]]]:
        with _translated():
            for batch in self._log.load():
                yield _decoded(batch)

    def ids(self) -> Iterator[list[int]]:
        return self._log.keys()

    def state(self, message_id: int) -> State | None:
        try:
            return decode_state(self._log.state(message_id))
        except KeyError:
            return None

    def message(self, message_id: int) -> Message:
        with _translated(message_id):
            return decode_message(self._log.head(message_id))

    def content(self, message_id: int) -> Iterator[bytes]:
        with _translated(message_id):
            yield from self._log.body(message_id)

    def settle(self, message_id: int, state: State | None, report: NewMessage | None) -> None:
        reports = [] if report is None else [_put(report)]
        if state is None:
            self._write([_new(spool.Drop, (message_id,)), *reports], wait=False)
            return
        with _translated():
            # In the file at once: what is noted of the message's other parts must come after it,
            # and would have to wait for the commit that it rides with.
            self._log.note([spool.Amend(message_id, encode_state(state)), *reports])

    def note_at_once(self, message_id: int, state: State) -> bool:
        with _translated():
            return self._log.note([spool.Amend(message_id, encode_state(state))])

    def note(self, message_id: int, state: State) -> None:
        """One write for all who are ready in the same turn of the loop, by the first of them to
        have his next one."""
        record = _new(spool.Amend, (message_id, encode_state(state)))
        with self._lock:
            notes = self._notes
            notes.records.append(record)
        time.sleep(0)
        with self._lock:
            writes = notes is self._notes
            if writes:
                self._notes = _Notes(self._log.new_event())
        try:
            if writes:
                notes.write(self._log)
            else:
                notes.wait()
        except (spool.SpoolError, OSError) as error:
            raise StoreFailed(f"not noted: {error}") from error

    def flush(self) -> None:
        with _translated():
            self._log.sync()

    def close(self) -> None:
        self._log.close()

    def _write(self, batch: list[spool.Record], wait: bool) -> None:
        # Not _translated(): a context manager takes six calls, for each message twice.
        try:
            self._log.write(batch, wait)
        except (spool.SpoolError, OSError) as error:
            raise _translation(error) from error


def open_spool(directory: str | os.PathLike[str], **options: Any) -> spool.Spool:
    """The spool in `directory`; `options` are Spool's.  Raises StoreFailed with the reason."""
    with _translated():
        return spool.Spool(directory, key_name=message_name, **options)


def remove_spool(directory: str | os.PathLike[str]) -> str:
    """Take away the spool in `directory`, where nothing is left in it.  → "" when it is gone, else
    what it is kept for, in words.  Raises StoreFailed."""
    with _translated():
        return spool.remove_if_empty(directory)


@contextmanager
def _translated(message_id: int = 0) -> Iterator[None]:
    try:
        yield
    except KeyError:
        raise StoreFailed(f"message {message_name(message_id)} is gone") from None
    except (spool.SpoolError, OSError) as error:
        raise _translation(error) from error


def _translation(error: spool.SpoolError | OSError) -> StoreFull | StoreFailed:
    """The gateway's word for it."""
    if isinstance(error, spool.SpoolFull):
        return StoreFull(str(error))
    if isinstance(error, spool.CorruptFrame) and not _may_pass(error.__cause__):
        return StoreDamaged(str(error))
    return StoreFailed(str(error))


def _may_pass(cause: BaseException | None) -> bool:
    """Whether the disk did not answer: what it has of the message may be whole all the same.
    A file that is not there will not come back."""
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)


def _decoded(batch: Iterable[tuple[int, bytes]]) -> list[tuple[int, State]]:
    """One that makes no sense is left in the log, and must not keep the others from loading."""
    found = []
    for key, packed in batch:
        try:
            found.append((key, decode_state(packed)))
        except StoreDamaged as error:
            logger.error("message %s is not loaded: %s", message_name(key), error)
    return found


def _put(new: NewMessage) -> spool.Put:
    head, state = encode_message(new.message), encode_state(new.state)
    return _new(spool.Put, (new.message.id, state, head, new.content, new.pieces))
