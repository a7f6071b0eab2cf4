"""`gwrelay serve` as a process of its own, for demo and benches: start, await ready, stop."""

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from json import loads
from pathlib import Path
from typing import Any

import gevent
from gevent import subprocess

from gwrelay_bench.forked import Popen

_READY = re.compile(r"ready: listening on (\S+):(\d+)")
_POLL_S = 0.02


class GatewayDied(Exception):
    """The process ended, or never became ready.  Says so with the end of its log."""


def flags(settings: Mapping[str, str]) -> list[str]:
    """{"--listen": "127.0.0.1:0"} as words of a command line."""
    return [word for pair in settings.items() for word in pair]


def among_ours(dns_port: int, smtp_port: int) -> dict[str, str]:
    """The settings of one whose name server and exchanges are a bench's, on loopback; nothing that
    bears on mail in trouble is among them."""
    return {
        "--listen": "127.0.0.1:0",
        "--hostname": "gw.bench.example",
        "--resolver": f"127.0.0.1:{dns_port}",
        "--smtp-port": str(smtp_port),
        "--deny-host": "none",
        "--min-free-space": "0",
        "--shutdown-max": "1s",
    }


class Gateway:
    """One gateway with its spool, events and log in `directory`.

    The user's GWRELAY_* variables are kept from it: a run must mean the same everywhere.
    """

    def __init__(
        self, directory: Path, arguments: list[str], command: Sequence[str] = ("serve",)
    ) -> None:
        """`command` is what runs it: gwrelay's, or one that takes the same arguments."""
        self.events_path = directory / "events.jsonl"
        self.log_path = directory / "gateway.log"
        files = ["--spool", str(directory / "spool"), "--events", str(self.events_path)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GWRELAY_")}
        with self.log_path.open("wb") as log:
            self._process = Popen(
                [sys.executable, "-m", "gwrelay", *command, *files, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def log(self) -> str:
        """What it has said so far."""
        return self.log_path.read_text(errors="replace")

    def await_ready(self, timeout_s: float = 15.0) -> tuple[str, int]:
        """The first address it listens on.  Raises GatewayDied."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            ready = _READY.search(self.log())
            if ready is not None:
                return ready[1].strip("[]"), int(ready[2])
            self.check()
            gevent.sleep(_POLL_S)
        raise self._death(f"not ready after {timeout_s:g} s")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def check(self) -> None:
        """Raises GatewayDied if it no longer runs."""
        status = self._process.poll()
        if status is not None:
            raise self._death(f"ended with status {status}")

    def stop(self, timeout_s: float = 20.0) -> int:
        """SIGTERM, and the exit status.  Raises GatewayDied when it does not end in time."""
        self._process.terminate()
        try:
            return int(self._process.wait(timeout_s))
        except subprocess.TimeoutExpired:
            raise self._death(f"still ran {timeout_s:g} s after SIGTERM") from None

    def events(self) -> list[dict[str, Any]]:
        """Every event so far, oldest first; none when the file was never made."""
        if not self.events_path.exists():
            return []
        return [loads(line) for line in self.events_path.read_text().splitlines()]

    def kill(self) -> None:
        """End it whatever it does; nothing to do when it has ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _death(self, what: str) -> GatewayDied:
        """Ends it if need be."""
        self.kill()
        lines = self.log().splitlines()[-15:]
        return GatewayDied("\n".join([f"the gateway {what}; the end of its log:", *lines]))
