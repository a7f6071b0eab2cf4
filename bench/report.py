"""The demo's account as a table for people, or as one JSON object.  Formats, decides nothing."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gwrelay_bench.accounting import Account
from gwrelay_bench.figures import latency

_SHOWN_PROBLEMS = 20


class Run(NamedTuple):
    """One demo, done."""

    account: Account
    #: Reasons to fail that are not about one recipient.
    failures: tuple[str, ...]
    #: The throughput part; its seconds run from the first MAIL to the last arrival.
    load_messages: int
    load_bytes: int
    load_s: float
    sessions: int
    #: The whole of it, starting and stopping included.
    elapsed_s: float
    #: Where the messages came from, in words.
    material: str
    #: Where spool, events and log are; None when they were removed.
    kept: str | None

    @property
    def succeeded(self) -> bool:
        return not self.failures and not self.account.problems


def figures(run: Run) -> dict[str, Any]:
    """What `--json` prints.  Times in milliseconds unless the name says otherwise."""
    account = run.account
    rate = run.load_messages / run.load_s if run.load_s else None
    return {
        "ok": run.succeeded,
        "accepted": {"messages": account.messages, "recipients": account.recipients},
        "delivered_at_once": account.at_once,
        "delivered_after_retry": account.retried,
        "bounced": account.bounced,
        "dsns_delivered": account.reports,
        "messages_per_s": None if rate is None else round(rate, 1),
        "load": {"messages": run.load_messages, "bytes": run.load_bytes, "sessions": run.sessions},
        "accepted_to_delivered_ms": latency(account.at_once_s),
        "accepted_to_delivered_after_retry_ms": latency(account.retried_s),
        "elapsed_s": round(run.elapsed_s, 2),
        "material": run.material,
        "problems": [*run.failures, *map(str, account.problems)],
        "kept": run.kept,
    }


def print_run(run: Run, console: Console, characters: Mapping[str, str]) -> None:
    """The table, then what went wrong."""
    shown = figures(run)
    table = Table("", "", title="gwrelay demo", show_header=False, title_justify="left")
    table.columns[1].justify = "right"
    accepted = shown["accepted"]
    table.add_row(
        "accepted", f"{accepted['messages']} messages, {accepted['recipients']} recipients"
    )
    table.add_row("delivered at once", f"{run.account.at_once} recipients")
    table.add_row("delivered after a retry", f"{run.account.retried} recipients")
    table.add_row(
        "bounced", f"{run.account.bounced} recipients, {run.account.reports} DSNs delivered"
    )
    rate = shown["messages_per_s"]
    table.add_row("messages/s", "none" if rate is None else f"{rate:,.0f}")
    table.add_row("250 to delivery at once, p50 / p99", _times(shown["accepted_to_delivered_ms"]))
    table.add_row(
        "250 to delivery after a retry, p50 / p99",
        _times(shown["accepted_to_delivered_after_retry_ms"]),
    )
    table.add_row("the whole demo", f"{run.elapsed_s:.1f} s")
    console.print(table)
    load = f"{run.load_messages} of {run.load_bytes} bytes, {run.sessions} sessions"
    console.print(f"  messages/s     {load}, first MAIL to last arrival", style="dim")
    for domain, character in characters.items():
        console.print(f"  {domain:14} {character}", style="dim")
    console.print(f"  the mix        {escape(run.material)}", style="dim")
    _print_verdict(run, console)


def _print_verdict(run: Run, console: Console) -> None:
    if run.succeeded:
        console.print(
            "Every recipient is accounted for, every body arrived byte for byte.", style="green"
        )
    problems = [*run.failures, *map(str, run.account.problems)]
    for problem in problems[:_SHOWN_PROBLEMS]:
        console.print(escape(problem), style="red")
    if len(problems) > _SHOWN_PROBLEMS:
        console.print(f"and {len(problems) - _SHOWN_PROBLEMS} more", style="red")
    if run.kept:
        console.print(f"Spool, events and log are in {escape(run.kept)}")


def _times(milliseconds: Mapping[str, float] | None) -> str:
    if milliseconds is None:
        return "none"
    return f"{_time(milliseconds['p50'])} / {_time(milliseconds['p99'])}"


def _time(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.2f} s" if milliseconds >= 1000 else f"{milliseconds:.1f} ms"
