"""`gwrelay queue ...`: what waits, and what an operator does about it.

A running gateway's workers are asked (fleet.py), with queueadmin.py's and queueverbs.py's answers.
Where none runs, those commands that only look read the spool themselves.  Each prints, and
returns its exit status.
"""

import heapq
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import click
import msgspec

from gwrelay.admin.queueitems import Record, Tally, full_record, message_record, part_record
from gwrelay.admin.selection import Selection, read_selection
from gwrelay.commands import fleet, together
from gwrelay.commands.printing import at, count, plain, print_told, span
from gwrelay.commands.queueoffline import QueueAtRest
from gwrelay.errors import CommandFailed, ConfigError, NotRunning
from gwrelay.message.envelope import message_id, message_name
from gwrelay.queue.standing import HELD, RELAYING, WAITING

NO_MATCH_STATUS = 1

#: What each verb has done, and what it would do.
_DONE = {
    "hold": ("held", "would hold"),
    "release": ("released", "would release"),
    "retry": ("made due now", "would make due now"),
    "delete": ("deleted", "would delete"),
}


class Where(NamedTuple):
    """The gateway that is meant: its control socket, and its spool ("": not said)."""

    socket: str
    spool: str

    def at_rest(self, not_running: NotRunning) -> QueueAtRest:
        """What to read instead of asking, which is said.  Raises `not_running` when nobody knows
        where the spool is."""
        if not self.spool:
            raise not_running
        click.echo(f"gwrelay: no gateway runs; this is what {self.spool} holds", err=True)
        return QueueAtRest(self.spool)


# What waits.


def listed(where: Where, words: Sequence[str], limit: int | None, *, as_json: bool) -> int:
    """Print a line for each part.  NO_MATCH_STATUS when `words` match none."""
    read_selection(words)  # a mistake is to be told even where no gateway runs
    found = 0
    for record in _records(where, words, limit):
        if not found and not as_json:
            click.echo(_HEADING)
        found += 1
        click.echo(msgspec.json.encode(record).decode() if as_json else _line(record))
    return NO_MATCH_STATUS if words and not found else 0


def _records(where: Where, words: Sequence[str], limit: int | None) -> Iterator[Record]:
    wanted = read_selection(words)
    try:
        of_workers = fleet.stream_each(where.socket, "queue list", words=list(words), limit=limit)
        yield from islice(heapq.merge(*of_workers, key=_order(wanted)), limit)
    except NotRunning as error:
        with where.at_rest(error) as queue:
            parts = (part for found in queue.walk(wanted) for part in found.parts)
            for n, part in enumerate(parts):
                if n == limit:
                    return
                yield part_record(part)


def _order(wanted: Selection) -> Callable[[Record], Any]:
    """How each worker lists: as ids were given, or the oldest first."""
    if not wanted.ids:
        return lambda record: record["id"]
    places = {message_name(key): place for place, key in enumerate(wanted.ids)}
    return lambda record: places[record["id"]]


_HEADING = (
    f"{'ID':13}  {'STATE':8} {'RCPT':>5} {'TRIES':>5} {'AGE':>7} {'DUE':>7}  DESTINATION  WHY"
)


def _line(record: Record) -> str:
    now = time.time()
    due = "" if record["due_at"] is None else span(record["due_at"] - now)
    doubt = "in doubt; " if record["in_doubt"] and record["state"] != HELD else ""
    return (
        f"{record['id']}  {record['state']:8} {record['recipients']:>5} {record['attempts']:>5} "
        f"{span(now - record['arrived_at']):>7} {due:>7}  {plain(record['destination'])}  "
        f"{doubt}{plain(record['why'])}"
    ).rstrip()


def summary(where: Where, words: Sequence[str], limit: int | None, *, as_json: bool) -> int:
    """Print a line for each destination, those with most mail first."""
    read_selection(words)
    records = sorted(_tallied(where, words), key=lambda one: (-one["deliveries"], one["oldest_at"]))
    shown, rest = records[:limit], records[limit:] if limit is not None else []
    told = {
        "destinations": shown,
        "more_destinations": len(rest),
        "more_deliveries": sum(one["deliveries"] for one in rest),
    }
    print_told(told, _summary_lines(told), as_json=as_json)
    return NO_MATCH_STATUS if words and not records else 0


def _tallied(where: Where, words: Sequence[str]) -> Iterable[Record]:
    try:
        answers = fleet.ask_each(where.socket, "queue summary", words=list(words))
        return together.tallies(record for answer in answers for record in answer.items)
    except NotRunning as error:
        tally = Tally()
        with where.at_rest(error) as queue:
            for found in queue.walk(read_selection(words)):
                for part in found.parts:
                    tally.add(part)
        return tally.records()


def _summary_lines(told: Mapping[str, Any]) -> Iterator[str]:
    now = time.time()
    if told["destinations"]:
        yield (
            f"{'DELIVERIES':>10} {'WAITING':>8} {'RELAYING':>8} {'HELD':>8} {'OLDEST':>7} "
            f"{'DUE':>7}  DESTINATION"
        )
    for one in told["destinations"]:
        due = "" if one["next_due_at"] is None else span(one["next_due_at"] - now)
        yield (
            f"{one['deliveries']:>10} {one[WAITING]:>8} {one[RELAYING]:>8} {one[HELD]:>8} "
            f"{span(now - one['oldest_at']):>7} {due:>7}  {plain(one['destination'])}"
        )
    if told["more_destinations"]:
        yield (
            f"and {count(told['more_destinations'], 'destination')} more with "
            f"{count(told['more_deliveries'], 'delivery')}"
        )


# One message.


def show(where: Where, name: str, *, as_json: bool) -> int:
    """Print all that is known of a message."""
    _check_id(name)
    try:
        told = fleet.ask_one(where.socket, "queue show", name).result
    except NotRunning as error:
        with where.at_rest(error) as queue:
            told = shown_at_rest(queue, name)
    print_told(told, _show_lines(told), as_json=as_json)
    return 0


def shown_at_rest(queue: QueueAtRest, name: str) -> Record:
    """As "queue show" of a gateway.  Raises CommandFailed when it is not there."""
    key = message_id(name)
    parts = queue.parts(key)
    if not parts:
        raise CommandFailed(NO_MATCH_STATUS, f"message {name.lower()} is not in the spool")
    message = queue.message(key)
    envelope = message.envelope if message else None
    records = [full_record(part, envelope, None) for part in parts]
    return message_record(key, parts, message) | {"parts": records}


def _show_lines(told: Record) -> Iterator[str]:
    yield from message_lines(told)
    for part in told["parts"]:
        yield from part_lines(part)


def message_lines(told: Record) -> Iterator[str]:
    """The message, without its parts."""
    envelope = told["envelope"]
    age = span(time.time() - told["arrived_at"])
    yield f"message {told['id']}, arrived {at(told['arrived_at'])}, {age} ago"
    if envelope is None:
        yield "  its envelope is damaged"
        return
    yield f"  from <{plain(envelope['reverse_path'])}>, {told['size_bytes']} bytes"
    for recipient in envelope["recipients"]:
        notify = f"  NOTIFY={recipient['notify']}" if recipient["notify"] else ""
        yield f"  to <{plain(recipient['address'])}>{notify}"


def part_lines(part: Record) -> Iterator[str]:
    """One part: how it stands, for whom, what was said."""
    due_at = part["due_at"]
    due = "" if due_at is None else f", due {at(due_at)} ({_until(due_at)})"
    tries = count(part["attempts"], "attempt")
    yield f"{plain(part['destination'])}: {part['state']}, {tries}{due}"
    yield f"  for {', '.join(map(plain, part['recipients']))}"
    if part["why"]:
        yield f"  {plain(part['why'])}"
    if part["doubt"] is not None:
        doubt = part["doubt"]
        host = f"{doubt['exchange']}[{doubt['address']}]"
        yield f"  in doubt since {at(doubt['since'])}: {plain(host)} may have taken it"
    if part["warned"]:
        yield "  late; its sender was told so, unless it asked not to be"
    if part["last_attempt"] is not None:
        last = part["last_attempt"]
        yield f"  attempt {last['number']} ended {at(last['ended_at'])}"
        for said in last["said"]:
            who = f"{said['exchange']}[{said['address']}] said at" if said["exchange"] else "at"
            yield f"    {plain(who)} {said['stage']}: {plain(said['reply'])}"


def _until(due_at: float) -> str:
    left = due_at - time.time()
    return "now" if left <= 0 else f"in {span(left)}"


def cat(where: Where, name: str) -> int:
    """Print the content, byte for byte."""
    _check_id(name)
    out = sys.stdout.buffer
    try:
        for piece in fleet.stream_one(where.socket, "queue cat", name):
            out.write(msgspec.convert(piece, bytes))
    except NotRunning as error:
        with where.at_rest(error) as queue:
            for piece in queue.content(message_id(name)):
                out.write(piece)
    out.flush()
    return 0


def _check_id(name: str) -> None:
    if len(read_selection([name]).ids) != 1:
        raise ConfigError(f"{name!r}: one message is wanted; give its id")


# What changes something.


def carry_out(
    where: Where,
    verb: str,
    words: Sequence[str],
    *,
    everything: bool,
    dry_run: bool,
    as_json: bool,
    reason: str = "",
) -> int:
    """Have a gateway do `verb`.  NO_MATCH_STATUS when nothing was as it wants it, or an id is not
    there.  Raises NotRunning."""
    if everything == bool(words):
        raise ConfigError(f"queue {verb}: name ids or predicates, or give --all")
    read_selection(words)
    arguments: dict[str, Any] = {"words": list(words), "everything": everything}
    if verb == "hold":
        arguments["reason"] = reason
    answers = fleet.ask_each(where.socket, f"queue {verb}", dry_run=dry_run, **arguments)
    told = together.done([answer.items[-1] for answer in answers])
    print_told(told, _verb_lines(told), as_json=as_json)
    return 0 if told["deliveries"] and not told["absent"] else NO_MATCH_STATUS


def _verb_lines(told: Record) -> Iterator[str]:
    done = ", ".join(
        count(told[number], word)
        for number, word in (
            ("deliveries", "delivery"),
            ("messages", "message"),
            ("recipients", "recipient"),
        )
    )
    silence = "; nobody was told" if told["verb"] == "delete" and not told["dry_run"] else ""
    yield f"{_DONE[told['verb']][told['dry_run']]}: {done}{silence}"
    if told["busy"]:
        yield f"left alone: {count(told['busy'], 'delivery')} being relayed just now"
    if told["held"] and told["verb"] == "retry":
        held = count(told["held"], "delivery")
        yield f"left alone: {held} on hold; see gwrelay queue release"
    if told["in_doubt"]:
        in_doubt = count(told["in_doubt"], "delivery")
        yield f"left alone: {in_doubt} in doubt, for it may have arrived; its id has it tried"
    for name in told["absent"]:
        yield f"message {name} is not in the queue"
