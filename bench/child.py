"""A server of a bench as a process of its own, so that it does not share our interpreter."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Child(NamedTuple):
    pid: int
    port: int


@contextmanager
def running(module: str, *arguments: str) -> Iterator[Child]:
    """Run `module` with `arguments` until the end of the block.  It prints its port first."""
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
        yield Child(process.pid, int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


@contextmanager
def port_of(module: str, *arguments: str) -> Iterator[int]:
    """The port alone."""
    with running(module, *arguments) as child:
        yield child.port
