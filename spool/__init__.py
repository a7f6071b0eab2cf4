"""A durable map in an append-only log: see FORMAT.rst for the bytes, Spool for the use.

    spool = Spool("/var/spool/example")
    key = spool.new_key()
    spool.write([Put(key, b"state", b"head", b"body")])     # on disk when this returns
    spool.write([Amend(key, b"newer")], wait=False)         # with the next commit
    spool.write([Drop(key)])

Standard library and msgpack only; usable by itself.
"""

from spool.counters import Counters
from spool.errors import (
    CorruptFrame,
    SpoolClosed,
    SpoolError,
    SpoolFailed,
    SpoolFull,
    SpoolLocked,
    SpoolOwner,
    SpoolVersion,
)
from spool.frame import Amend, Chunk, Drop, Put, Record
from spool.removing import remove_if_empty
from spool.store import Spool
from spool.waiting import Event

__all__ = [
    "Amend",
    "Chunk",
    "CorruptFrame",
    "Counters",
    "Drop",
    "Event",
    "Put",
    "Record",
    "Spool",
    "SpoolClosed",
    "SpoolError",
    "SpoolFailed",
    "SpoolFull",
    "SpoolLocked",
    "SpoolOwner",
    "SpoolVersion",
    "remove_if_empty",
]
