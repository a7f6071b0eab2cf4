"""What the commands about the queue tell, as JSON has it: the same of a running gateway and of a
spool at rest.  Pure.  Times are Unix seconds; ids are as people see them.
"""

from collections.abc import Iterable
from typing import Any

from gwrelay.admin.lastwords import Attempt
from gwrelay.message.envelope import Envelope, Message, message_name
from gwrelay.queue.standing import HELD, RELAYING, WAITING, Part

Record = dict[str, Any]


def part_record(part: Part, why: str = "", due_at: float | None = None) -> Record:
    """One line of a list.  `why` it is not delivered yet; `due_at` where that is later than the
    log says."""
    due = part.open.due_at if due_at is None else max(due_at, part.open.due_at)
    return {
        "id": message_name(part.message_id),
        "part": part.open.recipients[0],
        "state": part.word,
        "destination": part.open.destination,
        "recipients": len(part.open.recipients),
        "arrived_at": part.arrived_at,
        "attempts": part.open.attempts,
        "due_at": due if part.word == WAITING else None,
        "in_doubt": part.open.doubt is not None,
        "why": part.open.held if part.word == HELD else why,
    }


def full_record(part: Part, envelope: Envelope | None, last: Attempt | None) -> Record:
    """All that is known of one part.  `recipients` are addresses, where the envelope tells."""
    doubt = part.open.doubt
    return part_record(part) | {
        "recipients": addresses(part, envelope),
        "warned": part.open.warned,
        "doubt": None if doubt is None else {**doubt.host._asdict(), "since": doubt.since},
        "last_attempt": None if last is None else _attempt(last),
    }


def addresses(part: Part, envelope: Envelope | None) -> list[str]:
    """Of those that are open; by their numbers where the envelope cannot be read."""
    if envelope is None:
        return [f"number {n}" for n in part.open.recipients]
    return [envelope.recipients[n].address for n in part.open.recipients]


def message_record(message_id: int, parts: Iterable[Part], message: Message | None) -> Record:
    """The message itself, without its parts.  `message` None: it cannot be read."""
    first = next(iter(parts))
    record: Record = {
        "id": message_name(message_id),
        "arrived_at": first.arrived_at,
        "is_bounce": first.is_bounce,
        "size_bytes": None,
        "envelope": None,
    }
    if message is not None:
        envelope = message.envelope
        recipients = [recipient._asdict() for recipient in envelope.recipients]
        record["size_bytes"] = message.size_bytes
        record["envelope"] = {**envelope._asdict(), "recipients": recipients}
    return record


def _attempt(last: Attempt) -> Record:
    said = [one._asdict() for one in last.said]
    return {"number": last.number, "ended_at": last.ended_at, "said": said}


class Tally:
    """What waits for each destination."""

    def __init__(self) -> None:
        self._by_destination: dict[str, Record] = {}

    def add(self, part: Part) -> None:
        destination = part.open.destination
        record = self._by_destination.get(destination)
        if record is None:
            record = self._by_destination[destination] = {
                "destination": destination,
                **dict.fromkeys(("deliveries", "recipients", WAITING, RELAYING, HELD), 0),
                "oldest_at": part.arrived_at,
                "next_due_at": None,
            }
        record["deliveries"] += 1
        record["recipients"] += len(part.open.recipients)
        record[part.word] += 1
        record["oldest_at"] = min(record["oldest_at"], part.arrived_at)
        if part.word == WAITING:
            known = record["next_due_at"]
            due_at = part.open.due_at
            record["next_due_at"] = due_at if known is None else min(known, due_at)

    def of(self, destination: str) -> Record | None:
        return self._by_destination.get(destination)

    def records(self) -> Iterable[Record]:
        return self._by_destination.values()
