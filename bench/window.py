"""`gwrelay bench window`: how a site's window follows what the site takes, simulated.

A host takes so many sessions at a time and no more; that number changes.  Each tick every open
session delivers one message, and as long as the window has room one more session is tried.  The
baseline is a window of a fixed size, the limit.  Nothing is connected, no time passes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from gwrelay.relay.shaping import Window
from gwrelay_bench.drawing import new_figure, save
from gwrelay_bench.measure import Result
from gwrelay_bench.scenario import Bench, as_module, scenario

LIMIT, INITIAL = 20, 5


class Phase(NamedTuple):
    """For so many ticks the host takes `capacity` sessions; 0: it is down."""

    name: str
    capacity: int
    ticks: int
    #: Of each tick's messages, how many are answered by "slow down".
    throttled: int = 0


PHASES = (
    Phase("takes all", 50, 100),
    Phase("takes 8", 8, 300),
    Phase("down", 0, 40),
    Phase("back, takes 8", 8, 300),
    Phase("throttles at 4", 50, 200, throttled=4),
    Phase("takes 15", 15, 600),
)


class Tick(NamedTuple):
    window: int
    sessions: int
    refused: int


def simulate(window: Window, phases: Sequence[Phase]) -> list[list[Tick]]:
    """What happened in each tick of each phase."""
    sessions = 0
    story = []
    for phase in phases:
        ticks = []
        for _ in range(phase.ticks):
            sessions, refused = _tick(window, min(sessions, window.sessions), phase)
            ticks.append(Tick(window.sessions, sessions, refused))
        story.append(ticks)
    return story


def _tick(window: Window, sessions: int, phase: Phase) -> tuple[int, int]:
    """→ sessions that carried a message, and those that were refused."""
    sessions = min(sessions, phase.capacity)
    refused = 0
    while sessions < window.sessions:
        if sessions >= phase.capacity:
            refused = 1
            window.note_refused(sessions)
            break
        sessions += 1
    for _ in range(sessions):
        if phase.throttled and sessions > phase.throttled:
            window.note_throttled()
            return sessions, refused
        window.note_success(sessions)
    return sessions, refused


class _Fixed(Window):
    """Learns nothing."""

    def note_success(self, in_use: int) -> None: ...
    def note_throttled(self) -> None: ...
    def note_refused(self, others: int) -> None: ...


@click.command("window")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Draw it: a picture of the kind that the name ends in, .png or .svg.",
)  # fmt: skip
@scenario
def command(bench: Bench, plot: Path | None) -> None:
    """Simulate how many sessions a site is given as what it takes changes."""
    learned = simulate(Window(LIMIT, INITIAL), PHASES)
    fixed = simulate(_Fixed(LIMIT, LIMIT), PHASES)
    for phase, ours, theirs in zip(PHASES, learned, fixed, strict=True):
        bench.tell(_result(phase, ours, theirs))
    if plot is not None:
        _draw(plot, learned)


def _result(phase: Phase, ours: list[Tick], theirs: list[Tick]) -> Result:
    figures, baseline = _figures(ours), _figures(theirs)
    most = min(phase.capacity, LIMIT) if not phase.throttled else phase.throttled
    return Result(
        "window",
        {"phase": phase.name, "could_be_used": most},
        figures,
        baseline,
        figures["sessions"] / most if most else None,
    )


def _figures(ticks: list[Tick]) -> dict[str, Any]:
    return {
        "sessions": round(sum(tick.sessions for tick in ticks) / len(ticks), 2),
        "refused": sum(tick.refused for tick in ticks),
        "window_at_the_end": ticks[-1].window,
    }


def _draw(path: Path, story: list[list[Tick]]) -> None:
    ticks = [tick for phase in story for tick in phase]
    capacities = [min(p.capacity, LIMIT) for p in PHASES for _ in range(p.ticks)]
    figure = new_figure("--plot", 11, 4)
    axes = figure.add_subplot()
    axes.plot(capacities, color="0.75", drawstyle="steps-post", label="what the host takes")
    axes.plot([tick.window for tick in ticks], label="window")
    axes.plot([tick.sessions for tick in ticks], linewidth=0.8, label="sessions")
    at = [n for n, tick in enumerate(ticks) if tick.refused]
    axes.plot(at, [ticks[n].sessions for n in at], "x", color="tab:red", label="a session refused")
    start = 0
    for phase in PHASES:
        axes.axvline(start, color="0.9", zorder=0)
        axes.text(start + 3, LIMIT + 1, phase.name, fontsize=8)
        start += phase.ticks
    axes.set(xlabel="ticks: one message a session", ylabel="sessions", ylim=(0, LIMIT + 3))
    axes.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    save(figure, path, "--plot")


if __name__ == "__main__":
    as_module(__spec__.name)
