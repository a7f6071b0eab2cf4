"""`gwrelay bench queue_million`, tiny: what it prints is whole and consistent, never how fast."""

import json
from pathlib import Path

import pytest

from support.benches import bench, started
from support.patched import run_patched

MESSAGES = 60


def test_both_starts_serve_and_account_for_every_message(tmp_path: Path) -> None:
    tiny = ("--messages", str(MESSAGES), "--destinations", "5", "--size", "1K", "--limit", "30")
    lines = bench(tmp_path, "queue_million", *tiny)
    first, second = (line["figures"] for line in lines)
    assert first["waiting"] == MESSAGES - first["delivered"]
    assert second["waiting"] == first["waiting"] - second["delivered"]
    assert lines[0]["settings"]["checkpoint"] is False
    for line in lines:
        figures, empty = line["figures"], line["baseline"]
        assert 0 < figures["delivered"] <= 2, "those whose exchange takes mail at this start"
        assert 0 < figures["ready_s"] <= figures["first_accept_s"]
        # Perhaps before anybody has read that it is ready: it is loaded beside everything else.
        assert figures["first_waiting_delivery_s"] > 0
        assert figures["stall_ms"]["max"] >= figures["stall_ms"]["p99"]
        assert figures["cpu_s_per_1000"] > 0
        assert figures["loaded_per_s"] > 0
        assert figures["dot_to_250_ms"]["max"] > 0
        assert figures["syncs"] >= 1, "of what the client handed in, at least"
        grown = figures["resident_bytes"] - empty["resident_bytes"]
        assert figures["bytes_per_message"] == pytest.approx(grown / figures["waiting"], abs=0.1)
        assert [target["figure"] for target in line["targets"]] == [
            "bytes_per_message",
            "served_before_loaded",
            "ready_s",
            "stall_ms.max",
        ]


def test_what_fills_the_spool_waits_for_later_but_for_those_whose_exchange_takes_mail(
    tmp_path: Path,
) -> None:
    run_patched(
        f"""
        from gwrelay.queue.mailqueue import Queue
        from gwrelay_bench.filling import EARLY, LATE, fill

        def due(now):
            steps = []
            directory = {str(tmp_path)!r} + f"/{{now}}"
            fill(
                directory, {MESSAGES}, destinations=7, size_bytes=500, alive=6,
                due_now=now, advance=steps.append,
            )
            assert sum(steps) == {MESSAGES}
            queue = Queue.open(directory)
            assert len(queue) == {MESSAGES}
            found = [delivery.destination for delivery in queue.get_waiting()]
            queue.close()
            assert found.count(EARLY) == found.count(LATE) == 3, found
            return len(found)

        assert due(now=False) < {MESSAGES} // 2
        assert due(now=True) == {MESSAGES}
        """
    )


def test_a_gateway_that_is_metered_is_one_in_all_else(tmp_path: Path) -> None:
    """Its mistakes are reported, and it writes what it measured until then."""
    figures = tmp_path / "figures.jsonl"
    done = started("metered", "--figures", str(figures), "--spool", str(tmp_path), "--retry", "x")
    assert done.returncode == 2
    assert done.stderr.startswith("gwrelay: error: --retry: ")
    [line] = figures.read_text().splitlines()
    assert set(json.loads(line)) == {"stall_ms", "collector_ms"}
