"""`gwrelay demo` as its users call it: a process, loopback only, its own temporary spool."""

import json
import os
import subprocess
import sys
from pathlib import Path


def demo(temporary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gwrelay", "demo", *arguments],
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_demo_accounts_for_every_recipient_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = demo(tmp_path, "--json", "--messages", "200")
    figures = json.loads(done.stdout)
    assert (done.returncode, figures["ok"], figures["problems"]) == (0, True, []), done.stderr
    assert figures["delivered_after_retry"] > 0
    assert figures["bounced"] == figures["dsns_delivered"] > 0
    assert figures["accepted"]["recipients"] == (
        figures["delivered_at_once"] + figures["delivered_after_retry"] + figures["bounced"]
    )
    assert figures["elapsed_s"] < 20
    assert list(tmp_path.iterdir()) == []
