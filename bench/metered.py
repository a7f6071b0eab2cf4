"""A gateway of one process with a meter in its loop, for benches: a worker without a supervisor.

SIGUSR1 has it append what it measured so far to the file --figures as a line of JSON; it does
so once more when it ends.
"""

import gc
import importlib
import signal
import time
from json import dumps
from pathlib import Path

import click
import gevent

from gwrelay.cli import run
from gwrelay_bench.measure import Meter


class Collections:
    """How long the garbage collector stopped everything, while open."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.total_s = 0.0
        self._began = 0.0

    def __enter__(self) -> "Collections":
        gc.callbacks.append(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, _: object) -> None:
        if phase == "start":
            self._began = time.perf_counter()
            return
        seconds = time.perf_counter() - self._began
        self.longest_s = max(self.longest_s, seconds)
        self.total_s += seconds


@click.command(
    "metered",
    hidden=True,
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.option("--figures", required=True, type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(figures: Path, arguments: tuple[str, ...]) -> int:
    """Serve with ARGUMENTS."""
    # What is loaded before there is a loop is no stall of it.
    importlib.import_module("gwrelay.service")
    with Collections() as collections, Meter() as meter:

        def note() -> None:
            line = {
                "stall_ms": meter.stalls(),
                "collector_ms": {
                    "max": round(collections.longest_s * 1000, 3),
                    "total": round(collections.total_s * 1000, 3),
                },
            }
            with figures.open("a") as file:
                file.write(dumps(line) + "\n")

        gevent.signal_handler(signal.SIGUSR1, note)
        status = run(["serve", "--worker", "0", *arguments])
    note()
    return status
