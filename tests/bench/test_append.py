"""`gwrelay bench append`, tiny: what it prints is whole and consistent.  Never how fast it is."""

import os
from pathlib import Path

import pytest

from gwrelay_bench.append import RawFiles, WatchedFiles
from gwrelay_bench.spooling import RECORD_BYTES, SEGMENT_BYTES
from spool import Put, Spool
from support.benches import bench

TINY = ("--waiters", "1", "--waiters", "8", "--seconds", "0.05", "--rounds", "2")


def test_each_number_of_writers_is_a_line_beside_raw_commits_of_the_same_sizes(
    tmp_path: Path,
) -> None:
    lines = bench(tmp_path, "append", *TINY)
    assert [line["settings"]["waiters"] for line in lines] == [1, 8]
    for line in lines:
        figures, raw = line["figures"], line["baseline"]
        assert figures["records"] > 0
        assert line["ratio"] == pytest.approx(figures["per_s"] / raw["per_s"], abs=0.001)
        assert figures["records_per_sync"] == raw["records_per_sync"]
        assert figures["cpu_s_per_1000"] > 0
        assert 0 < figures["syncs"] == raw["syncs"] <= figures["records"]
        assert figures["write_ms"]["max"] >= figures["commit_ms"]["p50"]
    assert lines[0]["figures"]["records_per_sync"] == 1.0


def test_a_commit_is_noted_with_all_its_bytes_and_a_spare_being_filled_is_not(
    tmp_path: Path,
) -> None:
    seen: list[WatchedFiles] = []

    def files(path: str, sync: object) -> WatchedFiles:
        seen.append(WatchedFiles(path, sync))  # type: ignore[arg-type]
        return seen[-1]

    spool = Spool(tmp_path / "spool", segment_bytes=1024 * 1024, files=files)
    body = bytes(RECORD_BYTES)
    for _ in range(3):
        spool.write([Put(spool.new_key(), b"", b"", body)])
    written = spool.counters.written_bytes
    spool.close()
    [watched] = seen
    assert len(watched.commits) == 3
    assert sum(commit.size_bytes for commit in watched.commits) == written


def test_the_baseline_goes_on_in_its_next_file_and_round_again(tmp_path: Path) -> None:
    raw = RawFiles(tmp_path)
    size = SEGMENT_BYTES // 2 + 1
    try:
        commits = raw.write([size] * 5)
    finally:
        raw.close()
    assert [commit.size_bytes for commit in commits] == [size] * 5
    files = sorted(tmp_path.iterdir())
    assert [os.path.getsize(file) for file in files] == [SEGMENT_BYTES] * len(files)
