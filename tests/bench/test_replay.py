"""`gwrelay bench replay`, tiny: what it prints is whole and consistent.  Never how fast it is."""

from pathlib import Path

import pytest

from gwrelay_bench.spooling import RECORD_BYTES, checkpoints, fill, leave_page_cache, read_once
from support.benches import bench


def test_each_size_is_a_line_beside_reading_its_files(tmp_path: Path) -> None:
    sizes = ("--messages", "20", "--messages", "300", "--rounds", "2", "--cold")
    lines = bench(tmp_path, "replay", *sizes)
    whole = [line for line in lines if not line["settings"]["checkpoint"]]
    assert [line["settings"]["messages"] for line in whole] == [20, 300]
    for line in lines:
        opened, read = line["figures"], line["baseline"]
        assert opened["bytes"] > line["settings"]["messages"] * RECORD_BYTES
        assert opened["per_s"] == pytest.approx(
            line["settings"]["messages"] / opened["open_s"], rel=0.01
        )
        assert opened["cpu_s_per_1000"] > 0
        assert line["ratio"] == pytest.approx(opened["open_s"] / read["open_s"], rel=0.01)


def test_what_only_saves_time_is_told_from_segments_spares_and_lock(tmp_path: Path) -> None:
    fill(tmp_path / "spool", 3)
    for name in ("000000000001.segment", "spare-1", "lock", "aside"):
        (tmp_path / "spool" / name).touch()
    assert "aside" in [path.name for path in checkpoints(tmp_path / "spool")]
    kept = {"000000000001.segment", "spare-1", "lock"}
    assert kept.isdisjoint(path.name for path in checkpoints(tmp_path / "spool"))


def test_reading_once_reads_every_byte_of_the_segments(tmp_path: Path) -> None:
    fill(tmp_path / "spool", 10)
    size = sum(path.stat().st_size for path in (tmp_path / "spool").glob("*.segment"))
    leave_page_cache(tmp_path / "spool")
    assert read_once(tmp_path / "spool")[0] == size
