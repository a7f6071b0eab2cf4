"""A sink for throughput, of one process: takes all mail, and knows what came, and what came again.

As a program: `python -m gwrelay_bench.loadsink RECEPTION LEDGER LOAD`, the Reception and the Load
as JSON objects; prints the port it has.  What arrives stands in the ledger; content is compared
with what was sent, behind whatever fields were put before it.

sink.py is for who wants each arrival, faults and greenlets.
"""

import re
import sys
import time
from json import loads
from pathlib import Path

from gwrelay_bench.acceptor import Acceptor, server_context
from gwrelay_bench.ledger import AGAIN, ARRIVED, SPOILT, STRANGE, Ledger
from gwrelay_bench.load import Load, Reception
from gwrelay_bench.loadtalk import Conversation
from gwrelay_bench.machine import die_with_parent, let_others_run, raise_file_limit
from gwrelay_bench.submission import text_content

_OURS = re.compile(rb"RCPT TO:<r(\d+)@", re.IGNORECASE)


class LoadSink(Acceptor):
    def __init__(self, reception: Reception, load: Load, ledger: Ledger) -> None:
        self._arrived_at = ledger.arrived_at
        self._content = text_content(load.size_bytes)
        self._delay_s = reception.delay_s
        context = server_context(reception.certificate) if reception.certificate else None
        super().__init__(reception.addresses, reception.port, ledger.counters, context)

    def _converse(self) -> Conversation:
        return Conversation(
            self._arrive, demands_tls=self._context is not None, delay_s=self._delay_s
        )

    def _arrive(self, envelope: bytes, content: bytes, size: int) -> None:
        """`size` bytes of `content` are the message."""
        counters, arrived_at = self._counters, self._arrived_at
        numbers = _OURS.findall(envelope)
        for text in numbers:
            number = int(text)
            if number >= len(arrived_at):
                counters[STRANGE] += 1
            elif arrived_at[number]:
                counters[AGAIN] += 1
            else:
                arrived_at[number] = time.time()
                counters[ARRIVED] += 1
        if not numbers:
            counters[STRANGE] += 1
        start = size - len(self._content)
        if start < 0 or not content.startswith(self._content, start):
            counters[SPOILT] += 1


if __name__ == "__main__":
    die_with_parent()
    raise_file_limit()
    let_others_run()
    load = Load(**loads(sys.argv[3]))
    ledger = Ledger(Path(sys.argv[2]), load.messages)
    sink = LoadSink(Reception(**loads(sys.argv[1])), load, ledger)
    print(sink.port, flush=True)
    sink.run()
