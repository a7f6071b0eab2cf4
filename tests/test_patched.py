"""The rooms below the roof work unpatched, as the rest of the suite runs them, and patched.

The gateway patches before it imports them; whoever uses them as a library may not.
"""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

PATCHED = """
from gevent import monkey

monkey.patch_all()

import resource
import sys

import pytest

# Patched, os.close() of a directory waits for the loop to turn, which it seldom does here.
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("room", ["spool", "message", "smtp", "mx", "queue", "relay"])
def test_the_room_does_not_notice_the_monkey_patch(room):
    arguments = ["-q", "-p", "no:cacheprovider", str(HERE / room)]
    done = subprocess.run(
        [sys.executable, "-c", PATCHED, *arguments],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
