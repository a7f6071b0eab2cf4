"""counters.py: what the disk was asked to write, whoever wrote it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from spool import Drop, Put, Spool, SpoolFull
from spool.counters import Counters
from spool.files import Files
from support.faulty_files import FaultyDisk, Rounds

SEGMENT_BYTES = 8192


class Written:
    """Counts the bytes that its files were asked to write."""

    def __init__(self) -> None:
        self.total_bytes = 0

    def files(self, path: str, sync: Callable[[int], None]) -> Files:
        written = self

        class Counted(Files):
            def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
                count = super().write(fd, buffers, offset)
                written.total_bytes += count
                return count

        return Counted(path, sync)


def test_nothing_written_is_amplified_by_nothing() -> None:
    assert Counters().write_amplification == 1.0


def test_write_amplification_is_all_that_was_written_for_what_was_accepted(tmp_path: Path) -> None:
    """Spares, headers and checkpoints among it, copies not among what was accepted."""
    written = Written()
    spool = Spool(
        tmp_path,
        files=written.files,
        segment_bytes=SEGMENT_BYTES,
        checkpoint_bytes=4096,
        compact_rate_bytes_s=1e12,
    )
    for key in range(1, 41):
        spool.write([Put(key, b"", b"", b"x" * 900)])
        if key % 8:
            spool.write([Drop(key)])
        spool.run(Rounds(1))
    spool.compact()
    spool.close()
    counters = spool.counters
    assert counters.compacted_bytes
    assert counters.checkpoint_bytes
    assert counters.supply_bytes >= SEGMENT_BYTES
    records = counters.durable_bytes - counters.compacted_bytes
    assert 40 * 900 < records < 40 * 1100
    assert counters.write_amplification == pytest.approx(written.total_bytes / records)


def test_what_was_refused_was_written_and_not_accepted(tmp_path: Path) -> None:
    disk = FaultyDisk(tmp_path / "spool")
    spool = Spool(disk.path, files=disk.files, segment_bytes=SEGMENT_BYTES)
    spool.write([Put(1, b"", b"", b"x" * 900)])
    accepted = spool.counters.durable_bytes
    before = spool.counters.write_amplification
    disk.room = 100
    with pytest.raises(SpoolFull):
        spool.write([Put(2, b"", b"", b"y" * 900)])
    assert spool.counters.durable_bytes == accepted
    assert spool.counters.write_amplification > before
    spool.close()
