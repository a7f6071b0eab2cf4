"""What the control socket does about the queue: handlers over a running gateway's.

queuetools.py prints what these return; queueverbs.py has those that change something.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from gwrelay.admin.lastwords import LastWords
from gwrelay.admin.queueitems import Record, Tally, full_record, message_record, part_record
from gwrelay.admin.queuewalk import paced, selection, walk
from gwrelay.admin.server import Handler
from gwrelay.errors import CommandFailed, StoreFailed
from gwrelay.message.envelope import Message, message_name
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.standing import Part
from gwrelay.relay.explained import RETRY, Explainer

#: Bytes of content in one line of the answer.
_PIECE_BYTES = 48 * 1024


def queue_handlers(
    queue: Queue, explainer: Explainer, last_words: LastWords
) -> Mapping[str, Handler]:
    """The commands by name."""

    def listed(words: list[str], limit: int | None = None) -> Iterator[Record | None]:
        """One item for each part, at most `limit`, oldest message first."""
        left = limit
        for found in walk(queue, selection(words)):
            if found is None:
                yield None
                continue
            for part in found.parts:
                if left == 0:
                    return
                left = None if left is None else left - 1
                yield _listed(part, explainer, last_words)

    def summary(words: list[str]) -> Iterator[Record | None]:
        """One item for each destination, in no order."""
        tally = Tally()
        for found in walk(queue, selection(words)):
            if found is None:
                yield None
                continue
            for part in found.parts:
                tally.add(part)
        yield from paced(tally.records())

    def show(message: str) -> dict[str, Any]:
        """A message and its parts."""
        parts = the_parts(queue, message)
        whole = readable(queue, parts[0].message_id)
        envelope = whole.envelope if whole else None
        records = []
        for part in parts:
            last = last_words.of(part.message_id, part.open.recipients[0])
            why = explainer.blocker(part)
            records.append(full_record(part, envelope, last) | {"why": why.text})
        return message_record(parts[0].message_id, parts, whole) | {"parts": records}

    def cat(message: str) -> Iterator[bytes | None]:
        """The content, and nothing of one that is damaged."""
        message_id = the_parts(queue, message)[0].message_id
        try:
            for _ in paced(queue.get_content(message_id)):
                pass  # once through, for nothing is to be told of what is damaged
            for piece in paced(queue.get_content(message_id)):
                for at in range(0, len(piece or b""), _PIECE_BYTES):
                    yield (piece or b"")[at : at + _PIECE_BYTES]
        except StoreFailed as error:
            raise CommandFailed(1, str(error)) from error

    return {"queue list": listed, "queue summary": summary, "queue show": show, "queue cat": cat}


def the_parts(queue: Queue, name: str) -> list[Part]:
    """What is open of the message of this id.  Raises CommandFailed when nothing is."""
    wanted = selection([name])
    parts = queue.parts(wanted.ids[0]) if wanted.ids else []
    if not parts:
        loading = "" if queue.is_loaded else ", or not loaded from the spool yet"
        raise CommandFailed(
            1,
            f"message {message_name(wanted.ids[0]) if wanted.ids else name} is not in the queue: "
            f"delivered, bounced or deleted{loading}; the events say more",
        )
    return parts


def readable(queue: Queue, message_id: int) -> Message | None:
    """None for one that is damaged: its state is told all the same."""
    try:
        return queue.get_message(message_id)
    except StoreFailed:
        return None


def _listed(part: Part, explainer: Explainer, last_words: LastWords) -> Record:
    blocker = explainer.blocker(part)
    why = blocker.text
    if blocker.kind == RETRY:
        last = last_words.of(part.message_id, part.open.recipients[0])
        if last is not None and last.said:
            why = str(last.said[0])
    return part_record(part, why, blocker.until)
