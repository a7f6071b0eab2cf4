"""`gwrelay bench idle`: what a million messages cost while the one host they are for is dead.

They fill the spool as they came, and the gateway finds out by itself that their host refuses, or
does not answer.  Once it has put all of them off, its CPU time is taken over several turns of the
host's mark; the baseline is an empty gateway, beside it at the same time.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import gevent

from gwrelay.admin.control import ask
from gwrelay_bench.exchanges import Exchanges
from gwrelay_bench.filling import fill
from gwrelay_bench.gateway import Gateway, among_ours, flags
from gwrelay_bench.machine import Usage, usage, wakes
from gwrelay_bench.measure import Result, Target
from gwrelay_bench.scenario import Bench, BenchFailed, Size, as_module, scenario

#: Of a core, that what waits may take.
_SHARE = 0.01
#: Seconds that a delivery may be overdue when the gateway has put all of them off.
_OVERDUE_S = 0.5
_POLL_S = 0.5


@click.command("idle")
@click.option(
    "--messages", default=1_000_000, show_default=True, type=click.IntRange(min=1),
    help="Waiting for one dead host.",
)  # fmt: skip
@click.option("--size", default="1K", show_default=True, type=Size(), help="Of each message.")
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
    help="To measure.",
)  # fmt: skip
@click.option(
    "--bad-time", default="5s..15s", show_default=True,
    help="The gateway's --mx-bad-time: the host is probed again that often.",
)  # fmt: skip
@click.option("--hangs", is_flag=True, help="Connecting times out (3 s), and is not refused.")
@click.option("--limit", default=900.0, show_default=True, help="Seconds until all is put off.")
@scenario
def command(
    bench: Bench,
    messages: int,
    size: int,
    seconds: float,
    bad_time: str,
    hangs: bool,
    limit: float,
) -> None:
    """CPU time while 1,000,000 messages wait for one dead host."""
    settings = {
        "messages": messages,
        "bytes": size,
        "bad_time": bad_time,
        "dead_host": "hangs" if hangs else "refuses",
    }
    empty_place, full_place = bench.directory / "empty", bench.directory / "full"
    with bench.steps("filling", messages) as advance:
        fill(
            full_place / "spool" / "worker-0", messages, destinations=1, size_bytes=size,
            alive=0, due_now=True, advance=advance,
        )  # fmt: skip
    with Exchanges(down_hangs=hangs) as exchanges:
        words = flags(
            among_ours(exchanges.dns_port, exchanges.smtp_port)
            | {"--connect-timeout": "3s", "--mx-bad-time": bad_time, "--workers": "1"}
        )
        with _gateway(empty_place, words) as empty, _gateway(full_place, words) as full:
            with bench.steps(f"putting {messages:,} messages off", 1):
                put_off_s = full.await_put_off(messages, limit)
            before = full.look(), empty.look()
            with bench.steps("measuring", 1):
                gevent.sleep(seconds)
            after = full.look(), empty.look()
    found, nothing = (_figures(*pair) for pair in zip(before, after, strict=True))
    share = nothing["core_share"]
    bench.tell(
        Result(
            "idle",
            settings,
            {"put_off_s": round(put_off_s, 1), **found},
            nothing,
            round(found["core_share"] / share, 1) if share else None,
            targets=[Target("core_share", at_most=_SHARE), Target("probes", at_least=2)],
        )
    )


class _Look(NamedTuple):
    """At a gateway, at one moment."""

    #: Monotonic.
    at: float
    used: Usage
    wakes: int
    #: Attempts that ended, since it started.
    attempts: int


@contextmanager
def _gateway(directory: Path, arguments: list[str]) -> Iterator["_Watched"]:
    """One that has started, until the end of the block."""
    directory.mkdir(exist_ok=True)
    gateway = Gateway(directory, arguments)
    try:
        gateway.await_ready()
        yield _Watched(gateway, directory / "spool" / "admin.sock")
    finally:
        gateway.kill()


class _Watched:
    """A gateway, and its control socket."""

    def __init__(self, gateway: Gateway, control: Path) -> None:
        self._gateway = gateway
        self._control = str(control)

    def await_put_off(self, messages: int, limit_s: float) -> float:
        """Return when each of them waits for a later time: the seconds it took since the gateway
        was ready.  Raises GatewayDied, or BenchFailed after `limit_s`."""
        began = time.monotonic()
        while not _has_put_off(said := ask(self._control, "status").result, messages):
            self._gateway.check()
            if time.monotonic() - began > limit_s:
                raise BenchFailed(f"not all is put off after {limit_s:g} s; its status: {said}")
            gevent.sleep(_POLL_S)
        return time.monotonic() - began

    def look(self) -> _Look:
        """Raises GatewayDied."""
        self._gateway.check()
        pid = self._gateway.pid
        return _Look(time.monotonic(), usage(pid), wakes(pid), len(self._gateway.events()))


def _has_put_off(status: dict[str, Any], messages: int) -> bool:
    if not status["loaded"] or not status["dead_sites"]:
        return False
    is_waiting: bool = status["waiting"] + status["relaying"] == messages
    return is_waiting and status["next_due_at"] > time.time() - _OVERDUE_S


def _figures(before: _Look, after: _Look) -> dict[str, Any]:
    seconds = after.at - before.at
    return {
        "core_share": round((after.used.cpu_s - before.used.cpu_s) / seconds, 5),
        "wakes_per_s": round((after.wakes - before.wakes) / seconds, 1),
        "probes": after.attempts - before.attempts,
        "resident_bytes": after.used.resident_bytes,
    }


if __name__ == "__main__":
    as_module(__spec__.name)
