"""The gateway as its operators run it: its own processes, a spool, an events file.

with Gateway(tmp_path, "--smarthost", peer.spec) as gateway:
    submit(gateway.port, "a@x.example", ["b@y.example"], content)
    gateway.wait_for("delivered", recipient="b@y.example")
"""

import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from support.processes import Program, await_true, children

Event = dict[str, Any]

HOSTNAME = "gw.example"
_READY = re.compile(r"ready: listening on 127\.0\.0\.1:(\d+)")


class Gateway:
    """One spool and the process that serves it; `start` again after it ended keeps the spool."""

    def __init__(
        self,
        directory: Path,
        *flags: str,
        spool: Path | None = None,
        environment: dict[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.spool = spool or directory / "spool"
        self.events_path = directory / "events.jsonl"
        self.flags = flags
        self.environment = environment or {}
        self.python = python
        self.port = 0
        self.running: Program | None = None
        self._starts = 0

    @property
    def spec(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.kill()

    def start(self, *more_flags: str, timeout: float = 20.0) -> Self:
        """Start it and wait until it says that it accepts connections."""
        self.launch(*more_flags)
        ready = self.process.await_ready(lambda: _READY.search(self.process.output), timeout)
        self.port = int(ready[1])
        return self

    def launch(self, *more_flags: str) -> Program:
        """Start it and leave it at that."""
        self._starts += 1
        environment = {name: value for name, value in os.environ.items() if "GWRELAY" not in name}
        self.running = Program(
            [
                *(self.python, "-m", "gwrelay", "serve"),
                *("--listen", "127.0.0.1:0"),
                *("--spool", str(self.spool)),
                *("--hostname", HOSTNAME),
                *("--events", str(self.events_path)),
                *("--min-free-space", "0"),
                # Tests count sessions, and kill the one process that has them; those of several
                # workers say so.
                *("--workers", "1"),
                *(*self.flags, *more_flags),
            ],
            self.directory / f"gateway-{self._starts}.log",
            environment={**environment, **self.environment},
        )
        return self.running

    @property
    def process(self) -> Program:
        assert self.running is not None, "the gateway was never started"
        return self.running

    @property
    def worker_pids(self) -> list[int]:
        """Of the processes that carry mail; `process` is the one which watches them."""
        return children(self.process.popen.pid)

    @property
    def worker_pid(self) -> int:
        [pid] = self.worker_pids
        return pid

    @property
    def log(self) -> str:
        """What the present or latest process wrote to its standard error."""
        return self.process.output

    # -- events -------------------------------------------------------------------------

    def events(self, kind: str = "", **fields: object) -> list[Event]:
        """The events so far, or those of `kind` whose fields are as given."""
        if not self.events_path.exists():
            return []
        lines = self.events_path.read_text().splitlines(keepends=True)
        # A line being written has no end yet; one cut short by a kill has a start of another.
        parsed = [json.loads(line) for line in lines if line.endswith("}\n")]
        return [
            event
            for event in parsed
            if (not kind or event["event"] == kind)
            and all(event.get(name) == value for name, value in fields.items())
        ]

    def wait_for(
        self, kind: str = "", *, count: int = 1, timeout: float = 15.0, **fields: object
    ) -> list[Event]:
        """Return the matching events once there are `count` of them."""
        self.wait_until(
            lambda: len(self.events(kind, **fields)) >= count,
            f"{count} x {kind} {fields}",
            timeout,
        )
        return self.events(kind, **fields)

    def wait_until(
        self, condition: Callable[[], object], what: str = "", timeout: float = 15.0
    ) -> None:
        """Return once `condition()` is true; fails with the events and the log in the message."""
        await_true(
            condition,
            lambda: f"{what}\nevents: {self.events()[-12:]}\nlog: {self.log[-3000:]}",
            timeout,
            every=0.02,
        )

    # -- its end ------------------------------------------------------------------------

    def terminate(self, timeout: float = 20.0) -> int:
        """SIGTERM; the exit status.  Fails when it does not go in `timeout` seconds."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.popen.wait(timeout)

    def kill(self) -> None:
        """kill -9, without warning."""
        if self.running is not None:
            self.running.stop(signal.SIGKILL)


#: The fixture of tests/flow: start a gateway with these flags.
StartGateway = Callable[..., Gateway]


def without_received(content: bytes) -> bytes:
    """`content` less its topmost field, which must be a Received field by this gateway."""
    lines = content.split(b"\r\n")
    assert lines[0].startswith(b"Received: "), lines[0]
    end = 1
    while lines[end][:1] in (b" ", b"\t"):
        end += 1
    assert f"by {HOSTNAME} ".encode() in b" ".join(lines[:end]).replace(b"\t", b" "), lines[:end]
    return b"\r\n".join(lines[end:])


def expected_once(recipients: Iterable[str], arrived: Counter[str]) -> None:
    """Fails, with a short list, unless each of `recipients` arrived once and nobody else did."""
    wanted = Counter(recipients)
    missing, surplus = wanted - arrived, arrived - wanted
    assert not missing + surplus, (
        f"{missing.total()} missing: {sorted(missing)[:5]};"
        f" {surplus.total()} too many: {sorted(surplus.items())[:5]}"
    )
