"""`gwrelay bench queue_million`: a gateway starts on a full spool, and must be of use at once.

Messages for many destinations, whose exchange is down, fill the spool; a few are for two that
take mail, one at each start.  The gateway starts without the files that only save time, and then
with what its own end left of them.  Once it is ready, a client hands in a message every now and
then.  The baseline is an empty gateway, and reading the segments once.
"""

from pathlib import Path
from typing import Any

import click

from gwrelay_bench.exchanges import Exchanges
from gwrelay_bench.filling import EARLY, LATE, fill
from gwrelay_bench.gateway import among_ours, flags
from gwrelay_bench.measure import Result, Target
from gwrelay_bench.rounds import AS_IT_COMES
from gwrelay_bench.scenario import Bench, Size, as_module, scenario
from gwrelay_bench.spooling import checkpoints, read_once
from gwrelay_bench.starting import Start, start

#: Seconds over reading the files once that a start without checkpoint may take, and that one
#: with it may take in all.
_WHOLE_S, _SHORT_S = 20.0, 5.0
_MESSAGE_BYTES = 600
_STALL_MS = 100.0
#: Of so many messages one is for a destination that takes mail.
_ALIVE_OF = 1000


@click.command("queue_million")
@click.option(
    "--messages", default=1_000_000, show_default=True, type=click.IntRange(min=10),
    help="Waiting.",
)  # fmt: skip
@click.option("--size", default="4K", show_default=True, type=Size(), help="Of each message.")
@click.option("--destinations", default=10_000, show_default=True, type=click.IntRange(min=1))
@click.option("--due-now", is_flag=True, help="All are due at once, not over the next hours.")
@click.option("--cold", is_flag=True, help="Drop the files from the page cache before each start.")
@click.option("--limit", default=600.0, show_default=True, help="Seconds a start may take.")
@scenario
def command(
    bench: Bench,
    messages: int,
    size: int,
    destinations: int,
    due_now: bool,
    cold: bool,
    limit: float,
) -> None:
    """A gateway starts on 1,000,000 waiting messages: memory, time, stalls of its loop."""
    alive = max(4, messages // _ALIVE_OF)
    settings = {
        "messages": messages,
        "bytes": size,
        "destinations": destinations,
        "due": "now" if due_now else "over 4 hours",
        "page_cache": "dropped" if cold else "as filling left it",
        "flags": AS_IT_COMES,
    }
    with Exchanges() as exchanges:
        empty = _start(bench.directory / "empty", exchanges, EARLY, None, limit)
        spool = bench.directory / "full" / "spool" / "worker-0"
        with bench.steps("filling", messages) as advance:
            fill(
                spool, messages, destinations=destinations, size_bytes=size, alive=alive,
                due_now=due_now, advance=advance,
            )  # fmt: skip
        for path in checkpoints(spool):
            path.unlink()
        waiting = messages
        for domain in (EARLY, LATE):
            told = {**settings, "checkpoint": bool(checkpoints(spool))}
            told["segments_bytes"], read_s = read_once(spool, cold)
            with bench.steps(f"starting on {waiting:,} messages", 1):
                # Not all of them: some have been delivered until it says how many there are.
                found = _start(bench.directory / "full", exchanges, domain, waiting - alive, limit)
            waiting -= found.delivered
            bench.tell(_result(told, waiting, found, empty, read_s))
            exchanges.wake_late()


def _start(
    directory: Path, exchanges: Exchanges, domain: str, waiting: int | None, limit_s: float
) -> Start:
    """On `waiting` deliveries at least; None: on an empty spool."""
    directory.mkdir(exist_ok=True)
    return start(
        directory, flags(among_ours(exchanges.dns_port, exchanges.smtp_port)), exchanges.sink,
        domain=domain, waiting=waiting or 0, delivers_waiting=waiting is not None, limit_s=limit_s,
    )  # fmt: skip


def _result(
    settings: dict[str, Any], waiting: int, found: Start, empty: Start, read_s: float
) -> Result:
    ready_limit_s = _SHORT_S if settings["checkpoint"] else read_s + _WHOLE_S
    figures = {
        "waiting": waiting,
        "bytes_per_message": round((found.resident_bytes - empty.resident_bytes) / waiting, 1),
        "served_before_loaded": _before(found.first_accept_s, found.loaded_s)
        and _before(found.first_delivery_s, found.loaded_s)
        and _before(found.first_waiting_delivery_s, found.loaded_s),
        **found._asdict(),
    }
    return Result(
        "queue_million",
        settings,
        {
            **{name: round(v, 3) if isinstance(v, float) else v for name, v in figures.items()},
            "loaded_per_s": round(waiting / found.loaded_s),
            "cpu_s_per_1000": round(1000 * found.cpu_s / waiting, 6),
        },
        {
            "ready_s": round(empty.ready_s, 3),
            "read_s": round(read_s, 3),
            "resident_bytes": empty.resident_bytes,
            "peak_bytes": empty.peak_bytes,
            "dot_to_250_ms": empty.dot_to_250_ms,
            "stall_ms": empty.stall_ms,
            "collector_ms": empty.collector_ms,
        },
        round(found.ready_s, 3) / round(read_s, 3) if round(read_s, 3) else None,
        targets=[
            Target("bytes_per_message", at_most=_MESSAGE_BYTES),
            Target("served_before_loaded", at_least=1),
            Target("ready_s", at_most=round(ready_limit_s, 1)),
            Target("stall_ms.max", at_most=_STALL_MS),
        ],
    )


def _before(moment_s: float | None, loaded_s: float) -> bool:
    return moment_s is not None and moment_s < loaded_s


if __name__ == "__main__":
    as_module(__spec__.name)
