"""`gwrelay ...` as operators type it, about a gateway that runs or has run."""

import json
import os
import subprocess
import sys
from typing import Any

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


def lines(*arguments: str, status: int = 0, at: Gateway | None = None) -> list[str]:
    return gwrelay(*arguments, status=status, at=at).stdout.decode().splitlines()


def said(*arguments: str, status: int = 0, at: Gateway | None = None) -> Any:
    return json.loads(gwrelay(*arguments, "--json", status=status, at=at).stdout)


def listed(*words: str, at: Gateway, status: int = 0) -> list[dict[str, Any]]:
    found = lines("queue", "list", *words, "--json", at=at, status=status)
    return [json.loads(line) for line in found]
