"""Processes that greenlets start and wait for.

gevent forks for them, and Python runs hooks around a fork, logging's among them: what these raise
is lost, a Ctrl-C too.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gevent import subprocess


class Popen(subprocess.Popen):
    """gevent's.  A Ctrl-C meanwhile ends the process again and is raised then."""

    def __init__(self, command: list[Any], **options: Any) -> None:
        with _interrupts_noted() as noted:
            super().__init__(command, **options)
        if noted:
            self.kill()
            self.wait()
            raise KeyboardInterrupt


@contextmanager
def _interrupts_noted() -> Iterator[list[int]]:
    """Ctrl-C raises nothing during the block, and is told to it."""
    noted: list[int] = []
    usual = signal.getsignal(signal.SIGINT)
    # Another thread is not interrupted, and may not say what is to be done.
    in_charge = threading.get_ident() == threading.main_thread().ident
    if usual is not signal.default_int_handler or not in_charge:
        yield noted
        return
    signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, usual)
