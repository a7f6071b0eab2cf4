"""`gwrelay bench mx`, small: it measures what it says, and misses no target in silence."""

from pathlib import Path

from support.benches import bench
from support.processes import program


def test_each_part_says_what_it_measured_and_beside_what(tmp_path: Path) -> None:
    program("knotd")  # or Unbound; where neither is, this says how to install it
    options = ["--domains", "60", "--cached", "60", "--greenlets", "10", "--seconds", "2"]
    cached, distinct, refreshed, memory = bench(tmp_path, "mx", *options)
    assert cached["figures"]["get_mx_per_s_1_exchanges"] > 1000
    assert cached["figures"]["get_mx_per_s_4_exchanges"] > 1000
    assert distinct["baseline"]["domains_per_s"] > 0
    assert distinct["ratio"] > 0
    assert distinct["ok"] == (distinct["ratio"] >= 0.7)
    assert refreshed["figures"]["refreshed"] >= 60
    assert refreshed["figures"]["stall_ms"]["busiest"] >= 0
    assert memory["figures"]["bytes_per_domain"] >= 0
