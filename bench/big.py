"""`gwrelay bench big`: large messages at once through a gateway, and the memory it takes.

The baseline is the same messages from the same client straight into the same sink.
"""

import os
import time
from base64 import b64encode
from collections.abc import Sequence
from contextlib import ExitStack

import click

from gwrelay_bench.accounting import Account, account
from gwrelay_bench.carriage import Carriage
from gwrelay_bench.figures import percentile
from gwrelay_bench.gateway import Gateway, flags
from gwrelay_bench.machine import Usage, usage
from gwrelay_bench.measure import Result, Target
from gwrelay_bench.scenario import Bench, BenchFailed, Size, as_module, scenario
from gwrelay_bench.sink import Sink
from gwrelay_bench.source import Source
from gwrelay_bench.submission import Submission

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
        settings = _settings(sink.listen(), size)
        gateway = Gateway(bench.directory, flags(settings))
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
        gateway.stop()
    done = account(carriage.sent, sink.arrivals, gateway.events())
    if done.problems:
        raise BenchFailed("\n".join(map(str, done.problems)))
    bench.tell(_result(size, messages, seconds, direct_s, done, idle, busy))


def random_content(size_bytes: int) -> bytes:
    """Lines that no other line is like, some with a dot in front, of `size_bytes` or a few less."""
    line_bytes = len(b64encode(bytes(_LINE))) + len(b".\r\n")
    lines = max(1, size_bytes // line_bytes)
    material = b64encode(os.urandom(_LINE * lines))
    step = line_bytes - 3
    return b"".join(b".%b\r\n" % material[at : at + step] for at in range(0, len(material), step))


def _settings(sink_port: int, size: int) -> dict[str, str]:
    """Room for the messages and the field on top of each."""
    return {
        "--listen": "127.0.0.1:0",
        "--hostname": "gw.bench.example",
        "--smarthost": f"127.0.0.1:{sink_port}",
        "--max-message-size": str(2 * size),
        "--min-free-space": "0",
        "--workers": "1",
    }


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


def _result(
    size: int,
    messages: int,
    seconds: float,
    direct_s: float,
    done: Account,
    idle: Usage,
    busy: Usage,
) -> Result:
    total_mb = size * messages / 1e6
    mb_per_s, direct_mb_per_s = round(total_mb / seconds, 1), round(total_mb / direct_s, 1)
    return Result(
        "big",
        {"bytes": size, "messages": messages},
        {
            "arrived_identical": done.at_once + done.retried - 1,
            "mb_per_s": mb_per_s,
            "accepted_to_delivered_s": round(percentile(sorted(done.at_once_s), 1.0), 3),
            "idle_bytes": idle.resident_bytes,
            "peak_over_idle_bytes": busy.peak_bytes - idle.resident_bytes,
            "cpu_s": round(busy.cpu_s - idle.cpu_s, 2),
        },
        {"mb_per_s": direct_mb_per_s},
        mb_per_s / direct_mb_per_s,
        targets=[Target("peak_over_idle_bytes", at_most=_MEMORY_BYTES)],
    )


if __name__ == "__main__":
    as_module(__spec__.name)
