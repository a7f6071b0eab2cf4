"""What the spool has done, as plain numbers.  Anyone may read them; nobody formats them here."""


class Counters:
    """Since this process opened the spool, or found when it did."""

    __slots__ = (
        "commits",
        "compacted_bytes",
        "compacted_read_bytes",
        "compacted_segments",
        "failed_syncs",
        "frames",
        "full",
        "lost_bytes",
        "lost_frames",
        "syncs",
        "torn_bytes",
        "written_bytes",
    )

    def __init__(self) -> None:
        #: Groups of frames made durable together.
        self.commits = 0
        #: Successful syncs of a segment, and failed ones.
        self.syncs = 0
        self.failed_syncs = 0
        #: Frames that were made durable, and the bytes written for all that was tried.
        self.frames = 0
        self.written_bytes = 0
        #: Segments given back by compaction, the bytes read for that, and those copied, which are
        #: part of `written_bytes`.
        self.compacted_segments = 0
        self.compacted_read_bytes = 0
        self.compacted_bytes = 0
        #: Times a write found no room.
        self.full = 0
        #: Found damaged or missing at the start: frames (at least), and bytes that are no frame.
        self.lost_frames = 0
        self.lost_bytes = 0
        #: Cut off behind the last whole frame at the start.
        self.torn_bytes = 0

    @property
    def write_amplification(self) -> float:
        """Bytes written for each byte that was asked to be written."""
        asked = self.written_bytes - self.compacted_bytes
        return self.written_bytes / asked if asked > 0 else 1.0
