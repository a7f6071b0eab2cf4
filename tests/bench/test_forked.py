"""Processes that benches fork."""

import subprocess
import sys

_INTERRUPTED = """
import os, signal
from gwrelay_bench.forked import Popen

signal.signal(signal.SIGINT, signal.default_int_handler)
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    Popen(["sleep", "60"])
except KeyboardInterrupt:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("interrupted, nobody left")
"""


def test_an_interrupt_meanwhile_is_not_lost_and_leaves_no_process() -> None:
    words = [sys.executable, "-c", _INTERRUPTED]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("interrupted, nobody left\n", "")
