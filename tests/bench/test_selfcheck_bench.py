"""`gwrelay bench selfcheck`, tiny: one line beside its baseline.  Never how fast it is."""

from pathlib import Path

from support.benches import bench


def test_a_round_over_a_full_spool_is_a_line_beside_reading_it_once(tmp_path: Path) -> None:
    [line] = bench(tmp_path, "selfcheck", "--waiting", "2500", "--rounds", "1")
    assert line["figures"]["steps"] == 3 + 10
    assert line["figures"]["cpu_s"] > 0
    assert line["baseline"]["cpu_s"] > 0
    assert line["figures"]["cpu_percent"] < 1
