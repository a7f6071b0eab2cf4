"""What the commands of `gwrelay bench` have in common: where they write, and how they tell.

A scenario is a module of this package with a click command named `command`, and its name in
scenarios.py.  Its results are shown as a table when it is done; with --json each is a line of
JSON as soon as it is known, and the table goes to standard error.
"""

import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from gwrelay.errors import ConfigError, GatewayError
from gwrelay.notation import read_size
from gwrelay_bench.bars import progress
from gwrelay_bench.gateway import GatewayDied
from gwrelay_bench.machine import filesystem
from gwrelay_bench.measure import Result, emit
from gwrelay_bench.table import print_results


class Size(click.ParamType):
    """Bytes, written as the gateway's settings are: 4096, 64K, 100M."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return read_size(str(value))
        except ValueError as error:
            self.fail(f"{value!r} {error}; write bytes, or a number with its unit, like 100M")


class BenchFailed(GatewayError):
    """What was measured did not do its work, so that the figures mean nothing."""


class Bench:
    """One run of a scenario: its directory, which is removed after it, and its results."""

    def __init__(self, directory: Path, as_json: bool) -> None:
        self.directory = directory
        self.settings = {"filesystem": str(filesystem(directory))}
        self.console = Console(stderr=as_json, highlight=False)
        self._as_json = as_json
        self._results: list[Result] = []

    def tell(self, result: Result) -> None:
        """Keep `result` for the table; `settings` say on which filesystem it was measured."""
        result = result._replace(settings={**self.settings, **result.settings})
        self._results.append(result)
        if self._as_json:
            emit(result)

    def show(self) -> None:
        print_results(self._results, self.console)

    @contextmanager
    def steps(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar on a terminal; call what it gives with the steps done since."""
        with progress(self.console) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, advance=done, refresh=True)


def scenario(measure: Callable[..., None]) -> Callable[..., Callable[[], int]]:
    """Give `measure(bench, **options)` the options that all scenarios have.

    What the command returns is to be run: click would take an EOFError of it for its own.
    """

    @click.option(
        "--dir",
        "parent",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
        help="Where to write.  [the system's temporary directory]",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
    @functools.wraps(measure)
    def start(parent: Path | None, as_json: bool, **options: Any) -> Callable[[], int]:
        return lambda: _run(measure, parent, as_json, options)

    return start


def as_module(module: str | None) -> None:
    """`python -m gwrelay_bench.NAME` is `gwrelay bench NAME`, which patches before it imports."""
    name = (module or "").rpartition(".")[2]
    os.execv(sys.executable, [sys.executable, "-m", "gwrelay", "bench", name, *sys.argv[1:]])


def _run(
    measure: Callable[..., None], parent: Path | None, as_json: bool, options: dict[str, Any]
) -> int:
    with place_below(parent) as directory:
        bench = Bench(directory, as_json)
        measure(bench, **options)
    bench.show()
    return 0


@contextmanager
def place_below(parent: Path | None) -> Iterator[Path]:
    """A directory for one run, removed after it.  Raises BenchFailed for a gateway that died, and
    ConfigError where nothing would be synced and nobody asked for that."""
    directory = Path(tempfile.mkdtemp(prefix="gwrelay-bench-", dir=_place(parent)))
    try:
        yield directory
    except GatewayDied as error:
        raise BenchFailed(str(error)) from error
    finally:
        shutil.rmtree(directory)


def _place(parent: Path | None) -> Path:
    """Who names a tmpfs gets one."""
    if parent is not None:
        return parent
    usual = Path(tempfile.gettempdir())
    if not filesystem(usual).syncs:
        raise ConfigError(
            f"--dir: {usual} is a {filesystem(usual).kind}, where nothing is synced; "
            "name a directory on a disk"
        )
    return usual
