"""`gwrelay bench big`, tiny: what it prints is whole and consistent.  Never how fast it is."""

from pathlib import Path

import pytest

from gwrelay_bench.big import random_content
from support.benches import bench


def test_every_message_arrives_as_it_was_and_memory_is_told_beside_its_limit(
    tmp_path: Path,
) -> None:
    [line] = bench(tmp_path, "big", "--size", "300K", "--messages", "3")
    figures = line["figures"]
    assert line["settings"]["bytes"] == 300 * 1024
    assert figures["arrived_identical"] == line["settings"]["messages"] == 3
    assert figures["peak_over_idle_bytes"] >= 0
    assert figures["peak_bytes"] > 10_000_000
    assert figures["cpu_s_per_1000"] >= 0
    # The message that it was warmed up with is not among them.
    assert figures["dot_to_250_ms"]["max"] > figures["dot_to_250_ms"]["p50"] > 0
    assert figures["to_arrival_ms"]["max"] >= figures["to_arrival_ms"]["p50"]
    assert figures["per_s"] > 0
    assert figures["syncs"] >= 1
    assert "loop_lag_ms" in figures
    assert line["settings"]["flags"] == "--max-message-size 614400 --workers 1"
    assert line["ratio"] == pytest.approx(
        figures["mb_per_s"] / line["baseline"]["mb_per_s"], abs=0.001
    )
    [target] = line["targets"]
    assert target["met"] == (figures["peak_over_idle_bytes"] <= target["at_most"])


@pytest.mark.parametrize("size", [1, 79, 100_000])
def test_content_is_whole_lines_that_all_differ(size: int) -> None:
    content = random_content(size)
    lines = content.removesuffix(b"\r\n").split(b"\r\n")
    assert max(79, size) - 79 < len(content) <= max(79, size)
    assert len(set(lines)) == len(lines)
    assert all(len(line) == 77 and line.startswith(b".") for line in lines)
