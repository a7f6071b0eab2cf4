"""A server of a bench as a process of its own, so that it does not share our interpreter."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def port_of(module: str, *arguments: str) -> Iterator[int]:
    """Run `module` with `arguments` until the end of the block; the port it prints first."""
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
