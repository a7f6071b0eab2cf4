"""What the spool has done, as plain numbers.  Anyone may read them; nobody formats them here."""

from bisect import bisect_left

#: Seconds: upper ends of the buckets that commits are counted in; the last has none.  A tenth of a
#: millisecond on a quiet disk, seconds on a sick one.
COMMIT_BOUNDS_S = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)


class Counters:
    """Since this process opened the spool, or found when it did."""

    commit_bounds_s = COMMIT_BOUNDS_S

    __slots__ = (
        "checkpoint_bytes",
        "commit_counts",
        "commit_total_s",
        "commits",
        "compacted_bytes",
        "compacted_read_bytes",
        "compacted_segments",
        "durable_bytes",
        "failed_syncs",
        "frames",
        "full",
        "lost_bytes",
        "lost_frames",
        "supply_bytes",
        "syncs",
        "torn_bytes",
        "written_bytes",
    )

    def __init__(self) -> None:
        #: Groups of frames made durable together.
        self.commits = 0
        #: How many took how long, by COMMIT_BOUNDS_S; and all of them together.
        self.commit_counts = [0] * (len(COMMIT_BOUNDS_S) + 1)
        self.commit_total_s = 0.0
        #: Successful syncs of a segment, and failed ones.
        self.syncs = 0
        self.failed_syncs = 0
        #: Frames that were made durable and their bytes, and those written for all that was tried.
        self.frames = 0
        self.durable_bytes = 0
        self.written_bytes = 0
        #: Bytes written besides: headers and zeros of segments, most of them ahead of need, and
        #: checkpoints.
        self.supply_bytes = 0
        self.checkpoint_bytes = 0
        #: Segments given back by compaction, the bytes read for that, and those copied, which are
        #: part of `durable_bytes`.
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

    def note_commit(self, took_s: float) -> None:
        self.commits += 1
        self.commit_counts[bisect_left(COMMIT_BOUNDS_S, took_s)] += 1
        self.commit_total_s += took_s

    @property
    def write_amplification(self) -> float:
        """All that the disk was asked to write, for each byte of a frame that was made durable
        and is no copy; 1.0 while there is none.  What is kept aside for people does not count.

        A segment's first life costs twice its bytes, for it is filled with zeros before.
        """
        written = self.written_bytes + self.supply_bytes + self.checkpoint_bytes
        accepted = self.durable_bytes - self.compacted_bytes
        return written / accepted if accepted > 0 else 1.0
