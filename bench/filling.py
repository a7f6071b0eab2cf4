"""A spool full of waiting mail, made by the Queue itself, many messages to a sync."""

import threading
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import gevent

from gwrelay.message.envelope import Envelope, Recipient
from gwrelay.message.outcome import CONNECT, of_ours
from gwrelay.message.reply import Reply
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.spoolstore import SpoolStore, open_spool
from gwrelay.waiting import for_greenlets
from gwrelay_bench.source import text_content

#: Domains below it have an exchange, which is down.
DOWN = "down.example"
#: Those whose exchange takes mail, at the first start and at the second.
EARLY, LATE = "early.example", "late.example"
#: What waits is due, evenly, over twice this time from now on.
_SPREAD_S = 7200.0
_WRITERS = 256
_AT_ONCE = 2000


def _as_they_came(queue: Queue) -> None:
    """They are due at once."""


def fill(
    directory: Path,
    messages: int,
    *,
    destinations: int,
    size_bytes: int,
    alive: int,
    due_now: bool,
    advance: Callable[[int], None],
) -> None:
    """`messages` in the spool of a gateway's worker, of which `alive`, for EARLY and LATE in
    turn, are due at once.

    The others were tried once and found their exchange down, unless `due_now`: then they are
    as they came.
    """
    envelopes = (
        Envelope("s@source.example", (Recipient(recipient),))
        for recipient in _recipients(messages, destinations, alive)
    )
    fill_with(
        directory, envelopes, size_bytes=size_bytes, advance=advance,
        then=_as_they_came if due_now else _put_off,
    )  # fmt: skip


def fill_with(
    directory: Path,
    envelopes: Iterator[Envelope],
    *,
    size_bytes: int,
    advance: Callable[[int], None],
    then: Callable[[Queue], None] = _as_they_came,
) -> None:
    """A message with each of `envelopes`, in the spool of a gateway's worker; `then` is called
    when some of them are there, as often as that is so."""
    log = open_spool(directory, **for_greenlets())
    stop = threading.Event()
    upkeep = gevent.spawn(log.run, stop)
    # Jitter of the whole delay: due at any moment from now to twice the delay.
    retry = RetryPolicy(delays_s=(_SPREAD_S,), jitter=1.0)
    queue = Queue(SpoolStore(log), retry=retry, resident_bytes=_AT_ONCE * 2 * size_bytes)
    content = text_content(size_bytes)
    try:
        while some := list(islice(envelopes, _AT_ONCE)):
            _accept(queue, content, some)
            then(queue)
            advance(len(some))
    finally:
        stop.set()
        upkeep.get()
        queue.close()


def _recipients(messages: int, destinations: int, alive: int) -> Iterator[str]:
    """EARLY's and LATE's come evenly among the others."""
    for number in range(messages):
        passed = number * alive // messages
        if passed != (number + 1) * alive // messages:
            yield f"r{number}@{LATE if passed % 2 else EARLY}"
        else:
            yield f"r{number}@d{number % destinations}.{DOWN}"


def _accept(queue: Queue, content: bytes, envelopes: list[Envelope]) -> None:
    waiting = iter(envelopes)

    def write() -> None:
        for envelope in waiting:
            queue.add_message(envelope, content)

    gevent.joinall([gevent.spawn(write) for _ in range(_WRITERS)], raise_error=True)


def _put_off(queue: Queue) -> None:
    """One attempt that reached nobody, but for EARLY's and LATE's: they stay as they came."""
    down = of_ours(CONNECT, Reply(421, "4.4.1", "connection refused"))
    for delivery in queue.get_waiting(_AT_ONCE):
        if delivery.destination not in (EARLY, LATE):
            queue.settle(delivery, dict.fromkeys(delivery.recipients, down))
