"""Run a piece of a program as the gateway runs: with everything patched before it is imported.

For tests that need several relayers at work at once.  The suite itself runs unpatched, where a
blocking call blocks all greenlets.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

_TESTS = Path(__file__).resolve().parent.parent


def run_patched(source: str, timeout: float = 30.0) -> "subprocess.CompletedProcess[str]":
    """Run `source`, indented as it may be.  AssertionError, with all it said, if it fails."""
    program = "from gevent import monkey\nmonkey.patch_all()\n" + textwrap.dedent(source)
    path = os.pathsep.join((str(_TESTS), str(_TESTS.parent), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        cwd=_TESTS.parent,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done
