"""`gwrelay bench compaction`, tiny: what it prints is whole and consistent, never how fast."""

from pathlib import Path

import pytest

from support.benches import bench


def test_both_ways_are_told_with_what_was_copied_and_what_lies_on_disk(tmp_path: Path) -> None:
    tiny = ("--seconds", "0.6", "--rounds", "1", "--former", "12000", "--rate", "1G")
    [line] = bench(tmp_path, "compaction", *tiny)
    figures, without = line["figures"], line["baseline"]
    assert without["compacted_bytes"] == 0
    assert without["write_amplification"] == 1.0
    assert 0 < figures["compacted_bytes"] < figures["written_bytes"]
    asked = figures["written_bytes"] - figures["compacted_bytes"]
    assert figures["write_amplification"] == pytest.approx(
        figures["written_bytes"] / asked, abs=0.001
    )
    for one in (figures, without):
        assert one["accepted"] > 0
        assert one["over_time"][-1][1:] == [one["disk_bytes"], one["living_bytes"]]
        beyond = one["disk_bytes"] - 2 * one["living_bytes"]
        assert one["disk_over_twice_living_bytes"] == beyond
    assert line["ratio"] == pytest.approx(
        figures["accept_ms"]["p99"] / without["accept_ms"]["p99"], abs=0.001
    )
