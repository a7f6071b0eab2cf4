"""A worker's end of the line to its supervisor."""

import subprocess
import sys

SCRIPT = """
import socket, threading, time
from gwrelay.processes.board import Board
from gwrelay.processes.handover import Line
from gwrelay.processes.worker import Place

ours, theirs = socket.socketpair()
supervisor = Line(ours)
place = Place(1, [], Board(-1, 1).column(0), line=Line(theirs))
listening = threading.Thread(target=place.listen)
listening.start()
"""


def ended(body: str) -> "subprocess.CompletedProcess[str]":
    """How a process ends in which `body` follows SCRIPT."""
    command = [sys.executable, "-c", SCRIPT + body]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_it_begins_when_it_is_told_to_above_the_ids_of_all() -> None:
    done = ended(
        "place.say_ready(41)\n"
        "print(list(supervisor.hear()), place.go.is_set())\n"
        "supervisor.say(go=42)\n"
        "place.go.wait()\n"
        "print(place.ids_above, flush=True)\n"
        "supervisor.close()\n"
    )
    assert done.stdout.splitlines() == ["[{'ready': 41}] False", "42"]


def test_it_ends_at_once_when_the_supervisor_has_gone() -> None:
    done = ended("supervisor.close()\ntime.sleep(15)\nprint('still here')")
    assert (done.returncode, done.stdout) == (1, "")
