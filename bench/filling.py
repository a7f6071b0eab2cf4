"""A spool full of waiting mail, made by the Queue itself, many messages to a sync."""

import threading
from collections.abc import Callable, Iterator
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
    log = open_spool(directory, **for_greenlets())
    stop = threading.Event()
    upkeep = gevent.spawn(log.run, stop)
    # Jitter of the whole delay: due at any moment from now to twice the delay.
    retry = RetryPolicy(delays_s=(_SPREAD_S,), jitter=1.0)
    queue = Queue(SpoolStore(log), retry=retry, resident_bytes=_AT_ONCE * 2 * size_bytes)
    recipients = _recipients(messages, destinations, alive)
    content = text_content(size_bytes)
    try:
        for start in range(0, messages, _AT_ONCE):
            count = min(_AT_ONCE, messages - start)
            _accept(queue, content, [next(recipients) for _ in range(count)])
            if not due_now:
                _put_off(queue)
            advance(count)
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


def _accept(queue: Queue, content: bytes, recipients: list[str]) -> None:
    waiting = iter(recipients)

    def write() -> None:
        for recipient in waiting:
            queue.add_message(Envelope("s@source.example", (Recipient(recipient),)), content)

    gevent.joinall([gevent.spawn(write) for _ in range(_WRITERS)], raise_error=True)


def _put_off(queue: Queue) -> None:
    """One attempt that reached nobody, but for EARLY's and LATE's: they stay as they came."""
    down = of_ours(CONNECT, Reply(421, "4.4.1", "connection refused"))
    for delivery in queue.get_waiting(_AT_ONCE):
        if delivery.destination not in (EARLY, LATE):
            queue.settle(delivery, dict.fromkeys(delivery.recipients, down))
