"""One batch on its way into the log, and what became of it."""

from collections.abc import Sequence
from zlib import crc32

from spool.errors import SpoolError
from spool.frame import HEADER, AnyRecord, encode


class Entry:
    __slots__ = (
        "batch",
        "body",
        "copies",
        "crc",
        "error",
        "kept",
        "landed",
        "noted",
        "offset",
        "segment",
        "size",
        "waits",
    )

    def __init__(
        self,
        batch: Sequence[AnyRecord],
        *,
        waits: bool = True,
        kept: bool = False,
        copies: bool = False,
    ) -> None:
        """TypeError or ValueError for a batch that makes no frame."""
        self.batch = batch
        self.body = encode(batch)
        self.crc = crc32(self.body)
        #: Bytes of its frame.
        self.size = HEADER.size + len(self.body)
        self.waits = waits
        #: When the disk refuses it, it is tried again later, and nobody is told.
        self.kept = kept
        #: Says again what is in the log: nothing is lost when it is refused.
        self.copies = copies
        #: Written ahead of its commit; see Log.note().
        self.noted = False
        self.landed = False
        self.error: SpoolError | None = None
        #: Where it was written last.
        self.segment = self.offset = 0
