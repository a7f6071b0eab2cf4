"""The demo's report: the same figures for people and for programs, and nothing hidden."""

import io
import json

from rich.console import Console

from gwrelay_bench.accounting import Account, Problem
from gwrelay_bench.report import Run, figures, print_run

ACCOUNT = Account(
    messages=10,
    recipients=12,
    at_once=9,
    retried=2,
    bounced=1,
    reports=1,
    at_once_s=(0.010,) * 8 + (0.020,),
    retried_s=(1.0, 3.0),
    problems=(),
)
RUN = Run(ACCOUNT, (), 1000, 4096, 0.5, 20, 7.0, "65 contents", None)
ALTERED = Problem("m0@sender.example", "ada@[north]", "body altered")


def printed(run: Run) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    print_run(run, console, {"north.example": "takes everything"})
    return console.export_text()


def test_the_figures_are_one_json_object() -> None:
    shown = json.loads(json.dumps(figures(RUN)))
    assert shown["ok"] is True
    assert shown["accepted"] == {"messages": 10, "recipients": 12}
    assert shown["messages_per_s"] == 2000.0
    assert shown["accepted_to_delivered_ms"] == {"p50": 10.0, "p99": 20.0, "max": 20.0}
    assert shown["accepted_to_delivered_after_retry_ms"]["p99"] == 3000.0


def test_the_table_has_what_the_json_has() -> None:
    text = printed(RUN)
    for words in ("10 messages, 12 recipients", "9 recipients", "2,000", "10.0 ms / 20.0 ms"):
        assert words in text
    assert "1.00 s / 3.00 s" in text
    assert "Every recipient is accounted for" in text


def test_a_problem_is_named_and_the_run_has_failed() -> None:
    run = RUN._replace(account=ACCOUNT._replace(problems=(ALTERED,)), kept="/tmp/kept")
    assert not run.succeeded
    assert "<m0@sender.example> to <ada@[north]>: body altered" in figures(run)["problems"]
    text = printed(run)
    assert "<m0@sender.example> to <ada@[north]>: body altered" in text
    assert "/tmp/kept" in text
    assert "Every recipient is accounted for" not in text


def test_a_failure_of_the_gateway_alone_fails_the_run() -> None:
    run = RUN._replace(failures=("the gateway ended with status 1",))
    assert (run.succeeded, figures(run)["ok"]) == (False, False)
    assert "ended with status 1" in printed(run)


def test_many_problems_are_counted_not_listed() -> None:
    run = RUN._replace(account=ACCOUNT._replace(problems=(ALTERED,) * 25))
    assert "and 5 more" in printed(run)
    assert len(figures(run)["problems"]) == 25


def test_a_run_in_which_nothing_arrived_still_reports() -> None:
    empty = Account(0, 0, 0, 0, 0, 0, (), (), ())
    run = Run(empty, ("nothing was taken",), 0, 4096, 0.0, 20, 1.0, "", None)
    assert figures(run)["messages_per_s"] is None
    assert "none" in printed(run)
