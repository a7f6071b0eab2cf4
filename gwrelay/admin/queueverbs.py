"""What the control socket changes in the queue: hold, release, retry, delete.

In steps, so that mail goes on meanwhile; what was done before a step that fails stays done.  A
delivery that is being relayed is left alone, and counted as busy.  So is, for retry, one that may
have been delivered, until its time has come: only who names its message has it tried before.
"""

from collections.abc import Callable, Iterator, Mapping

from gwrelay.admin.queueitems import Record
from gwrelay.admin.queuewalk import selection, walk
from gwrelay.admin.selection import Found
from gwrelay.admin.server import Handler
from gwrelay.errors import CommandFailed, StoreFailed
from gwrelay.message.envelope import message_name
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.orders import Obeyed
from gwrelay.queue.standing import HELD, RELAYING, WAITING, Part

#: The states that each verb is about.
_ABOUT = {
    "hold": (WAITING,),
    "release": (HELD,),
    "retry": (WAITING,),
    "delete": (WAITING, HELD),
}

#: Does it to these parts of a message.
_Order = Callable[[int, set[int]], Obeyed]

_BY_AN_OPERATOR = "by an operator"


def verb_handlers(queue: Queue) -> Mapping[str, Handler]:
    """The commands by name.  Each tells how far it is every few seconds; the last is the total."""
    orders = queue.orders

    def hold(
        words: list[str], everything: bool, dry_run: bool, reason: str = ""
    ) -> Iterator[Record]:
        why = reason or _BY_AN_OPERATOR

        def order(message_id: int, parts: set[int]) -> Obeyed:
            return orders.hold(message_id, why, parts)

        return _carry_out(queue, "hold", words, everything, dry_run, order)

    def release(words: list[str], everything: bool, dry_run: bool) -> Iterator[Record]:
        return _carry_out(queue, "release", words, everything, dry_run, orders.release)

    def retry(words: list[str], everything: bool, dry_run: bool) -> Iterator[Record]:
        return _carry_out(queue, "retry", words, everything, dry_run, orders.retry)

    def delete(words: list[str], everything: bool, dry_run: bool) -> Iterator[Record]:
        return _carry_out(queue, "delete", words, everything, dry_run, orders.drop)

    return {
        "queue hold": hold,
        "queue release": release,
        "queue retry": retry,
        "queue delete": delete,
    }


def _carry_out(
    queue: Queue, verb: str, words: list[str], everything: bool, dry_run: bool, order: _Order
) -> Iterator[Record]:
    """Raises CommandFailed when it makes no sense, or the disk fails."""
    if everything == bool(words):
        raise CommandFailed(2, f"queue {verb}: name ids or predicates, or ask for everything")
    total = _Total(verb, dry_run)
    wanted = selection(words)
    # Who names a message knows which one; of many it is not to be tried by the way.
    spares = verb == "retry" and not wanted.ids
    try:
        for found in walk(queue, wanted):
            if found is None:
                yield total.record()
                continue
            parts = [one for one in found.parts if not (spares and queue.is_left_in_doubt(one))]
            if dry_run:
                obeyed = _foreseen(parts, _ABOUT[verb])
            else:
                obeyed = order(found.message_id, {part.open.recipients[0] for part in parts})
            total.add(found, obeyed, in_doubt=len(found.parts) - len(parts))
        if not dry_run:
            queue.flush()
    except StoreFailed as error:
        raise CommandFailed(3, f"{error}; done so far: {total.deliveries} deliveries") from error
    yield total.record()


def _foreseen(parts: list[Part], about: tuple[str, ...]) -> Obeyed:
    return Obeyed(
        tuple(part.open for part in parts if part.word in about),
        sum(part.word == RELAYING and RELAYING not in about for part in parts),
    )


class _Total:
    def __init__(self, verb: str, dry_run: bool) -> None:
        self._verb, self._dry_run = verb, dry_run
        self.deliveries = 0
        self._messages = self._recipients = self._busy = self._held = self._in_doubt = 0
        self._absent: list[str] = []

    def add(self, found: Found, obeyed: Obeyed, in_doubt: int) -> None:
        if not found.parts:
            self._absent.append(message_name(found.message_id))
        self.deliveries += len(obeyed.parts)
        self._messages += bool(obeyed.parts)
        self._recipients += sum(len(part.recipients) for part in obeyed.parts)
        self._busy += obeyed.busy
        self._held += sum(part.word == HELD for part in found.parts)
        self._in_doubt += in_doubt

    def record(self) -> Record:
        """`busy` deliveries are being relayed; `held` ones were, before; those `in_doubt` were
        spared."""
        return {
            "verb": self._verb,
            "dry_run": self._dry_run,
            "deliveries": self.deliveries,
            "messages": self._messages,
            "recipients": self._recipients,
            "busy": self._busy,
            "held": self._held,
            "in_doubt": self._in_doubt,
            "absent": list(self._absent),
        }
