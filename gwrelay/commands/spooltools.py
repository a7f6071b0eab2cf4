"""`gwrelay spool ...`: what the log says of itself, read beside a running gateway or without one.

spool.audit reads, and here its keys become messages and its findings lines or JSON.  Nothing is
written but by `repair`, which must have the spool to itself.  Each command takes the directory
that `serve` was given, and goes through every worker's; it prints and returns its exit status.
"""

import heapq
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import Progress

import spool
from gwrelay.commands.queueoffline import worker_directories
from gwrelay.errors import ConfigError, GatewayError, StoreDamaged, StoreFailed
from gwrelay.message.envelope import message_id, message_name
from gwrelay.queue.spoolstore import SpoolStore, open_spool
from gwrelay.queue.store import Open, decode_message, decode_state
from spool.audit import Audit, Finding, SegmentCount, disk_bytes, holder_of
from spool.quarantine import set_aside

#: Somebody has the spool.
REFUSED_STATUS = 3

#: Less than this is read before a progress bar could be.
_LONG_BYTES = 64 * 1024 * 1024
#: Of a message that only the checkpoint tells of.
_NO_RECORD = "its record is damaged or lost"
#: A message that misses pieces, with their numbers.
_Missing = tuple[int, list[int]]
#: Takes what was done of one worker's spool.
_Tell = Callable[[dict[str, Any]], None]


def stat(directory: str, *, as_json: bool) -> int:
    """Say what is in the spool.  Always 0."""
    found = []
    for path in worker_directories(directory):
        with _audit(path) as audit:
            found.append(_counts(path.name, audit))
    if as_json:
        _print_json({"spool": directory, "workers": found})
    else:
        for worker in found:
            click.echo("\n".join(_counts_lines(worker)))
    return 0


def verify(directory: str, *, as_json: bool) -> int:
    """Say what is lost or damaged.  0 when nothing is, else 1."""
    found = []
    for path in worker_directories(directory):
        with _audit(path) as audit:
            found.append(_verdict(path.name, audit))
    whole = all(worker["whole"] for worker in found)
    if as_json:
        _print_json({"spool": directory, "whole": whole, "workers": found})
    else:
        for worker in found:
            click.echo("\n".join(_verdict_lines(worker)))
    return 0 if whole else 1


def dump(directory: str, names: Sequence[str]) -> int:
    """Print messages as JSON lines: those named, or all, oldest first.  1 when one is damaged.

    Raises ConfigError for a name that is none, GatewayError naming those that are not there.
    """
    wanted = {_id_of(name) for name in names}
    absent, damaged = set(wanted), False
    with ExitStack() as opened:
        found = []
        for path in worker_directories(directory):
            audit = opened.enter_context(_audit(path))
            keys = audit.keys()
            some = keys if not wanted else [key for key in keys if key in wanted]
            found.append([(key, path.name, audit) for key in some])
        # Oldest first, whichever worker has it: a key is the time it was made.
        for key, worker, audit in heapq.merge(*found, key=lambda one: one[0]):
            absent.discard(key)
            described = _described(worker, audit, key)
            if described is not None:
                damaged |= described["damaged"] is not None
                _print_json(described)
    if absent:
        lines = (f"message {message_name(key)} is not in the spool" for key in sorted(absent))
        raise GatewayError("\n".join(lines))
    return 1 if damaged else 0


def dump_content(directory: str, name: str) -> int:
    """Print the content of one message, byte for byte.  Raises StoreFailed, with nothing printed,
    when it is not there or damaged."""
    key = _id_of(name)
    for path in worker_directories(directory):
        with _audit(path) as audit:
            if key in audit:
                _print_content(audit, key)
                return 0
    raise StoreFailed(f"message {message_name(key)} is not in the spool")


def repair(directory: str, *, dry_run: bool, as_json: bool) -> int:
    """Drop messages whose content is not whole, after setting aside what is left of them.

    0, also when there is nothing to do; REFUSED_STATUS, with nothing done, while somebody has
    one of the spools.  What was done before an error is told.
    """
    heading = {"spool": directory, "dry_run": dry_run}
    with _told(heading, lambda worker: _repair_lines(worker, dry_run), as_json) as told:
        return _each_alone(directory, lambda path: _repair(path, dry_run, told))


def _repair(path: Path, dry_run: bool, tell: _Tell) -> None:
    if dry_run:
        with _audit(path) as audit:
            tell(_repairs(path.name, audit))
        return
    with closing(SpoolStore(_opened(path))) as store, _audit(path) as audit:
        found = _repairs(path.name, audit)
        dropped: list[dict[str, Any]] = []
        try:
            for message in found["messages"]:
                _set_aside(path, audit, message)
                store.settle(message_id(message["id"]), None, None)
                store.flush()  # one by one: what is told is done, whatever fails next
                dropped.append(message)
        finally:
            if dropped or not found["messages"]:
                tell(found | {"messages": dropped})


def compact(directory: str, ratio: float, *, as_json: bool) -> int:
    """Compact every segment whose dead share is above `ratio`.  0; REFUSED_STATUS, with nothing
    done, while somebody has one of the spools.  What was done before an error is told."""
    with _told({"spool": directory}, _compacted_lines, as_json) as told:
        return _each_alone(directory, lambda path: told(_compacted(path, ratio)))


def _compacted(path: Path, ratio: float) -> dict[str, Any]:
    before = _disk_bytes(path)
    with closing(_opened(path, compact_ratio=ratio)) as log, _bar() as bar:
        line = bar.add_task(f"compacting {path.name}", total=before)

        def show() -> None:
            bar.update(line, completed=log.counters.compacted_read_bytes)

        segments = log.segments
        log.compact(show)
        counters = log.counters
        result = {
            "worker": path.name,
            "segments_before": segments,
            "segments": log.segments,
            "compacted_segments": counters.compacted_segments,
            "copied_bytes": counters.compacted_bytes,
            "living_bytes": log.living_bytes,
        }
    return result | {"disk_bytes_before": before, "disk_bytes": _disk_bytes(path)}


def _disk_bytes(path: Path) -> int:
    try:
        return disk_bytes(path)
    except OSError as error:
        raise ConfigError(f"--spool: cannot read {path}: {error.strerror}") from error


def _compacted_lines(worker: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{worker['worker']}: {worker['compacted_segments']} segments compacted, "
        f"{worker['copied_bytes']} bytes copied; {worker['segments']} segments and "
        f"{worker['disk_bytes']} bytes of the disk, {worker['segments_before']} and "
        f"{worker['disk_bytes_before']} before; {worker['living_bytes']} living bytes"
    )


def _bar() -> Progress:
    return Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


class _InUse(Exception):
    """Another process has the spool at `path`; `pid` is None when it could not be told."""

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(path)
        self._path = path
        self._pid = pid

    def status(self) -> int:
        """Say so.  → what the command exits with."""
        holder = "another process" if self._pid is None else f"process {self._pid}"
        click.echo(f"gwrelay: error: {self._path} is in use by {holder}; stop it first", err=True)
        return REFUSED_STATUS


def _each_alone(directory: str, work: Callable[[Path], None]) -> int:
    """`work` on each worker's spool.  0; REFUSED_STATUS, with nothing done, while somebody has one
    of them."""
    paths = worker_directories(directory)
    try:
        # A worker that is just being started again has let go of its own.
        for path in (Path(directory).absolute(), *paths):
            pid = holder_of(path)
            if pid is not None:
                raise _InUse(path, pid)
        for path in paths:
            work(path)
    except _InUse as refusal:
        return refusal.status()
    return 0


@contextmanager
def _told(
    heading: dict[str, Any], lines: Callable[[dict[str, Any]], Iterator[str]], as_json: bool
) -> Iterator[_Tell]:
    """To be called with what was done of each worker: printed at once as `lines`, or as one JSON
    object at the end, whatever that is."""
    done: list[dict[str, Any]] = []

    def tell(worker: dict[str, Any]) -> None:
        done.append(worker)
        if not as_json:
            click.echo("\n".join(lines(worker)))

    try:
        yield tell
    finally:
        if as_json and done:
            _print_json(heading | {"workers": done})


def _opened(path: Path, **options: Any) -> spool.Spool:
    """The spool, ours alone.  _InUse; ConfigError when it cannot be had."""
    try:
        return open_spool(path, **options)
    except StoreFailed as error:
        if isinstance(error.__cause__, spool.SpoolLocked):
            raise _InUse(path, error.__cause__.pid) from error
        raise ConfigError(f"--spool: cannot read {path}: {error}") from error


def _repairs(worker: str, audit: Audit) -> dict[str, Any]:
    keys = audit.keys()
    messages = []
    for key in (key for key in keys if _is_lost(audit, key)):
        described = _described(worker, audit, key)
        if described is not None:
            described["damaged"] = described["damaged"] or "; ".join(_held(audit, key))
            messages.append(described)
    return {"worker": worker, "messages": messages}


def _is_lost(audit: Audit, key: int) -> bool:
    """Whether the message can never be delivered whole.  Read is only what is held: to find
    what else fails its checksum is verify's work."""
    if audit.lacks_put(key) or audit.missing(key):
        return True
    if not _held(audit, key):
        return False
    try:
        decode_message(audit.head(key))
        for _ in audit.body(key):
            pass  # read for its checksum alone
    except (spool.CorruptFrame, StoreDamaged):
        return True
    except KeyError:
        return False  # gone while we were reading
    return False


def _held(audit: Audit, key: int) -> list[str]:
    """Why parts of the message are on hold, or will be when they are looked at; none for most."""
    try:
        parts = decode_state(audit.state(key)).open
    except (KeyError, StoreDamaged):
        parts = ()
    reasons = list(dict.fromkeys(part.held for part in parts if part.held))
    return reasons or [_NO_RECORD] * audit.lacks_put(key)


def _set_aside(path: Path, audit: Audit, message: dict[str, Any]) -> None:
    """On return all that is left of the message is durable elsewhere.  StoreFailed."""
    name = f"repair-{message['id']}"
    try:
        set_aside(path, f"{name}.content", audit.remains(message_id(message["id"])))
        set_aside(path, f"{name}.json", [msgspec.json.encode(message) + b"\n"])
    except (OSError, spool.SpoolError) as error:
        raise StoreFailed(f"message {message['id']} is kept: no report of it: {error}") from error


def _repair_lines(worker: dict[str, Any], dry_run: bool) -> Iterator[str]:
    name = worker["worker"]
    for message in worker["messages"]:
        verb = "would be dropped" if dry_run else "dropped"
        aside = "" if dry_run else f"; see quarantine/repair-{message['id']}.json and .content"
        yield f"{name}: message {message['id']} {verb}: {message['damaged']}{aside}"
    if not worker["messages"]:
        yield f"{name}: nothing to repair"


def _print_content(audit: Audit, key: int) -> None:
    try:
        for _ in audit.body(key):
            pass  # once through, for nothing is to be printed of what is damaged
        out = sys.stdout.buffer
        for piece in audit.body(key):
            out.write(piece)
        out.flush()
    except (KeyError, spool.CorruptFrame) as error:
        reason = "is gone" if isinstance(error, KeyError) else f"is damaged: {error}"
        raise StoreFailed(f"message {message_name(key)} {reason}") from None


def _id_of(name: str) -> int:
    try:
        return message_id(name)
    except ValueError:
        raise ConfigError(
            f"{name!r} is no message id; write 13 letters and digits, as the log and events do"
        ) from None


@contextmanager
def _audit(path: Path) -> Iterator[Audit]:
    """The worker's spool, read, with a progress bar on a terminal when that takes long."""
    with _bar() as bar:
        line = bar.add_task(f"reading {path.name}", visible=False)

        def show(done: int, total: int) -> None:
            bar.update(line, completed=done, total=total, visible=total >= _LONG_BYTES)

        try:
            audit = Audit(path, show)
        except (OSError, spool.SpoolError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"--spool: cannot read {path}: {reason}") from error
    with audit:
        yield audit


# What there is.


def _counts(worker: str, audit: Audit) -> dict[str, Any]:
    keys = audit.keys()
    return {
        "worker": worker,
        "in_use_by": audit.holder,
        "messages": len(keys),
        "living_bytes": audit.living_bytes,
        "disk_bytes": audit.disk_bytes,
        # A key is the time it was made, in microseconds.
        "oldest_at": keys[0] / 1e6 if keys else None,
        "newest_at": keys[-1] / 1e6 if keys else None,
        "findings": len(audit.findings),
        "segments": [_segment(segment) for segment in audit.segments()],
    }


def _segment(segment: SegmentCount) -> dict[str, Any]:
    return {**segment._asdict(), "dead_share": round(segment.dead_share, 4)}


def _counts_lines(worker: dict[str, Any]) -> Iterator[str]:
    name = worker["worker"]
    yield from _in_use(worker)
    yield (
        f"{name}: {worker['messages']} messages, {worker['living_bytes']} living bytes, "
        f"{worker['disk_bytes']} bytes of the disk"
    )
    if worker["messages"]:
        yield f"{name}: oldest {_time(worker['oldest_at'])}, newest {_time(worker['newest_at'])}"
    if worker["findings"]:
        yield f"{name}: something is damaged; see gwrelay spool verify"
    yield f"{'segment':>12} {'bytes':>12} {'used':>12} {'frames':>9} {'living':>12} {'dead':>5}"
    for segment in worker["segments"]:
        yield (
            f"{segment['number']:>12} {segment['size_bytes']:>12} {segment['used_bytes']:>12} "
            f"{segment['frames']:>9} {segment['living_bytes']:>12} {segment['dead_share']:>5.0%}"
        )


def _in_use(worker: dict[str, Any]) -> Iterator[str]:
    if worker["in_use_by"] is not None:
        yield f"{worker['worker']}: in use by process {worker['in_use_by']}"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# What is wrong.


def _verdict(worker: str, audit: Audit) -> dict[str, Any]:
    keys = audit.keys()
    incomplete = [(key, missing) for key in keys if (missing := audit.missing(key))]
    held = [(key, reasons) for key in keys if (reasons := _held(audit, key))]
    return {
        "worker": worker,
        "in_use_by": audit.holder,
        "whole": not audit.findings and not incomplete and not any(map(audit.lacks_put, keys)),
        "segments": len(audit.segments()),
        "frames": sum(segment.frames for segment in audit.segments()),
        "messages": len(keys),
        "lost_frames": sum(finding.frames for finding in audit.findings),
        "damaged_bytes": sum(finding.size for finding in audit.findings),
        "findings": [_finding(finding) for finding in audit.findings],
        "incomplete_messages": [_incomplete(one) for one in incomplete],
        "held_messages": [{"id": message_name(key), "reasons": why} for key, why in held],
        "quarantine": [{"name": name, "bytes": size} for name, size in audit.quarantined],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "what": finding.what,
        "segment": finding.segment,
        "offset": finding.offset,
        "bytes": finding.size,
        "lost_frames": finding.frames,
        "records": [{"record": kind, "id": message_name(key)} for kind, key in finding.named],
    }


def _incomplete(incomplete: _Missing) -> dict[str, Any]:
    return {"id": message_name(incomplete[0]), "missing_pieces": incomplete[1]}


def _verdict_lines(worker: dict[str, Any]) -> Iterator[str]:
    name = worker["worker"]
    yield from _in_use(worker)
    for finding in worker["findings"]:
        frames = f", at least {finding['lost_frames']} frames" if finding["lost_frames"] else ""
        records = ", ".join(f"{one['record']} {one['id']}" for one in finding["records"])
        yield (
            f"{name}: segment {finding['segment']} at {finding['offset']}: {finding['what']}, "
            f"{finding['bytes']} bytes{frames}{': ' if records else ''}{records}"
        )
    for message in worker["incomplete_messages"]:
        pieces = ", ".join(map(str, message["missing_pieces"]))
        yield f"{name}: message {message['id']} misses parts of its content: {pieces}"
    for message in worker["held_messages"]:
        yield f"{name}: message {message['id']} is held: {'; '.join(message['reasons'])}"
    for kept in worker["quarantine"]:
        yield f"{name}: kept aside: quarantine/{kept['name']}, {kept['bytes']} bytes"
    yield (
        f"{name}: {'whole' if worker['whole'] else 'DAMAGED'}: {worker['segments']} segments, "
        f"{worker['frames']} frames, {worker['messages']} messages"
    )


# The messages.


def _described(worker: str, audit: Audit, key: int) -> dict[str, Any] | None:
    """None for one that went while we were reading."""
    described: dict[str, Any] = {"id": message_name(key), "worker": worker, "damaged": None}
    try:
        state = decode_state(audit.state(key))
        waits = {"is_bounce": state.is_bounce, "open": [_part(part) for part in state.open]}
    except KeyError:
        return None
    except StoreDamaged as error:
        return described | {"damaged": str(error)}
    try:
        if audit.lacks_put(key):
            return described | {"damaged": _NO_RECORD} | waits
        message = decode_message(audit.head(key))
    except KeyError:
        return None
    except (spool.CorruptFrame, StoreDamaged) as error:
        return described | {"damaged": str(error)} | waits
    missing = audit.missing(key)
    if missing:
        described["damaged"] = f"misses parts of its content: {', '.join(map(str, missing))}"
    recipients = [recipient._asdict() for recipient in message.envelope.recipients]
    return described | {
        "arrived_at": message.arrived_at,
        "size_bytes": message.size_bytes,
        "envelope": {**message.envelope._asdict(), "recipients": recipients},
        **waits,
    }


def _part(part: Open) -> dict[str, Any]:
    doubt = part.doubt
    told = None if doubt is None else {**doubt.host._asdict(), "since": doubt.since}
    return {**part._asdict(), "doubt": told}


def _print_json(value: dict[str, Any]) -> None:
    click.echo(msgspec.json.encode(value).decode())
