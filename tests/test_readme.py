"""The README's example runs as it stands, and its two commands are where they must be."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from support.peer import Peer

README = (Path(__file__).parent.parent / "README.rst").read_text()

COMMANDS = [
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/gwrelay demo",
    "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest",
]


def literal_blocks():
    """The indented blocks behind a "::", without their indentation."""
    found = re.findall(r"::\n\n((?:(?:    .*)?\n)+)", README)
    return [textwrap.dedent(block).strip() for block in found]


def test_the_readme_opens_with_the_two_commands():
    assert literal_blocks()[0].splitlines() == COMMANDS


def test_the_library_example_delivers_its_message(tmp_path):
    (example,) = [block for block in literal_blocks() if block.startswith("from gevent")]
    with Peer() as peer:
        script = example.replace('"127.0.0.1", 2525', f'"127.0.0.1", {peer.port}')
        assert script != example
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (message,) = peer.messages
    assert message.reverse_path == "me@example.com"
    assert message.recipients == ("you@example.net",)
    assert message.content == b"Subject: hello\r\n\r\nIt is durable now.\r\n"
