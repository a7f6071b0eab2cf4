"""`gwrelay bench window`: the simulation, which is the same each time."""

from pathlib import Path

from gwrelay.relay.shaping import Window
from gwrelay_bench.window import INITIAL, LIMIT, Phase, simulate
from support.benches import bench


def test_each_phase_is_a_line_and_the_picture_is_drawn(tmp_path: Path) -> None:
    lines = bench(tmp_path, "window")
    by_phase = {line["settings"]["phase"]: line for line in lines}
    assert by_phase["takes all"]["figures"]["window_at_the_end"] == LIMIT
    assert by_phase["takes 8"]["figures"]["sessions"] > 7.9
    assert (
        by_phase["takes 8"]["figures"]["refused"] * 10 < by_phase["takes 8"]["baseline"]["refused"]
    )
    assert by_phase["down"]["figures"]["window_at_the_end"] == 1


def test_a_host_that_comes_back_has_its_sessions_again_in_a_few_ticks() -> None:
    down, back = simulate(Window(LIMIT, INITIAL), [Phase("down", 0, 5), Phase("back", 50, 6)])
    assert [tick.sessions for tick in down] == [0] * 5
    assert [tick.sessions for tick in back] == [1, 2, 4, 8, 16, LIMIT]
