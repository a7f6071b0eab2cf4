"""The queue of a gateway that does not run: what its log says, read and not changed.

All of the log is read, as by `gwrelay spool`.  Nothing is relayed, so each part waits or is
held.
"""

import heapq
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import spool
from gwrelay.admin.selection import Found, Selection
from gwrelay.errors import CommandFailed, ConfigError, StoreDamaged
from gwrelay.message.envelope import Envelope, Message, message_name
from gwrelay.queue.standing import HELD, WAITING, Part, in_order
from gwrelay.queue.store import decode_message, decode_state
from spool.audit import Audit


class QueueAtRest:
    """Of all workers in `directory`, which serve was given as --spool.  Use it with `with`."""

    def __init__(self, directory: str) -> None:
        """Raises ConfigError for what is no spool, or cannot be read."""
        self._opened = ExitStack()
        self._audits: list[Audit] = []
        with ExitStack() as opened:
            for path in worker_directories(directory):
                self._audits.append(opened.enter_context(_audit(path)))
            self._opened = opened.pop_all()

    def __enter__(self) -> "QueueAtRest":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._opened.close()

    def walk(self, wanted: Selection) -> Iterator[Found]:
        """As queuewalk.walk()."""
        if wanted.ids:
            ids: Iterator[int] = iter(wanted.ids)
        else:
            # A key is the time it was made: oldest first, whichever worker has it.
            ids = heapq.merge(*(audit.keys() for audit in self._audits))
        for message_id in ids:
            parts = self.parts(message_id)
            if not parts and wanted.ids:
                yield Found(message_id, [])
            if parts := wanted.of(parts, partial(self._envelope, message_id)):
                yield Found(message_id, parts)

    def parts(self, message_id: int) -> list[Part]:
        """What is open of a message; nothing when it is not there, or its state is damaged."""
        audit = self._audit_of(message_id)
        try:
            state = None if audit is None else decode_state(audit.state(message_id))
        except (KeyError, StoreDamaged):
            state = None
        if state is None:
            return []
        return [
            Part(
                message_id,
                HELD if part.held else WAITING,
                part,
                state.arrived_at,
                state.is_bounce,
                None,
            )
            for part in in_order(state)
        ]

    def message(self, message_id: int) -> Message | None:
        """None for one that is damaged, or not there."""
        audit = self._audit_of(message_id)
        try:
            return None if audit is None else decode_message(audit.head(message_id))
        except (KeyError, spool.CorruptFrame, StoreDamaged):
            return None

    def _envelope(self, message_id: int) -> Envelope | None:
        message = self.message(message_id)
        return None if message is None else message.envelope

    def content(self, message_id: int) -> Iterator[bytes]:
        """In pieces, and nothing of one that is damaged.  Raises CommandFailed."""
        audit = self._audit_of(message_id)
        if audit is None:
            raise CommandFailed(1, f"message {message_name(message_id)} is not in the spool")
        try:
            for _ in audit.body(message_id):
                pass  # once through, for nothing is to be told of what is damaged
            yield from audit.body(message_id)
        except (KeyError, spool.CorruptFrame) as error:
            name = message_name(message_id)
            raise CommandFailed(1, f"message {name} is damaged: {error}") from error

    def _audit_of(self, message_id: int) -> Audit | None:
        return next((audit for audit in self._audits if message_id in audit), None)


def worker_directories(directory: str) -> list[Path]:
    """Each worker's spool in `directory`, or it alone if it is a spool itself."""
    top = Path(directory)
    try:
        names = [path.name for path in top.iterdir()]
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--spool {directory}: {reason}; name serve's --spool") from None
    found = [name for name in names if name.startswith("worker-") and (top / name).is_dir()]
    # One that was never written to has its lock alone; the directory of them all has one too.
    if any(name.endswith(".segment") or (name == "lock" and not found) for name in names):
        return [top.absolute()]
    if not found:
        raise ConfigError(f"--spool {directory}: no spool, it holds no worker-0")
    return [top / name for name in sorted(found, key=lambda name: (len(name), name))]


def _audit(path: Path) -> Audit:
    try:
        return Audit(path)
    except (OSError, spool.SpoolError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--spool: cannot read {path}: {reason}") from error
