"""What JSON lines of benches say that can be drawn: values in, values out."""

from collections.abc import Iterable, Mapping, Sequence
from json import loads
from statistics import median
from typing import Any, NamedTuple

from gwrelay_bench.measure import flat

STRAIGHT = "straight into the sink"
_OURS = "gateway"


class NotALine(Exception):
    """Not what a bench prints with --json; says where and why."""


class Point(NamedTuple):
    """One result of a bench that sends load through a relay."""

    #: The bench, and what else sets its load apart but for the sessions.
    case: str
    #: "gateway" for ours, "Postfix 3.7.11, tuned" and so on.
    relay: str
    revision: str
    sessions: int
    #: Flat: "dot_to_250_ms.p99" and so on.  `runs` is a list: messages/s of each.
    figures: Mapping[str, Any]
    baseline: Mapping[str, Any]

    @property
    def is_ours(self) -> bool:
        return self.relay == _OURS


class Spread(NamedTuple):
    """A median with its extremes."""

    middle: float
    least: float
    most: float


def read_points(name: str, lines: Iterable[str]) -> list[Point]:
    """Those that can be drawn; results of other kinds are left out.  Raises NotALine, in which the
    file is called `name`."""
    points = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            result = loads(line)
            settings, figures = result["settings"], flat(result["figures"])
            bench, revision = result["bench"], result["revision"]
            baseline = flat(result.get("baseline", {}))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise NotALine(f"{name}, line {number}") from None
        if "per_s" in figures and "relay" in settings and "sessions" in settings:
            points.append(
                Point(
                    _case(bench, settings), settings["relay"], revision, settings["sessions"],
                    figures, baseline,
                )
            )  # fmt: skip
    return points


def newest(points: Sequence[Point]) -> list[Point]:
    """Those of the revision that was told last, and whatever is not ours."""
    if not points:
        return []
    last = points[-1].revision
    return [point for point in points if point.revision == last or not point.is_ours]


def cases(points: Sequence[Point]) -> dict[str, list[Point]]:
    """By case, in the order they came."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.case, []).append(point)
    return found


def relays(points: Sequence[Point]) -> list[str]:
    """Ours first."""
    names = dict.fromkeys(point.relay for point in points)
    return sorted(names, key=lambda name: (name != _OURS, name))


def by_sessions(points: Sequence[Point], figure: str) -> dict[int, float]:
    """Sessions → the median of what `points` say; those without such a figure do not count."""
    found: dict[int, list[float]] = {}
    for point in points:
        value = point.figures.get(figure)
        if isinstance(value, (int, float)):
            found.setdefault(point.sessions, []).append(value)
    return {sessions: median(values) for sessions, values in sorted(found.items())}


def rates(points: Sequence[Point]) -> dict[int, Spread]:
    """Sessions → messages/s, with those of single runs as extremes."""
    runs: dict[int, list[float]] = {}
    for point in points:
        told = point.figures.get("runs") or [point.figures["per_s"]]
        runs.setdefault(point.sessions, []).extend(told)
    middle = by_sessions(points, "per_s")
    return {at: Spread(middle[at], min(runs[at]), max(runs[at])) for at in middle}


def straight(points: Sequence[Point]) -> dict[int, Spread]:
    """The same for the baseline."""
    bare = [point._replace(figures=point.baseline) for point in points if "per_s" in point.baseline]
    return rates(bare)


def costs(points: Sequence[Point]) -> tuple[list[str], dict[str, list[float | None]]]:
    """Revisions of ours in the order they came, and for each case and its sessions the CPU seconds
    per 1,000 messages at each of them; None where that was not measured."""
    ours = [point for point in points if point.is_ours and "cpu_s_per_1000" in point.figures]
    revisions = list(dict.fromkeys(point.revision for point in ours))
    found: dict[str, dict[str, list[float]]] = {}
    for point in ours:
        name = f"{point.case}, {point.sessions} sessions"
        at = found.setdefault(name, {}).setdefault(point.revision, [])
        at.append(point.figures["cpu_s_per_1000"])
    return revisions, {
        name: [median(at[one]) if one in at else None for one in revisions]
        for name, at in found.items()
    }


def _case(bench: str, settings: Mapping[str, Any]) -> str:
    size_bytes, kept = settings.get("bytes"), settings.get("messages_per_connection", "all")
    words = [bench]
    if size_bytes:
        kib = f"{size_bytes / 1024:g} KiB"
        words.append(kib if size_bytes % 1024 == 0 else f"{size_bytes} bytes")
    if kept != "all":
        words.append(f"{kept} per connection")
    return ", ".join(words)
