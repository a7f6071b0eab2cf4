"""The process that benches run a gateway in."""

import subprocess
import sys
from pathlib import Path

_INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from gwrelay_bench.gateway import Gateway

signal.signal(signal.SIGINT, signal.default_int_handler)
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    Gateway(Path(sys.argv[1]), ["--listen", "127.0.0.1:0", "--hostname", "gw.example"])
except KeyboardInterrupt:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print("interrupted, nobody left")
"""


def test_an_interrupt_while_it_is_started_is_not_lost_and_leaves_no_gateway(tmp_path: Path) -> None:
    words = [sys.executable, "-c", _INTERRUPTED, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "interrupted, nobody left\n"
