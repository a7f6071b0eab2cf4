"""One process of `gwrelay bench sink`: takes mail of anybody, and can be told to misbehave.

As a program: `python -m gwrelay_bench.sinkworker LEDGER REPORT`, with an Order as a JSON object on
standard input.  Counts in the ledger as it goes; when it is terminated it writes the file REPORT:
what Tally.told() says, the faults, and when the first and the last message came.
"""

import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from json import dumps, loads
from pathlib import Path
from typing import Any, TextIO

from gwrelay_bench.acceptor import Acceptor, server_context
from gwrelay_bench.behaviour import Greylist
from gwrelay_bench.ledger import FAULTS, LISTENS, Ledger
from gwrelay_bench.machine import die_with_parent, raise_file_limit
from gwrelay_bench.order import Order
from gwrelay_bench.sinksession import Arrival, SinkSession
from gwrelay_bench.tally import Known, Tally


class Terminated(Exception):
    """By SIGTERM."""


class Worker(Acceptor):
    def __init__(self, order: Order, ledger: Ledger, records: TextIO | None) -> None:
        self.tally = Tally(ledger.counters)
        self.faults: Counter[str] = Counter()
        #: When the first message came, and the last (Unix seconds); 0.0: none did.
        self.first_at = self.last_at = 0.0
        self._records = records
        self._rules = order.behaviour
        self._greylist = Greylist()
        self._offers_tls = bool(order.certificate) and not order.encrypts_at_once
        context = server_context(order.certificate) if order.certificate else None
        super().__init__(
            order.addresses, order.port, ledger.counters, context,
            encrypts_at_once=order.encrypts_at_once, reuse_port=True,
        )  # fmt: skip

    def _converse(self) -> SinkSession:
        return SinkSession(
            "", self._arrive, time.time, self._rules, self._greylist, digest=False,
            keep_content=True, offers_tls=self._offers_tls, on_fault=self._fail,
        )  # fmt: skip

    def _arrive(self, arrival: Arrival) -> None:
        known = self.tally.note(arrival)
        self.first_at = self.first_at or arrival.at
        self.last_at = arrival.at
        if self._records is not None:
            self._records.write(dumps(_record(arrival, known)) + "\n")

    def _fail(self, how: str) -> None:
        self.faults[how] += 1
        self._counters[FAULTS] += 1

    def told(self) -> dict[str, Any]:
        return {
            **self.tally.told(),
            "faults": self.faults,
            "first_at": self.first_at,
            "last_at": self.last_at,
        }


def _record(arrival: Arrival, known: Known) -> dict[str, Any]:
    return {
        "at": arrival.at,
        "id": known.identity,
        "reverse_path": arrival.reverse_path,
        "recipients": arrival.recipients,
        "bytes": arrival.size_bytes,
        "body_sha256": known.digest.hex(),
        "whole": known.is_whole,
    }


def _end(*_: object) -> None:
    raise Terminated


def _run(ledger: Ledger, report: Path, order: Order) -> None:
    signal.signal(signal.SIGTERM, _end)
    # Lines of several processes: each is written whole.
    records = open(order.records, "a", buffering=1) if order.records else None  # noqa: SIM115
    worker = Worker(order, ledger, records)
    ledger.counters[LISTENS] = 1
    with suppress(Terminated):
        worker.run()
    report.write_text(dumps(worker.told()))


if __name__ == "__main__":
    die_with_parent()
    raise_file_limit()
    _run(Ledger(Path(sys.argv[1]), 0), Path(sys.argv[2]), Order(**loads(sys.stdin.read())))
