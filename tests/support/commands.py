"""The commands of gwrelay, as programs of their own."""

import os
import subprocess
import sys

from support.gateway import Gateway


def gwrelay(
    *arguments: str, status: int = 0, at: Gateway | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the command; AssertionError unless it ends with `status`."""
    environment = {name: text for name, text in os.environ.items() if "GWRELAY" not in name}
    spool = ["--spool", str(at.spool)] if at else []
    done = subprocess.run(
        [sys.executable, "-m", "gwrelay", *arguments, *spool],
        capture_output=True,
        timeout=30,
        env=environment,
        check=False,
    )
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done
