"""`gwrelay bench big`: large messages at once through a gateway, and the memory it takes.

The baseline is the same messages from the same client straight into the same sink.
"""

import os
import time
from base64 import b64encode
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import click

from gwrelay_bench.accounting import account
from gwrelay_bench.carriage import Carriage
from gwrelay_bench.figures import latency, latency_from
from gwrelay_bench.gateway import Gateway, flags
from gwrelay_bench.machine import footprint, usage
from gwrelay_bench.measure import Result, Target
from gwrelay_bench.relays import counted_at
from gwrelay_bench.scenario import Bench, BenchFailed, Size, as_module, scenario
from gwrelay_bench.sink import Sink
from gwrelay_bench.sinksession import Arrival
from gwrelay_bench.source import Source
from gwrelay_bench.submission import Receipt, Submission

#: What may be taken over idle, however large the messages.
_MEMORY_BYTES = 300_000_000
#: Seconds that one message may take to arrive.
_PATIENCE_S = 120.0
#: Random bytes in a line, 76 in base64.
_LINE = 57


@click.command("big")
@click.option("--size", default="100M", show_default=True, type=Size(), help="Of each message.")
@click.option("--messages", default=4, show_default=True, type=click.IntRange(1, 64))
@scenario
def command(bench: Bench, size: int, messages: int) -> None:
    """Large messages at once through a gateway: memory over idle, MB/s, every byte compared."""
    content = random_content(size)
    submissions = [
        Submission(f"s{number}@source.example", ("r@sink.example",), content)
        for number in range(messages)
    ]
    direct_s = _straight(submissions)
    sink = Sink(digest=False, keep_content=True)
    with ExitStack() as stack:
        stack.callback(sink.close)
        words = flags(_settings(size))
        gateway = Gateway(bench.directory, [*flags(_around(sink.listen())), *words])
        stack.callback(gateway.kill)
        carriage = stack.enter_context(
            Carriage(
                gateway.await_ready(), gateway.check, sink, bench.console, patience_s=_PATIENCE_S
            )
        )
        _carry(carriage, "warming up", [Submission("", ("r@sink.example",), b"\r\n")])
        idle = usage(gateway.pid)
        seconds = _carry(carriage, "big", submissions)
        busy = usage(gateway.pid)
        peak_bytes, processes = footprint(gateway.pid)
        counted = counted_at(str(bench.directory / "spool" / "admin.sock"))
        gateway.stop()
    done = account(carriage.sent, sink.arrivals, gateway.events())
    if done.problems:
        raise BenchFailed("\n".join(map(str, done.problems)))
    cpu_s = busy.cpu_s - idle.cpu_s
    figures = {
        "arrived_identical": done.at_once + done.retried - 1,
        "per_s": round(messages / seconds, 2),
        "mb_per_s": _mb_per_s(size, messages, seconds),
        **_latencies(carriage.receipts, sink.arrivals),
        "cpu_s_per_1000": round(1000 * cpu_s / messages, 4),
        "idle_bytes": idle.resident_bytes,
        "peak_over_idle_bytes": busy.peak_bytes - idle.resident_bytes,
        "peak_bytes": peak_bytes,
        "processes": processes,
        **counted,
    }
    bench.tell(_result(size, messages, " ".join(words), figures, direct_s))


def random_content(size_bytes: int) -> bytes:
    """Lines that no other line is like, some with a dot in front, of `size_bytes` or a few less."""
    line_bytes = len(b64encode(bytes(_LINE))) + len(b".\r\n")
    lines = max(1, size_bytes // line_bytes)
    material = b64encode(os.urandom(_LINE * lines))
    step = line_bytes - 3
    return b"".join(b".%b\r\n" % material[at : at + step] for at in range(0, len(material), step))


def _around(sink_port: int) -> dict[str, str]:
    return {
        "--listen": "127.0.0.1:0",
        "--hostname": "gw.bench.example",
        "--smarthost": f"127.0.0.1:{sink_port}",
        "--min-free-space": "0",
    }


def _settings(size: int) -> dict[str, str]:
    """Room for the messages and the field on top of each."""
    return {"--max-message-size": str(2 * size), "--workers": "1"}


def _straight(submissions: Sequence[Submission]) -> float:
    """Seconds to hand them to a sink without a gateway between."""
    sink = Sink(digest=False)
    try:
        source = Source("127.0.0.1", sink.listen(), sessions=len(submissions))
        began = time.perf_counter()
        receipts = source.run(submissions)
        seconds = time.perf_counter() - began
    finally:
        sink.close()
    if not all(receipt.accepted for receipt in receipts):
        raise BenchFailed(f"the sink did not take them: {receipts[-1].text}")
    return seconds


def _carry(carriage: Carriage, what: str, submissions: list[Submission]) -> float:
    """Seconds from the first MAIL to the last arrival."""
    seconds = carriage.carry(what, submissions, len(submissions))
    if carriage.failures or not seconds:
        raise BenchFailed("\n".join(carriage.failures or [f"{what}: not all of it arrived"]))
    return seconds


def _latencies(receipts: Sequence[Receipt], arrivals: Sequence[Arrival]) -> dict[str, Any]:
    """Of all but what it was warmed up with, which has no sender."""
    big = [receipt for receipt in receipts if receipt.submission.reverse_path]
    answered_at = {receipt.submission.reverse_path: receipt.answered_at for receipt in big}
    arrived_at = {arrival.reverse_path: arrival.at for arrival in arrivals}
    return {
        "dot_to_250_ms": latency([one.answered_at - one.sent_at for one in big]),
        "to_arrival_ms": latency_from(answered_at, arrived_at),
    }


def _result(
    size: int, messages: int, words: str, figures: dict[str, Any], direct_s: float
) -> Result:
    direct_mb_per_s = _mb_per_s(size, messages, direct_s)
    return Result(
        "big",
        {"bytes": size, "messages": messages, "flags": words},
        figures,
        {"per_s": round(messages / direct_s, 2), "mb_per_s": direct_mb_per_s},
        figures["mb_per_s"] / direct_mb_per_s,
        targets=[Target("peak_over_idle_bytes", at_most=_MEMORY_BYTES)],
    )


def _mb_per_s(size: int, messages: int, seconds: float) -> float:
    return round(size * messages / 1e6 / seconds, 1)


if __name__ == "__main__":
    as_module(__spec__.name)
