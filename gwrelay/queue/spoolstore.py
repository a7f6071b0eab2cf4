"""The Store on the spool log.  The only file that imports it.

A message is one key: its Message is the record's head, its content the body, and the
State is what the spool amends.  The spool's errors become the gateway's here.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import spool
from gwrelay.errors import StoreFailed, StoreFull
from gwrelay.message.envelope import Message, message_name
from gwrelay.queue.store import (
    NewMessage,
    State,
    decode_message,
    decode_state,
    encode_message,
    encode_state,
)


class SpoolStore:
    def __init__(self, log: spool.Spool) -> None:
        self._log = log

    def next_id(self) -> int:
        return self._log.new_key()

    def add_piece(self, message_id: int, number: int, piece: bytes) -> None:
        self._write([spool.Chunk(message_id, number, piece)], wait=False)

    def discard(self, message_id: int) -> None:
        self._write([spool.Drop(message_id)], wait=False)

    def accept(self, new: NewMessage) -> None:
        self._write([_put(new)], wait=True)

    def claim(self) -> Iterator[tuple[int, State]]:
        for key, packed in self._log.items():
            yield key, decode_state(packed)

    def message(self, message_id: int) -> Message:
        with _translated(message_id):
            return decode_message(self._log.head(message_id))

    def content(self, message_id: int) -> Iterator[bytes]:
        with _translated(message_id):
            yield from self._log.body(message_id)

    def settle(self, message_id: int, state: State | None, report: NewMessage | None) -> None:
        change: spool.Record
        if state is None:
            change = spool.Drop(message_id)
        else:
            change = spool.Amend(message_id, encode_state(state))
        self._write([change] if report is None else [change, _put(report)], wait=False)

    def flush(self) -> None:
        with _translated():
            self._log.sync()

    def close(self) -> None:
        self._log.close()

    def _write(self, batch: list[spool.Record], wait: bool) -> None:
        with _translated():
            self._log.write(batch, wait)


def open_spool(directory: str | os.PathLike[str], **options: Any) -> spool.Spool:
    """The spool in `directory`; `options` are Spool's.  Raises StoreFailed with the reason."""
    with _translated():
        return spool.Spool(directory, **options)


@contextmanager
def _translated(message_id: int = 0) -> Iterator[None]:
    try:
        yield
    except KeyError:
        raise StoreFailed(f"message {message_name(message_id)} is gone") from None
    except spool.SpoolFull as error:
        raise StoreFull(str(error)) from error
    except (spool.SpoolError, OSError) as error:
        raise StoreFailed(str(error)) from error


def _put(new: NewMessage) -> spool.Put:
    head, state = encode_message(new.message), encode_state(new.state)
    return spool.Put(new.message.id, state, head, new.content, new.pieces)
