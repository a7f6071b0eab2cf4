"""What happened to mail, one JSON object a line, for machines to read.

Lines gather in memory and are written every moment (see FLUSH_S) by run(): no disk call for
each delivery.  A file that cannot be written costs the events, never the mail.  Workers write to
the same file in turns, each to the end of a line.
"""

import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from gwrelay.message.envelope import Message, message_name
from gwrelay.message.outcome import Kind, Outcome
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.mailqueue import Settled
from gwrelay.queue.store import Open

logger = logging.getLogger(__name__)

#: Seconds an event may wait in memory.
FLUSH_S = 0.1
#: Bytes kept for a file that cannot be written; beyond it events are dropped, and counted.
_HELD_BYTES = 16 * 1024 * 1024
#: Seconds in which the last events are written, if another worker is at it.
_CLOSE_S, _TRY_EVERY_S = 1.0, 0.01

Event = dict[str, Any]

#: The word for what has arrived, as far as anybody knows.
DELIVERED = Kind.DELIVERED.value


class EventLog:
    """Appends events to `path`; "" is a log that nobody wants."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._encoder = msgspec.json.Encoder()
        self._held = bytearray()
        self._dropped = 0
        self._fd = -1
        self._failing = False
        #: What we wrote last is no whole line: the file stays ours until the rest is there.
        self._is_torn = False
        self.reopen()

    def __bool__(self) -> bool:
        return bool(self._path)

    def write(self, event: Event) -> None:
        if len(self._held) > _HELD_BYTES:
            self._dropped += 1
            return
        self._held += self._encoder.encode(event) + b"\n"

    def reopen(self) -> None:
        """Go on in a new file after somebody renamed the old one."""
        if not self._path:
            return
        self.flush()
        self._close()
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        except OSError as error:
            self._complain(error)

    def flush(self) -> None:
        """Write what has gathered; what the file does not take, or while another worker is at it,
        is kept for the next time."""
        if not self._held:
            return
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            if not self._has_turn():
                return
            try:
                self._write_out()
            finally:
                if not self._is_torn:
                    self._end_turn()
        except OSError as error:
            self._complain(error)
            return
        if self._failing:
            logger.warning("events are written again; %d were dropped", self._dropped)
        self._failing = False
        self._dropped = 0

    def _has_turn(self) -> bool:
        if self._is_torn:
            return True
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Where files cannot be locked, one worker's lines may end up within another's.
            return error.errno != errno.EWOULDBLOCK
        return True

    def _end_turn(self) -> None:
        with suppress(OSError):  # as above
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _write_out(self) -> None:
        while self._held:
            count = os.write(self._fd, self._held)
            self._is_torn = not self._held.endswith(b"\n", 0, count)
            del self._held[:count]

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(FLUSH_S):
            self.flush()
        self.flush()

    def close(self) -> None:
        deadline = time.monotonic() + _CLOSE_S
        self.flush()
        while self._held and not self._failing and time.monotonic() < deadline:
            time.sleep(_TRY_EVERY_S)
            self.flush()
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._is_torn = False

    def _complain(self, error: OSError) -> None:
        if not self._failing:
            logger.error("events cannot be written to %s: %s", self._path, error)
        self._failing = True


def accepted(message: Message, client: str, tls: str = "", *, dsn_of: int = 0) -> Event:
    """`client` is the address it came from, "" for what we made ourselves; `tls` version and cipher
    that it came under."""
    event: Event = {
        "time": message.arrived_at,
        "event": "accepted",
        "id": message_name(message.id),
        "reverse_path": message.envelope.reverse_path,
        "recipients": [recipient.address for recipient in message.envelope.recipients],
        "size": message.size_bytes,
        "client": client,
        "tls": tls,
    }
    if dsn_of:
        event["dsn_of"] = message_name(dsn_of)
    return event


def reported(original: Message, report: Message, delayed: Collection[int]) -> Event:
    """Our own `report` about `original`; those recipients of it, by index, are told to be late."""
    event = accepted(report, "", dsn_of=original.id)
    if delayed:
        event["delayed"] = [original.envelope.recipients[n].address for n in delayed]
    return event


def words(told: Mapping[int, Outcome], settled: Settled) -> Iterator[str]:
    """What the event of each recipient of an attempt is."""
    remaining = settled.settlement.remaining
    stays = {n: part for part in remaining for n in part.recipients} if remaining else {}
    for n, verdict in told.items():
        yield _word(n, verdict, settled, stays.get(n))


def ended(
    delivery: Delivery,
    attempt: int,
    told: Mapping[int, Outcome],
    settled: Settled,
    now: float,
) -> Iterator[Event]:
    """One event for each recipient of an attempt, and one for the report it caused."""
    envelope = settled.message.envelope if settled.message else None
    stays = {n: part for part in settled.settlement.remaining for n in part.recipients}
    for n, verdict in told.items():
        event: Event = {
            "time": now,
            "event": _word(n, verdict, settled, stays.get(n)),
            "id": message_name(delivery.message_id),
            "reverse_path": envelope.reverse_path if envelope else "",
            "recipient": envelope.recipients[n].address if envelope else "",
            "size": settled.message.size_bytes if settled.message else 0,
            "destination": delivery.destination,
            "exchange": verdict.exchange,
            "address": verdict.address,
            "tls": verdict.tls,
            "stage": verdict.stage,
            "reply": str(verdict.reply),
            "attempt": attempt,
            "delay": round(now - delivery.arrived_at, 6),
        }
        if verdict.in_doubt:
            event["in_doubt"] = True
        if event["event"] == "held":
            event["reason"] = stays[n].held
        elif event["event"] == "deferred" and n in stays:
            event["due_at"] = stays[n].due_at
        yield event
    if settled.report is not None and settled.message is not None:
        yield reported(settled.message, settled.report, settled.warned)


def stuck(what: str, for_s: float, now: float) -> Event:
    """Something should have moved, and has not for so many seconds."""
    return {"time": now, "event": "stuck", "what": what, "since": now - for_s}


def _word(n: int, verdict: Outcome, settled: Settled, stays: Open | None) -> str:
    if stays is not None and stays.held:
        return "held"
    if n in settled.settlement.expired:
        return "expired"
    return "bounced" if verdict.kind is Kind.FAILED else verdict.kind.value
