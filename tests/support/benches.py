"""`gwrelay bench` as its users call it: a process of its own, tiny runs, JSON lines back."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def serving(
    *arguments: str, number: int = signal.SIGTERM
) -> Iterator[tuple[int, Callable[[], dict[str, Any]]]]:
    """A tool that serves until it gets the signal `number`: its port, and a call that ends it and
    gives its line of JSON."""
    words = [sys.executable, "-m", "gwrelay", "bench", *arguments, "--json"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()

    def end() -> dict[str, Any]:
        os.killpg(process.pid, number)
        out, said = process.communicate(timeout=20)
        assert process.returncode == 0, said
        assert "Traceback" not in said
        return dict(json.loads(out))

    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        ready = re.search(r":(\d+)$", first)
        assert ready is not None, first + process.stderr.read()
        yield int(ready[1]), end
    finally:
        watchdog.cancel()
        process.terminate()  # then it leaves no files behind
        try:
            process.communicate(timeout=20)
        finally:
            process.kill()
