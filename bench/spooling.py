"""The spool as a bench has it: its records, syncs on native threads, its files read once."""

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from json import loads
from pathlib import Path
from typing import Any

import gevent
from gevent import subprocess

from gwrelay.waiting import for_greenlets
from gwrelay_bench.scenario import BenchFailed
from spool import Drop, Put, Spool
from spool import segment as segments

#: A record's body, and the gateway's segments.
RECORD_BYTES = 4096
SEGMENT_BYTES = 16 * 1024 * 1024
#: What a message has besides its content.
_STATE, _HEAD = b"s" * 40, b"h" * 100
_AT_ONCE = 500
_READ_BYTES = 1024 * 1024
_POLL_S = 0.01


@contextmanager
def running(directory: Path, **options: Any) -> Iterator[Spool]:
    """A spool with its upkeep, closed in the end."""
    spool = Spool(directory, **for_greenlets(), **options)
    stop = threading.Event()
    upkeep = gevent.spawn(spool.run, stop)
    try:
        yield spool
    finally:
        stop.set()
        upkeep.get()
        spool.close()


def put(key: int, body: bytes) -> Put:
    """A record like a message's."""
    return Put(key, _STATE, _HEAD, body)


def drop(spool: Spool, keys: Sequence[int]) -> None:
    """End them, many to a frame; durable on return."""
    for start in range(0, len(keys), _AT_ONCE):
        spool.write([Drop(key) for key in keys[start : start + _AT_ONCE]])


def fill(directory: Path, records: int, stays_of: int = 1) -> None:
    """A spool of `records`, a frame each, of which one in `stays_of` lives."""
    spool, body = Spool(directory, segment_bytes=SEGMENT_BYTES), os.urandom(RECORD_BYTES)
    try:
        keys = [spool.new_key() for _ in range(records)]
        for start in range(0, records, _AT_ONCE):
            for key in keys[start : start + _AT_ONCE]:
                spool.write([put(key, body)], wait=False)
            spool.sync()
        drop(spool, [key for number, key in enumerate(keys) if number % stays_of])
    finally:
        spool.close()


def await_spare(directory: Path, limit_s: float = 5.0) -> None:
    """Return once room for the next segment is ready, or after `limit_s` without."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if any(segments.spare_number_of(name) is not None for name in os.listdir(directory)):
            return
        gevent.sleep(_POLL_S)


def read_once(directory: Path, cold: bool = False) -> tuple[int, float]:
    """The segments' bytes, and the seconds it takes to read them once, in order; if `cold`, from
    the disk, and they are gone from the page cache afterwards."""
    if cold:
        leave_page_cache(directory)
    started, total = time.perf_counter(), 0
    for path in _segments(directory):
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(_READ_BYTES):
                total += len(chunk)
    seconds = time.perf_counter() - started
    if cold:
        leave_page_cache(directory)
    return total, seconds


def leave_page_cache(directory: Path) -> None:
    """Have the kernel forget what it holds of the segments, so that the disk is read."""
    for path in _segments(directory):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def checkpoints(directory: Path) -> list[Path]:
    """The files beside the segments, spares and the lock: each costs time only when it goes."""
    return [
        path
        for path in sorted(directory.iterdir())
        if path.is_file()
        and path.name != "lock"
        and segments.number_of(path.name) is None
        and segments.spare_number_of(path.name) is None
    ]


def waiting_in(directory: Path) -> list[dict[str, Any]]:
    """The envelopes of all messages in a gateway's spool that no gateway has open, as `gwrelay
    spool dump` has them.  Raises BenchFailed when one is damaged."""
    dump = subprocess.run(
        [sys.executable, "-m", "gwrelay", "spool", "dump", "--spool", str(directory)],
        capture_output=True,
        text=True,
    )
    if dump.returncode:
        raise BenchFailed(f"gwrelay spool dump ended with {dump.returncode}:\n{dump.stderr}")
    return [loads(line)["envelope"] for line in dump.stdout.splitlines()]


def _segments(directory: Path) -> list[Path]:
    return sorted(p for p in directory.iterdir() if segments.number_of(p.name) is not None)
