"""A supervisor with workers that do as they are told, in place of those that carry mail.

    python -m support.fake_gateway DIRECTORY FLAG...    the supervisor, with serve's flags

Each life of worker K takes the next word from the file DIRECTORY/plan-K, "serve" when none is left,
and writes lines to DIRECTORY/lives: "ready K", "life K PID IDS_ABOVE" when it is let go, "hup K".

    serve        be good                            fail:TEXT    fail to start
    late         be ready when DIRECTORY/late is    crash        end without a word
    still        be ready, and then stand still     deaf         do not hear SIGTERM
    drain        be done when DIRECTORY/drained is
"""

import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

from gwrelay import supervisor
from gwrelay.errors import GatewayError
from gwrelay.given import load
from gwrelay.processes.board import Board
from gwrelay.processes.handover import Handover, Line, read_handover

#: No id was given out above it, but for the worker's own number.
LAST_ID = 1000


def main(directory: Path, flags: list[str]) -> int:
    given: dict[str, list[str]] = {}
    for flag in flags:
        name, _, text = flag.removeprefix("--").partition("=")
        given.setdefault(name, []).append(text)
    settings = load(given, {}, None, "gw.example").settings

    def command(number: int, handover: Handover) -> list[str]:
        words = ["-m", __spec__.name, "worker", str(directory), str(number), handover.written()]
        return [sys.executable, *words]

    supervisor._GRACE_S = 0.5
    try:
        return supervisor.serve(settings, b"", command)
    except GatewayError as error:
        print(f"start failed: {error}", flush=True)
        return error.exit_status


def work(directory: Path, number: int, handover: Handover) -> int:
    word, rest = _next_word(directory / f"plan-{number}")
    line = Line(socket.socket(fileno=handover.line))
    column = Board(handover.board, handover.columns).column(handover.column)
    if word == "fail":
        line.say(failed=rest, status=2)
        return 2
    if word == "crash":
        return 3
    signal.signal(signal.SIGTERM, signal.SIG_IGN if word == "deaf" else _leave)
    signal.signal(signal.SIGHUP, lambda _number, _frame: _note(directory, f"hup {number}"))
    while word == "late" and not (directory / "late").exists():
        time.sleep(0.01)
    _note(directory, f"ready {number}")
    column.beat(time.monotonic())
    line.say(ready=LAST_ID + number)
    while True:
        if select.select([line], [], [], 0.05)[0]:
            heard = line.hear()
            if heard is None:
                return 1
            for said in heard:
                _note(directory, f"life {number} {os.getpid()} {said['go']}")
                line.say(begun=True)
        if word == "drain" and (directory / "drained").exists():
            line.say(drained=True)
            return 0
        if word != "still":
            column.beat(time.monotonic())


def _next_word(plan: Path) -> tuple[str, str]:
    words = plan.read_text().split(",") if plan.exists() else []
    plan.write_text(",".join(words[1:]))
    word, _, rest = (words or ["serve"])[0].partition(":")
    return word or "serve", rest


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


def _note(directory: Path, text: str) -> None:
    descriptor = os.open(directory / "lives", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        sys.exit(work(Path(sys.argv[2]), int(sys.argv[3]), read_handover(sys.argv[4])))
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
