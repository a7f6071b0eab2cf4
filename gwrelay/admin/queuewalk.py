"""Through the queue of a running gateway, in steps between which mail goes on."""

import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import TypeVar

from gwrelay.admin.selection import Found, Selection, read_selection
from gwrelay.errors import CommandFailed, ConfigError, StoreFailed
from gwrelay.message.envelope import Envelope
from gwrelay.queue.mailqueue import Queue

T = TypeVar("T")

#: Seconds of work in one go, and between: as loading.py, for less haste.
_SLICE_S, _PAUSE_S = 0.005, 0.001
#: Seconds after which those who wait for an answer hear that there is still none.
_TICK_S = 5.0


def selection(words: list[str]) -> Selection:
    """Raises CommandFailed."""
    try:
        return read_selection(words)
    except ConfigError as error:
        raise CommandFailed(error.exit_status, str(error)) from error


def walk(queue: Queue, wanted: Selection) -> Iterator[Found | None]:
    """The messages of which a part is meant, oldest first, and all that are asked for by id.

    None every few seconds: so far nothing, and whoever waits should not give up.
    """
    ids: Iterable[int] = wanted.ids or chain.from_iterable(queue.ids())
    for message_id in paced(ids):
        if message_id is None:
            yield None
            continue
        parts = queue.parts(message_id)
        if not parts and wanted.ids:
            yield Found(message_id, [])
        if parts := wanted.of(parts, partial(_envelope, queue, message_id)):
            yield Found(message_id, parts)


def paced(some: Iterable[T]) -> Iterator[T | None]:
    """`some`, with a pause whenever the one who asks has worked for a while."""
    began = told = time.monotonic()
    for one in some:
        yield one
        now = time.monotonic()
        if now > began + _SLICE_S:
            if now > told + _TICK_S:
                told = now
                yield None
            # Not 0: gevent looks at its sockets only when every greenlet waits for something.
            time.sleep(_PAUSE_S)
            began = time.monotonic()


def _envelope(queue: Queue, message_id: int) -> Envelope | None:
    """None when it is done meanwhile, or damaged: nobody knows what it says."""
    try:
        return queue.get_envelope(message_id)
    except StoreFailed:
        return None
