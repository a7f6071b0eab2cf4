"""Results as a table for people.  Formats, decides nothing."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gwrelay_bench.measure import Result, Target, flat, system


def print_results(results: Sequence[Result], console: Console) -> None:
    """One section for each: what sets it apart, then its figures with baseline and target."""
    if not results:
        return
    compared = any(result.baseline or result.targets for result in results)
    columns = ("measured", "baseline", "target") if compared else ("measured",)
    table = Table("", *columns, title_justify="left")
    table.title = f"gwrelay bench {results[0].bench}"
    for column in table.columns[1:3]:
        column.justify = "right"
    shared = _shared(results)
    for result in results:
        apart = [f"{k} {v}" for k, v in result.settings.items() if k not in shared]
        table.add_section()
        if apart:
            table.add_row(f"[bold]{escape(', '.join(apart))}")
        for row in _rows(result):
            table.add_row(*row[: 1 + len(columns)])
    console.print(table)
    for name, value in {**system(), **shared}.items():
        console.print(f"  {name:20} {escape(str(value))}", style="dim")


def _shared(results: Sequence[Result]) -> dict[str, Any]:
    """The settings that all of them have alike."""
    first = results[0].settings
    return {k: v for k, v in first.items() if all(r.settings.get(k) == v for r in results)}


def _rows(result: Result) -> list[tuple[str, str, str, str]]:
    """A figure that is a list is for programs, and left out."""
    figures, baseline = flat(result.figures), flat(result.baseline)
    targets = {target.figure: _told(target, result) for target in result.targets}
    rows = [
        (name, _number(figures.get(name)), _number(baseline.get(name)), targets.get(name, ""))
        for name in {**figures, **baseline}
        if not isinstance(figures.get(name), list)
    ]
    if result.ratio is not None:
        rows.append(("ratio", _number(result.ratio), "", targets.get("ratio", "")))
    return rows


def _told(target: Target, result: Result) -> str:
    """The target with its limits, green where it is met."""
    limits = [
        f"{sign} {_number(limit)}"
        for sign, limit in (("≥", target.at_least), ("≤", target.at_most))
        if limit is not None
    ]
    colour = "green" if target.met(result) else "red"
    return f"[{colour}]{' '.join(limits)}"


def _number(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:,.3g}" if abs(value) < 10 else f"{value:,.1f}"
