"""The table: what is alike once below it, the rest in sections; targets beside their figures."""

import io

from rich.console import Console

from gwrelay_bench.measure import Result, Target
from gwrelay_bench.table import print_results


def printed(*results: Result) -> list[str]:
    out = io.StringIO()
    print_results(results, Console(file=out, width=100))
    return out.getvalue().splitlines()


def test_figures_stand_beside_baseline_and_target_with_the_ratio_below() -> None:
    lines = printed(
        Result("x", {"n": 1}, {"per_s": 12345.6}, {"per_s": 20000.0}, 0.6173,
               targets=[Target("per_s", at_least=50_000), Target("ratio", at_least=0.2)])
    )  # fmt: skip
    rows = [line.strip("│ ").replace("│", "").split() for line in lines if line.startswith("│")]
    assert ["per_s", "12,346", "20,000", "≥", "50,000"] in rows
    assert ["ratio", "0.617", "≥", "0.2"] in rows


def test_settings_that_differ_head_their_section_and_those_alike_stand_below() -> None:
    lines = printed(*(Result("x", {"n": n, "rounds": 3}, {"per_s": 1.0}) for n in (1, 64)))
    assert [line.split()[1:3] for line in lines if "│ n " in line] == [["n", "1"], ["n", "64"]]
    assert [line.split() for line in lines if "rounds" in line] == [["rounds", "3"]]


def test_what_is_a_list_is_left_to_programs() -> None:
    assert not any("over_time" in line for line in printed(Result("x", {}, {"over_time": [1, 2]})))


def test_no_results_are_no_table() -> None:
    assert printed() == []
