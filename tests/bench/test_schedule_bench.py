"""`gwrelay bench schedule`, tiny: each operation is a line.  Never how fast it is."""

from pathlib import Path

from support.benches import bench


def test_each_operation_is_a_line_beside_a_bare_heap_where_that_can_do_it(tmp_path: Path) -> None:
    lines = bench(tmp_path, "schedule", "--waiting", "1000", "--operations", "50", "--rounds", "1")
    by_name = {line["settings"]["operation"]: line for line in lines}
    assert list(by_name) == ["add", "take", "hasten", "remove"]
    for name, line in by_name.items():
        assert line["figures"]["per_s"] > 0
        assert line["figures"]["longest_ms"] > 0
        assert (line["ratio"] is None) is (name in ("hasten", "remove"))
