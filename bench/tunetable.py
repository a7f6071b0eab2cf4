"""What `gwrelay tune` found, for people.  Formats, decides nothing."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gwrelay_bench.figures import middle
from gwrelay_bench.measure import flat, system
from gwrelay_bench.trials import (
    CPU,
    FASTER,
    LEANER,
    P99,
    RATE,
    SAME,
    SLOWER,
    TOO_FEW,
    Difference,
    Trial,
    flags_of,
    toml_of,
)

if TYPE_CHECKING:
    from gwrelay_bench.tune import Outcome

_COLOURS = {FASTER: "green", LEANER: "green", SLOWER: "red", SAME: "dim"}
#: What whoever copies a flag has to know.
_CAUTIONS = {
    "--workers": "load and sink had the cores, too; without them there more may carry more.",
    "--site-concurrency": "for a next hop of your own; others say how many sessions they take.",
}
_UNTRIED = "not tried, the time was out"


def verdict_of(trial: Trial) -> str:
    """One line."""
    what = f"{trial.knob.flag} {trial.value}"
    rate = trial.difference(RATE)
    if rate is None:
        return f"{what}: {TOO_FEW if trial.rounds else _UNTRIED}"
    return f"{what}: {trial.verdict}, {_ratio(rate)} times {trial.kept}"


def print_outcome(
    console: Console, outcome: "Outcome", place: Mapping[str, Any], *, cut_off: str
) -> None:
    """`cut_off` says why not all was tried; "" if it was."""
    if cut_off:
        console.print(f"{cut_off}; this is known so far.")
    tried = [trial for trial in outcome.trials if trial.rounds]
    if tried:
        console.print(_table(tried, outcome.settings, outcome.delay_s))
        console.print(
            "\n  CPU s     of the gateway, for 1,000 messages\n"
            "  p99 ms    from the final dot to the 250\n"
            "  beside    messages/s over those of the value it would replace: the median\n"
            "            of the rounds, and their extremes; a difference that chance may\n"
            "            have made, with rounds so few and so far apart, changes nothing",
            style="dim",
        )  # fmt: skip
    if outcome.straight:
        limit = f"{outcome.straight[RATE]:,.0f} messages/s straight into the sink"
        for name, value in {**system(), **place, "limit": limit}.items():
            console.print(f"  {name:20} {escape(str(value))}", style="dim")
    _print_advice(console, outcome.settings, outcome.delay_s)


def _print_advice(console: Console, settings: Mapping[str, str], delay_s: float) -> None:
    if not settings:
        console.print("Nothing was found to be better than the gateway as it comes.")
        return
    words = flags_of(settings)
    console.print("\nOn the command line:\n")
    _verbatim(console, f"gwrelay serve --spool DIR --hostname NAME {words}")
    console.print("\nOr in the file that --config names:\n")
    for line in toml_of(settings).splitlines():
        _verbatim(console, line)
    for flag, caution in _CAUTIONS.items():
        if flag in settings:
            console.print(f"\n{flag}: {caution}", style="dim")
    console.print("\nTo see it again:\n")
    _verbatim(console, f'gwrelay bench relay_one_site --gateway "{words}"')
    sessions = settings.get("--site-concurrency")
    if sessions is not None and delay_s:
        # To the next hop of the other, which is near, more sessions only cost.
        _verbatim(
            console, f"gwrelay bench wan --delay {1000 * delay_s:g} --site-concurrency {sessions}"
        )


def _verbatim(console: Console, text: str) -> None:
    """To be copied: neither wrapped nor coloured."""
    console.print(text, markup=False, soft_wrap=True)


def _table(trials: Sequence[Trial], settings: Mapping[str, str], delay_s: float) -> Table:
    table = Table("", "msg/s", "CPU s", "p99 ms", "beside", "", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:5]:
        column.justify = "right"
    above = ""
    for trial in trials:
        flag = trial.knob.flag
        if flag != above:
            above = flag
            table.add_row()
            far = f"replies in {1000 * delay_s:g} ms" if trial.knob.is_far else ""
            table.add_row(f"[bold]{flag}", "", "", "", "", f"[dim]{far}")
            table.add_row(f"  {trial.kept}", *_figures(trial.beside), "", "what it was")
        table.add_row(f"  {trial.value}", *_figures(trial.rounds), *_told(trial, settings))
    return table


def _told(trial: Trial, settings: Mapping[str, str]) -> tuple[str, str]:
    rate = trial.difference(RATE)
    if rate is None:
        return "", f"[dim]{TOO_FEW}"
    taken = settings.get(f"--{trial.knob.flag}") == trial.value
    return _ratio(rate), f"[{_COLOURS[trial.verdict]}]{trial.verdict}{', taken' * taken}"


def _figures(rounds: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    found = flat(middle(rounds))
    formats = {RATE: "{:,.0f}", CPU: "{:.3f}", P99: "{:,.1f}"}
    rate, cpu, p99 = (
        how.format(found[name]) if isinstance(found.get(name), (int, float)) else ""
        for name, how in formats.items()
    )
    return rate, cpu, p99


def _ratio(rate: Difference) -> str:
    return f"{rate.ratio:.2f} ({rate.least:.2f}..{rate.most:.2f})"
