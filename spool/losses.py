"""What is found damaged in the log: kept aside, and said with the keys that it still names.

Bytes that do not verify prove nothing, but mostly they are frames with a few bits wrong, and then
they tell whose records they were.  Nothing here is read back, and nothing counts that is named.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import msgpack

from spool import segment as segments
from spool.files import Files
from spool.frame import HEADER
from spool.quarantine import Quarantine, Read

#: By their number in the log, the records that name a key.
_KINDS = {1: "PUT", 2: "AMEND", 3: "DROP", 4: "CHUNK"}
#: Bytes of one damaged stretch that are searched for the keys they name.
_SEARCHED_BYTES = 16 * 1024 * 1024
#: The same while others wait: 16 MiB of damaged DROPs took 1.4 s.
_SEARCHED_IN_PASSING_BYTES = 1024 * 1024
#: What one line of the log names; an audit names all.
_NAMED_AT_ONCE = 20

Named = tuple[tuple[str, int], ...]


class Gap(NamedTuple):
    """Bytes between two frames that are none; `size` may be 0, and lead beyond a cut file."""

    offset: int
    size: int
    #: Frames that stood there, by the serials around it.  0: something was put between.
    missing: int


class Losses:
    def __init__(
        self, files: Files, logger: logging.Logger, key_name: Callable[[int], str] = str
    ) -> None:
        """`key_name` is what people call a key."""
        self._quarantine = Quarantine(files, logger)
        self._logger = logger
        self._key_name = key_name
        #: Segments with damage that could not be kept aside, and must stay: nobody else has it.
        self.unkept: set[int] = set()

    def report(self, read: Read, segment: int, tag: bytes, gap: Gap) -> None:
        """Keep the bytes of `gap` aside, and log frames that are missing there."""
        if gap.missing:
            self._logger.error(
                "spool: %s: %d frames lost, %d bytes%s",
                segments.name_of(segment),
                gap.missing,
                gap.size,
                self._told(read, tag, gap),
            )
        if not self._quarantine.keep(read, segment, gap.offset, gap.size):
            self._logger.error("spool: %s stays for that", segments.name_of(segment))
            self.unkept.add(segment)

    def report_torn(self, read: Read, segment: int, tag: bytes, gap: Gap) -> None:
        """Likewise, of what is about to be cut off."""
        self._logger.warning(
            "spool: %s: torn tail of %d bytes cut at %d%s",
            segments.name_of(segment),
            gap.size,
            gap.offset,
            self._told(read, tag, gap),
        )
        self._quarantine.keep(read, segment, gap.offset, gap.size)

    def listed(self, keys: list[int]) -> str:
        """The first of `keys`, and how many more there are."""
        return _listed([self._key_name(key) for key in keys])

    def _told(self, read: Read, tag: bytes, gap: Gap) -> str:
        searched = gap._replace(size=min(gap.size, _SEARCHED_IN_PASSING_BYTES))
        named = [f"{kind} {self._key_name(key)}" for kind, key in named_in(read, tag, searched)]
        if not named:
            return ""
        part = f" in the first {searched.size} bytes" if searched.size < gap.size else ""
        return f", of {_listed(named)}{part}"


def named_in(read: Read, tag: bytes, gap: Gap) -> Named:
    """As keys_named(), of the first bytes of `gap` in the segment with this tag."""
    return keys_named(read(gap.offset, min(gap.size, _SEARCHED_BYTES)), tag)


def keys_named(damaged: bytes, tag: bytes) -> Named:
    """(kind, key) of each record of which `damaged` still tells, as far as it can be read."""
    named: dict[tuple[str, int], None] = {}
    starts = [piece for piece in damaged.split(tag)[1:] if len(piece) >= HEADER.size - len(tag)]
    for piece in starts:
        unpacker = msgpack.Unpacker(max_buffer_size=len(piece) + 1)
        unpacker.feed(piece[HEADER.size - len(tag) :])
        try:
            for _ in range(unpacker.read_array_header()):
                fields = unpacker.read_array_header()
                kind, key = unpacker.unpack(), unpacker.unpack()
                if type(kind) is not int or type(key) is not int or key < 1:
                    break
                if kind in _KINDS:
                    named[_KINDS[kind], key] = None
                for _ in range(fields - 2):
                    unpacker.skip()
        except (msgpack.UnpackException, ValueError):
            continue  # the damage itself
    return tuple(named)


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_ONCE
    return ", ".join(names[:_NAMED_AT_ONCE]) + (f" and {more} more" if more > 0 else "")
