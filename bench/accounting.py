"""What became of every recipient: sent, arrivals and events in, one Account out.

Pure.  The sink's word counts: a recipient is delivered when the sink has its message once,
byte for byte, and bounced when the sink has a DSN that names it.  The gateway's events say
only whether it had to wait for a retry (its own, or that of a host found down: downtime.py),
and must not contradict the sink.
"""

import email
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from email.message import Message
from typing import Any, NamedTuple, cast

from gwrelay_bench.downtime import Downtimes
from gwrelay_bench.sinksession import Arrival
from gwrelay_bench.submission import Submission

#: (reverse-path, recipient): what stands for one recipient of one message.
Key = tuple[str, str]


class Sent(NamedTuple):
    """A submission the gateway answered 250 at `answered_at` (Unix seconds)."""

    submission: Submission
    answered_at: float


class Problem(NamedTuple):
    """Something that must not be.  Contents are there when it is about a body."""

    reverse_path: str
    recipient: str
    what: str
    expected: bytes | None = None
    arrived: bytes | None = None

    def __str__(self) -> str:
        return f"<{self.reverse_path}> to <{self.recipient}>: {self.what}"


class Account(NamedTuple):
    """The figures, and every reason not to believe in them."""

    messages: int
    recipients: int
    at_once: int
    retried: int
    bounced: int
    #: DSNs that arrived.
    reports: int
    #: Seconds from 250 to arrival, of the recipients delivered at once, and of the others.
    #: 0 where the sink was faster than the client was to read its 250.
    at_once_s: tuple[float, ...]
    retried_s: tuple[float, ...]
    problems: tuple[Problem, ...]


class Evidence(NamedTuple):
    """Arrivals and events, sorted by recipient."""

    deliveries: Mapping[Key, Sequence[Arrival]]
    #: How many DSNs name this recipient as failed.
    reports: Counter[Key]
    #: How many events of this name the recipient has.
    events: Counter[tuple[str, Key]]


def account(
    sent: Sequence[Sent],
    arrivals: Iterable[Arrival],
    events: Sequence[Mapping[str, Any]],
    refused: Set[str] = frozenset(),
) -> Account:
    """Account for every recipient of `sent`; `refused` are those their exchange turns away.

    (reverse-path, recipient) must be unique over all of `sent`, and no reverse-path but the
    null one may be used twice; ValueError otherwise.  The arrivals need their content.
    """
    letters = _by_key(sent)
    evidence, report_count, problems = _sort(letters, arrivals, events)
    downtimes = Downtimes(events)
    for letter in sent:
        problems += _bodies(letter, evidence)
    at_once: list[float] = []
    retried: list[float] = []
    bounced = 0
    for key, letter in letters.items():
        complaint = _complaint(key, evidence, key[1] in refused)
        if complaint is not None:
            problems.append(Problem(*key, complaint))
        elif key not in evidence.deliveries:
            bounced += 1
        else:
            arrived_at = evidence.deliveries[key][0].at
            waited = evidence.events["deferred", key] or downtimes.waited(
                key[1], letter.answered_at, arrived_at
            )
            seconds = max(0.0, arrived_at - letter.answered_at)
            (retried if waited else at_once).append(seconds)
    return Account(
        len(sent),
        len(letters),
        len(at_once),
        len(retried),
        bounced,
        report_count,
        tuple(at_once),
        tuple(retried),
        tuple(problems),
    )


def awaited(submissions: Iterable[Submission], refused: Set[str] = frozenset()) -> set[Key]:
    """The (reverse-path, recipient) of every arrival they lead to, DSNs among them."""
    keys: set[Key] = set()
    for path, recipients, _ in submissions:
        keys |= {(path, recipient) for recipient in recipients if recipient not in refused}
        if path and not refused.isdisjoint(recipients):
            keys.add(("", path))
    return keys


def body_difference(sent: bytes, arrived: bytes) -> str | None:
    """How `arrived` is more or less than `sent` under one Received field; None if it is not."""
    if not arrived.endswith(sent):
        return f"body altered: {len(sent)} bytes sent, {len(arrived)} arrived"
    added = arrived[: len(arrived) - len(sent)]
    if not added.startswith(b"Received:") or not added.endswith(b"\r\n"):
        return f"no Received field on top, but {added[:60]!r}"
    if any(line[:1] not in (b" ", b"\t") for line in added[:-2].split(b"\r\n")[1:]):
        return "more than one field on top"
    return None


def failed_recipients(report: bytes) -> list[str]:
    """The final recipients a DSN (RFC 3464) says have failed; [] when it is no DSN."""
    message = email.message_from_bytes(report)
    if message.get_content_type() != "multipart/report":
        return []
    blocks = [
        block
        for part in message.walk()
        if part.get_content_type() == "message/delivery-status" and part.is_multipart()
        for block in cast(list[Message], part.get_payload())
    ]
    return [
        str(block["Final-Recipient"]).partition(";")[2].strip()
        for block in blocks
        if str(block["Action"]).strip().lower() == "failed"
    ]


def _by_key(sent: Iterable[Sent]) -> dict[Key, Sent]:
    letters: dict[Key, Sent] = {}
    paths: Counter[str] = Counter()
    for letter in sent:
        path = letter.submission.reverse_path
        paths[path] += 1
        for recipient in letter.submission.recipients:
            if (path, recipient) in letters or (path and paths[path] > 1):
                raise ValueError(f"<{path}> to <{recipient}> cannot be told from another")
            letters[path, recipient] = letter
    return letters


def _sort(
    letters: Mapping[Key, Sent], arrivals: Iterable[Arrival], events: Iterable[Mapping[str, Any]]
) -> tuple[Evidence, int, list[Problem]]:
    """The evidence, how many DSNs there are, and what belongs to nothing that was sent."""
    paths = {path for path, _ in letters}
    deliveries: dict[Key, list[Arrival]] = defaultdict(list)
    reports: Counter[Key] = Counter()
    report_count = 0
    problems = []
    for arrival in arrivals:
        for recipient in arrival.recipients:
            key = (arrival.reverse_path, recipient)
            if key in letters:
                deliveries[key].append(arrival)
            elif arrival.reverse_path == "" and recipient in paths:
                report_count += 1
                failed = failed_recipients(arrival.content or b"")
                reports.update((recipient, name) for name in failed)
                problems += _foreign(letters, recipient, failed)
            else:
                problems.append(Problem(*key, "arrived, but nobody sent it"))
    return Evidence(deliveries, reports, _event_counts(events, paths)), report_count, problems


def _foreign(letters: Mapping[Key, Sent], path: str, failed: Sequence[str]) -> list[Problem]:
    if not failed:
        return [Problem("", path, "arrived, but is no DSN with a failed recipient")]
    names = [name for name in failed if (path, name) not in letters]
    return [Problem("", path, f"DSN about {name}, whom it was not sent to") for name in names]


def _event_counts(events: Iterable[Mapping[str, Any]], paths: Set[str]) -> Counter[tuple[str, Key]]:
    named = (e for e in events if "recipient" in e and e.get("reverse_path") in paths)
    return Counter((e["event"], (e["reverse_path"], e["recipient"])) for e in named)


def _bodies(letter: Sent, evidence: Evidence) -> list[Problem]:
    """What is wrong with the bodies of one message; each arrival is looked at once."""
    path, recipients, content = letter.submission
    problems = []
    seen: set[int] = set()
    for recipient in recipients:
        for arrival in evidence.deliveries.get((path, recipient), ()):
            if id(arrival) in seen:
                continue
            seen.add(id(arrival))
            difference = body_difference(content, arrival.content or b"")
            if difference is not None:
                problems.append(Problem(path, recipient, difference, content, arrival.content))
    return problems


def _complaint(key: Key, evidence: Evidence, refused: bool) -> str | None:
    """Why the recipient is not accounted for, or None when it is."""
    arrived = len(evidence.deliveries.get(key, ()))
    reports = evidence.reports[key]
    events = evidence.events
    bounced = events["bounced", key] + events["expired", key]
    if arrived > 1:
        return f"delivered {arrived} times"
    if arrived:
        if reports:
            return "delivered, and reported as failed"
        return None if events["delivered", key] == 1 else "delivered, but the events do not say so"
    if not (reports or bounced):
        return "never arrived, never bounced"
    if not refused:
        return "bounced, although its host takes it"
    if key[0] and not reports:
        return "bounced, but its DSN never arrived"
    if reports > 1:
        return f"reported as failed {reports} times"
    return None if bounced == 1 else "bounced, but the events do not say so"
