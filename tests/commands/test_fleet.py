"""Asking all workers of a gateway as one, when some know nothing, refuse, or do not answer."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gwrelay.admin.control import worker_socket
from gwrelay.commands import fleet
from gwrelay.config import MOST_WORKERS
from gwrelay.errors import CommandFailed, NotRunning
from gwrelay.message.envelope import message_name

Answer = list[dict[str, Any]]
#: Starts a worker of this number that answers so to whatever it is asked.
StartWorker = Callable[[int, Answer], None]

DONE = {"ok": True, "result": None}


def refusal(status: int, text: str) -> Answer:
    return [{"ok": False, "status": status, "error": text}]


def items(*values: object) -> Answer:
    return [*({"item": value} for value in values), DONE]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "admin.sock")


@pytest.fixture
def start(path: str) -> Iterator[StartWorker]:
    with ExitStack() as stack:

        def start_worker(number: int, answer: Answer) -> None:
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(worker_socket(path, number))
            listening.listen()
            threading.Thread(target=serve, args=(listening, answer), daemon=True).start()

        yield start_worker


def serve(listening: socket.socket, answer: Answer) -> None:
    """One client."""
    client, _ = listening.accept()
    with client, client.makefile("rb") as requests:
        requests.readline()
        client.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in answer))


def test_the_answers_of_all_come_in_the_order_of_workers(path: str, start: StartWorker) -> None:
    start(2, items("c"))
    start(0, items("a"))
    start(1, items())
    assert [answer.items for answer in fleet.ask_each(path, "mx bad")] == [["a"], [], ["c"]]


def test_who_knows_nothing_of_it_is_left_out(path: str, start: StartWorker) -> None:
    start(0, refusal(1, "nothing is remembered of a.example"))
    start(1, items("a"))
    assert [answer.items for answer in fleet.ask_each(path, "mx cache")] == [["a"]]


def test_when_nobody_knows_of_it_that_is_said(path: str, start: StartWorker) -> None:
    start(0, refusal(1, "nothing is remembered of a.example"))
    start(1, refusal(1, "nothing is remembered of a.example"))
    with pytest.raises(CommandFailed, match="nothing is remembered") as refused:
        fleet.ask_each(path, "mx cache")
    assert refused.value.exit_status == 1


def test_what_one_fails_at_is_not_hidden_by_the_others(path: str, start: StartWorker) -> None:
    start(0, items("a"))
    start(1, refusal(3, "no space left"))
    with pytest.raises(CommandFailed, match="no space left"):
        fleet.ask_each(path, "queue delete")


def test_the_worker_that_gave_out_an_id_knows_best_why_it_is_refused(
    path: str, start: StartWorker
) -> None:
    start(0, refusal(1, "not in the queue"))
    start(1, refusal(1, "damaged"))
    start(2, refusal(1, "not in the queue"))
    with pytest.raises(CommandFailed, match="damaged"):
        fleet.ask_one(path, "queue show", message_name(5 * MOST_WORKERS + 1))


def test_one_message_is_told_by_whoever_has_it(path: str, start: StartWorker) -> None:
    """Also where its id was given out before there were workers."""
    start(0, [{"ok": True, "result": {"id": "x"}}])
    start(1, refusal(1, "not in the queue"))
    answer = fleet.ask_one(path, "queue show", message_name(5 * MOST_WORKERS + 1))
    assert answer.result == {"id": "x"}


def test_streams_are_refused_before_their_first_item_or_not_at_all(
    path: str, start: StartWorker
) -> None:
    start(0, refusal(1, "not in the queue"))
    start(1, items(1, 2, 3))
    assert [list(stream) for stream in fleet.stream_each(path, "queue list")] == [[1, 2, 3]]


def test_one_that_does_not_answer_is_named(
    path: str, start: StartWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    start(0, items("a"))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(worker_socket(path, 1))
    assert [answer.items for answer in fleet.ask_each(path, "mx bad")] == [["a"]]
    said = capsys.readouterr().err
    assert said == "gwrelay: worker 1 does not answer: what it has is left out\n"


def test_when_nobody_answers_no_gateway_runs(path: str) -> None:
    with pytest.raises(NotRunning, match=f"no gateway runs at {path}"):
        fleet.ask_each(path, "status")
