"""Figures by matplotlib, which only those need who want pictures (the extra `bench`)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gwrelay.errors import ConfigError
from gwrelay_bench.points import (
    STRAIGHT,
    Point,
    Spread,
    by_sessions,
    cases,
    costs,
    newest,
    rates,
    relays,
    straight,
)

_DPI = 130
_GREY = "0.55"
_COLOURS = ("tab:blue", "tab:orange", "tab:red", "tab:green", "tab:purple", "tab:brown")
_LATENCIES = {"dot_to_250_ms": "final dot to 250", "to_arrival_ms": "250 to arrival at the sink"}
#: How a percentile is marked.
_MARKS = {"p50": "o", "p99": "^", "max": "_"}


def new_figure(what: str, width: float, height: float) -> Any:
    """In inches.  Raises ConfigError, about the option or command `what`."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(f"{what}: needs matplotlib: pip install 'gwrelay[bench]'") from None
    return Figure(figsize=(width, height))


def save(figure: Any, path: Path, what: str) -> None:
    """Raises ConfigError where it cannot be written, or its name ends in no kind of picture."""
    try:
        figure.savefig(path, dpi=_DPI)
    except OSError as error:
        raise ConfigError(f"{what}: cannot write {str(path)!r}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{what}: {str(path)!r}: {error}") from None


def draw_all(points: Sequence[Point], what: str) -> dict[str, Any]:
    """File name without its kind → figure."""
    drawn: dict[str, Any] = {}
    for case, of_case in cases(newest(points)).items():
        name = case.replace(", ", "-").replace(" ", "_")
        drawn[f"throughput-{name}"] = draw_throughput(case, of_case, what)
        if any(f"{one}.p50" in point.figures for point in of_case for one in _LATENCIES):
            drawn[f"latency-{name}"] = draw_latency(case, of_case, what)
    if costs(points)[0]:
        drawn["cost"] = draw_costs(points, what)
    return drawn


def draw_throughput(case: str, points: Sequence[Point], what: str) -> Any:
    """Messages/s over sessions: ours, others', and the source straight into the sink."""
    places = _places(points)
    figure = new_figure(what, max(8, 2.4 * len(places) + 2), 5.5)
    axes = figure.add_subplot()
    series = {STRAIGHT: straight(points)} | {
        relay: rates([point for point in points if point.relay == relay])
        for relay in relays(points)
    }
    colours, number_of = _colours(series), len(series)
    for number, (relay, found) in enumerate(series.items()):
        at = {one: places[one] + _shift(0.22, number, number_of) for one in found}
        _draw_rates(axes, relay, colours[relay], at, found)
    axes.set_yscale("log")
    _number_axis(axes)
    axes.set(
        xlabel="sessions in", ylabel="messages/s (log)",
        title=f"{case}, {_who(points)}\nmedian of the runs, with the slowest and the fastest",
    )  # fmt: skip
    _sessions_axis(axes, places)
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.3, high * 1.6)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)
    figure.tight_layout()
    return figure


def _draw_rates(
    axes: Any, relay: str, colour: str, at: Mapping[int, float], found: Mapping[int, Spread]
) -> None:
    """Nothing for what nobody measured."""
    if not found:
        return
    places = [at[one] for one in found]
    middles = [one.middle for one in found.values()]
    reach = [
        [one.middle - one.least for one in found.values()],
        [one.most - one.middle for one in found.values()],
    ]
    axes.plot(places, middles, color=colour, linewidth=1, alpha=0.4)
    axes.errorbar(places, middles, reach, fmt="o", capsize=3, color=colour, label=relay)
    for place, one in zip(places, found.values(), strict=True):
        axes.annotate(
            f"{one.middle:,.0f}", (place, one.most), (0, 6), textcoords="offset points",
            fontsize=9, ha="center", color=colour,
        )  # fmt: skip


def draw_latency(case: str, points: Sequence[Point], what: str) -> Any:
    """Percentiles of both parts of a message's way, a panel each."""
    figure = new_figure(what, 9.5, 5)
    both = figure.subplots(1, len(_LATENCIES), sharey=True)
    places, names = _places(points), relays(points)
    colours = _colours(names)
    for axes, (latency, title) in zip(both, _LATENCIES.items(), strict=True):
        for number, relay in enumerate(names):
            shift = _shift(0.16, number, len(names))
            mine = [point for point in points if point.relay == relay]
            _draw_percentiles(axes, latency, colours[relay], mine, lambda s, d=shift: places[s] + d)
        axes.set_yscale("log")
        _number_axis(axes)
        axes.set(xlabel="sessions in", title=title)
        _sessions_axis(axes, places)
    both[0].set_ylabel("milliseconds (log)")
    handles = [_key(colours[relay], "s", relay) for relay in names]
    handles += [_key("black", mark, name) for name, mark in _MARKS.items()]
    figure.suptitle(f"{case}\n{_who(points)}", fontsize=11)
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    return figure


def _draw_percentiles(
    axes: Any, latency: str, colour: str, points: Sequence[Point], place: Callable[[int], float]
) -> None:
    found = {name: by_sessions(points, f"{latency}.{name}") for name in _MARKS}
    for name, values in found.items():
        # 0 is no place on such an axis: it is less than what can be told.
        shown = {at: max(value, 0.01) for at, value in values.items()}
        axes.plot(
            [place(at) for at in shown], list(shown.values()), _MARKS[name], color=colour,
            markersize=7, zorder=3,
        )  # fmt: skip
    for at, low in found["p50"].items():
        axes.plot([place(at)] * 2, [max(low, 0.01), found["max"].get(at, low)], color=colour,
                  linewidth=1, alpha=0.5)  # fmt: skip


def draw_costs(points: Sequence[Point], what: str) -> Any:
    """CPU seconds of ours per 1,000 messages, revision by revision."""
    revisions, found = costs(points)
    figure = new_figure(what, max(8, 0.7 * len(revisions) + 5), 5)
    axes = figure.add_subplot()
    for name, values in found.items():
        known = [(at, value) for at, value in enumerate(values) if value is not None]
        axes.plot(*zip(*known, strict=True), "o-", label=name)
    axes.set_xticks(range(len(revisions)), revisions, rotation=30, ha="right")
    axes.set_xlim(-0.5, len(revisions) - 0.5)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="0.9")
    axes.set(
        xlabel="revision, in the order of the files", ylabel="CPU seconds per 1,000 messages",
        title="What a message costs the gateway, taken and delivered",
    )  # fmt: skip
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False)
    figure.tight_layout()
    return figure


def _places(points: Sequence[Point]) -> dict[int, int]:
    """Where each number of sessions is on its axis, evenly spread."""
    return {at: place for place, at in enumerate(sorted({point.sessions for point in points}))}


def _shift(step: float, number: int, count: int) -> float:
    """Of one of `count` beside each other, from the middle of their place."""
    return step * (number - (count - 1) / 2)


def _sessions_axis(axes: Any, places: Mapping[int, int]) -> None:
    axes.set_xticks(list(places.values()), [f"{at:,}" for at in places])
    axes.set_xlim(-0.5, len(places) - 0.5)


def _number_axis(axes: Any) -> None:
    """As people write numbers, not as powers of ten."""
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.grid(axis="y", color="0.9")


def _colours(names: Any) -> dict[str, str]:
    others = [name for name in names if name != STRAIGHT]
    return {STRAIGHT: _GREY} | {
        name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(others)
    }


def _key(colour: str, mark: str, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, marker=mark, linestyle="none", markersize=7, label=label)


def _who(points: Sequence[Point]) -> str:
    ours = [point.revision for point in points if point.is_ours]
    return f"gateway {ours[-1]}" if ours else ""
