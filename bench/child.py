"""A bench's own servers and clients as processes, so that they do not share our interpreter."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from json import loads
from typing import Any, NamedTuple

from gwrelay_bench.scenario import BenchFailed


class Child(NamedTuple):
    pid: int
    port: int


@contextmanager
def running(module: str, *arguments: str) -> Iterator[Child]:
    """Run `module` with `arguments` until the end of the block.  It prints its port first; raises
    BenchFailed when it does not, its own words being on standard error."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C is for the bench, which ends this one: it need not say that it was.
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said:
            raise BenchFailed(f"{module} did not start")
        yield Child(process.pid, int(said))
    finally:
        process.kill()
        process.communicate()


@contextmanager
def port_of(module: str, *arguments: str) -> Iterator[int]:
    """The port alone."""
    with running(module, *arguments) as child:
        yield child.port


class Client:
    """`module` with `arguments`, which runs to its end and then prints one small JSON object.
    `heard` is what it finds on standard input."""

    def __init__(self, module: str, *arguments: str, heard: bytes = b"") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE if heard else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if self._process.stdin is not None:
            self._process.stdin.write(heard)
            self._process.stdin.close()
            self._process.stdin = None  # nobody is to close it once more

    @property
    def is_done(self) -> bool:
        """Raises BenchFailed when it ended before it was done; its own words are on standard
        error."""
        status = self._process.poll()
        if status:
            raise BenchFailed(f"a client of the bench ended with status {status}")
        return status is not None

    def said(self) -> dict[str, Any]:
        """Only once it is done."""
        assert self._process.stdout is not None
        return dict(loads(self._process.stdout.read()))

    def terminate(self) -> None:
        """Ask it to end and to say what it knows by now."""
        self._process.terminate()
        self._process.wait()

    def end(self) -> None:
        """However far it is."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
