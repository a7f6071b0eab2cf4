"""`gwrelay bench storm`, tiny: each message that fails is reported once.  Never how fast it is."""

from pathlib import Path
from typing import Any

import pytest

from gwrelay_bench.halves import Half
from gwrelay_bench.sender import Report, Told
from gwrelay_bench.sinksession import Arrival
from gwrelay_bench.storm import Phase, result, settled
from gwrelay_bench.stormhosts import RETURNS
from support.benches import bench


def test_each_message_that_fails_has_one_report_and_live_mail_arrives(tmp_path: Path) -> None:
    tiny = ("--messages", "300", "--seconds", "1", "--interval", "0.02")
    [line] = bench(tmp_path, "storm", *tiny)
    figures, baseline = line["figures"], line["baseline"]
    assert (figures["failed"], figures["reports_arrived"], figures["reports_again"]) == (
        300,
        300,
        0,
    )
    for half in (figures, baseline):
        assert half["live_sent"] == half["live_arrived"] == 50
        assert half["visitor_arrived"] == 10
        assert 0 <= half["live_ms"]["p50"] <= half["live_ms"]["p99"] <= half["live_ms"]["max"]
        assert half["stall_ms"]["max"] >= half["stall_ms"]["p99"]
    assert baseline["live_of_these"] == 50
    limits = {target["figure"]: target for target in line["targets"]}
    assert limits["reports_arrived"]["at_least"] == 300
    assert limits["live_arrived"]["at_least"] == 50
    for name in ("p50", "p99"):
        most = max(1.5 * baseline["live_ms"][name], 300)
        assert limits[f"live_ms.{name}"]["at_most"] == pytest.approx(most, abs=0.1)


def test_what_has_not_arrived_when_it_is_stopped_is_in_the_spool(tmp_path: Path) -> None:
    """It would have failed otherwise: a message that is nowhere ends the bench."""
    slow = ("--returns-delay", "0.5", "--limit", "3", "--seconds", "1")
    [line] = bench(tmp_path, "storm", "--messages", "300", *slow)
    assert line["figures"]["failed"] == 300
    assert 0 < line["figures"]["reports_arrived"] < 300
    assert line["figures"]["reports_again"] == 0


def test_each_message_waits_or_has_its_one_report() -> None:
    arrivals = [_report(0), _report(1), _arrival(7.0, "live@source.example", "r@well0.example")]
    found = settled(4, arrivals, [_waiting("", _path(2)), _waiting(_path(3), "r3@x")])
    assert (found.failed, found.arrived, found.again, found.wrong) == (3, 2, 0, [])


def test_a_report_that_comes_again_is_counted() -> None:
    found = settled(1, [_report(0), _report(0)], [])
    assert (found.arrived, found.again, found.wrong) == (1, 1, [])


@pytest.mark.parametrize(
    ("arrivals", "waiting", "wrong"),
    [
        ([], [], "never told"),
        ([0], [("s0@" + RETURNS, "r0@x")], "and its message waits"),
        ([], [("s0@" + RETURNS, "r0@x"), ("", "s0@" + RETURNS)], "and its message waits"),
        ([], [("", "s0@" + RETURNS)] * 2, "2 reports"),
    ],
    ids=["lost", "reported, and to be tried again", "likewise, in the spool", "two reports"],
)
def test_what_must_not_be_is_named(
    arrivals: list[int], waiting: list[tuple[str, str]], wrong: str
) -> None:
    found = settled(1, map(_report, arrivals), [_waiting(*one) for one in waiting])
    [said] = found.wrong
    assert "s0@" + RETURNS in said
    assert wrong in said


def test_latency_counts_for_what_came_while_reports_arrived() -> None:
    calm = _phase({"a@well0.example": 1.0}, ended_at=0.0)
    rough = _phase({"b@well0.example": 11.0, "c@well0.example": 21.0}, ended_at=20.0)
    arrivals = [
        _arrival(1.5, "s@source.example", "a@well0.example"),
        _arrival(12.0, "s@source.example", "b@well0.example"),
        _arrival(29.0, "s@source.example", "c@well0.example"),
    ]
    found = result({"messages": 1}, calm, rough, settled(1, [_report(0)], []), arrivals)
    assert found.baseline["live_ms"]["max"] == 500.0
    assert found.figures["live_ms"]["max"] == 1000.0
    assert (found.figures["live_arrived"], found.figures["live_of_these"]) == (2, 1)
    assert found.figures["storm_s"] == 10.0
    assert found.ratio == 2.0


def _path(number: int) -> str:
    return f"s{number}@{RETURNS}"


def _arrival(at: float, reverse_path: str, recipient: str) -> Arrival:
    return Arrival(at, "127.5.0.2", reverse_path, (recipient,), 1, "", None)


def _report(number: int) -> Arrival:
    return _arrival(20.0, "", _path(number))


def _waiting(reverse_path: str, recipient: str) -> dict[str, Any]:
    return {"reverse_path": reverse_path, "recipients": [{"address": recipient}]}


def _phase(accepted: dict[str, float], ended_at: float) -> Phase:
    live = Report(0.0, tuple(Told(r, at, "") for r, at in accepted.items()))
    return Phase(Half(live, Report(0.0, ()), 1.0, None, 1, {}), 10.0, ended_at, 2.0, {}, {})
