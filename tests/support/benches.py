"""`gwrelay bench` as its users call it: a process of its own, tiny runs, JSON lines back."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def bench(directory: Path, *arguments: str, timeout: float = 120) -> list[dict[str, Any]]:
    """The lines of a run that writes in `directory`, which it must leave as it was."""
    before = sorted(directory.iterdir())
    done = started(*arguments, "--json", "--dir", str(directory), timeout=timeout)
    assert done.returncode == 0, done.stderr
    assert sorted(directory.iterdir()) == before
    assert "measured" in done.stderr, "people get a table"
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for line in lines:
        assert line["bench"] == arguments[0]
        assert line["cores"] >= 1
        assert line["settings"]["filesystem"]
    return lines


def started(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "GWRELAY" not in name}
    return subprocess.run(
        [sys.executable, "-m", "gwrelay", "bench", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
