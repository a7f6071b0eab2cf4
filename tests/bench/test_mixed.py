"""`gwrelay bench mixed`, tiny: it accounts for every message.  Never how fast it is.

Its hosts are dead and slow in earnest: the run ends before a slow one has taken anything.
"""

from collections import Counter
from pathlib import Path

import gevent
import pytest
from gevent import socket

from gwrelay_bench.halves import Half
from gwrelay_bench.mixed import missing, result
from gwrelay_bench.sender import NOTHING, Errand, Paced, Report, Told, submissions
from gwrelay_bench.sinksession import Arrival
from gwrelay_bench.troubled import Hosts, domains
from support.benches import bench, started


def test_all_is_accounted_for_and_the_second_senders_mail_arrives(tmp_path: Path) -> None:
    few = ("--destinations", "10", "--dead-share", "0.2", "--slow-share", "0.1")
    short = ("--campaign", "50", "--seconds", "0.5", "--interval", "0.02")
    [line] = bench(tmp_path, "mixed", *few, *short)
    settings, figures, baseline = line["settings"], line["figures"], line["baseline"]
    assert (settings["dead"], settings["slow"]) == (2, 1)
    for half in (figures, baseline):
        assert half["second_sent"] == half["second_arrived"] == 25
        assert 0 <= half["second_ms"]["p50"] <= half["second_ms"]["p99"] <= half["second_ms"]["max"]
        assert half["cpu_s_per_1000"] >= 0
    assert figures["peak_bytes"] >= baseline["peak_bytes"] > 0
    assert figures["campaign_accepted"] == 50
    assert (figures["campaign_arrived"], figures["campaign_waiting"]) == (35, 15)
    assert figures["arrived_again"] == 0
    limits = {target["figure"]: target for target in line["targets"]}
    assert limits["second_arrived"]["at_least"] == 25
    assert limits["campaign_accepted_per_s"]["at_least"] == 2900
    for name in ("p50", "p99"):
        most = max(1.5 * baseline["second_ms"][name], 300)
        assert limits[f"second_ms.{name}"]["at_most"] == pytest.approx(most, abs=0.1)


def test_flags_for_the_gateway_are_its_own_and_are_told(tmp_path: Path) -> None:
    few = ("--destinations", "5", "--dead-share", "0", "--slow-share", "0")
    short = ("--campaign", "50", "--seconds", "0.5", "--interval", "0.05")
    [line] = bench(tmp_path, "mixed", *few, *short, "--gateway", "--workers 2")
    found = line["figures"]
    assert line["settings"]["flags"] == "--workers 2"
    # A supervisor, and its workers: nobody else had a say in how many.
    assert found["processes"] == 3
    assert found["syncs"] > 0
    assert "loop_lag_ms" in found
    assert line["ratio"] > 0
    assert found["campaign_arrived"] == 50


def test_without_a_host_that_is_well_there_is_nothing_to_measure(tmp_path: Path) -> None:
    done = started("mixed", "--dead-share", "1", "--dir", str(tmp_path))
    assert done.returncode != 0
    assert "no destination is well" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shares", "counts"),
    [((0.1, 0.1), (8, 1, 1)), ((0, 0), (10, 0, 0)), ((0.7, 0.7), (0, 3, 7)), ((1, 0), (0, 0, 10))],
)
def test_every_destination_is_well_or_slow_or_dead(
    shares: tuple[float, float], counts: tuple[int, int, int]
) -> None:
    mixed = domains(10, *shares)
    assert tuple(map(len, mixed)) == counts
    assert len(set(mixed.all)) == 10


def test_connecting_hangs_at_dead_hosts_and_at_no_others() -> None:
    mixed = domains(4, 0.5, 0.25)
    with Hosts(mixed) as hosts:
        for domain in mixed.well + mixed.slow:
            socket.create_connection((hosts.addresses[domain], hosts.smtp_port), 5).close()
        for domain in mixed.dead:
            with pytest.raises(TimeoutError):
                socket.create_connection((hosts.addresses[domain], hosts.smtp_port), 0.2)


def test_a_message_is_missing_that_neither_arrived_nor_waits() -> None:
    assert missing(["c@x", "b@x", "a@x"], [_arrival("a@x", 1.0)], frozenset({"b@x"})) == ["c@x"]


def test_latency_is_from_the_250_to_the_first_arrival_and_never_negative() -> None:
    calm = _half(_report(10.0, {"a1@x": 10.0}), NOTHING)
    campaign = _report(20.0, {"c0@x": 21.0, "c1@x": 22.0, "c2@x": 24.0})
    rough = _half(_report(20.0, {"b0@x": 21.0, "b1@x": 25.0}), campaign)
    arrivals = [
        _arrival("a1@x", 11.0),
        _arrival("b0@x", 20.5),
        _arrival("b1@x", 27.0),
        _arrival("b1@x", 28.0),
        _arrival("c0@x", 22.0),
    ]
    found = result({}, calm, rough, arrivals)
    assert found.baseline["second_ms"] == {"p50": 1000.0, "p99": 1000.0, "max": 1000.0}
    assert found.figures["second_ms"] == {"p50": 0.0, "p99": 2000.0, "max": 2000.0}
    # b1 was taken after the last of the campaign.
    assert found.figures["second_ms_while_campaign_enters"]["max"] == 0.0
    assert found.figures["campaign_accepted_per_s"] == 0.8
    assert (found.figures["campaign_arrived"], found.figures["campaign_waiting"]) == (1, 2)
    assert found.figures["arrived_again"] == 1
    assert {t.figure: t.at_most for t in found.targets}["second_ms.p99"] == 1500.0


def test_a_refused_message_was_sent_but_is_not_expected_to_arrive() -> None:
    refused = Report(0.0, (Told("b0@x", 1.0, ""), Told("b1@x", 1.0, "452 no")))
    found = result({}, _half(_report(0.0, {"a@x": 1.0}), NOTHING), _half(refused, NOTHING), [])
    assert (found.figures["second_sent"], found.figures["second_arrived"]) == (2, 0)
    [target] = [target for target in found.targets if target.figure == "second_arrived"]
    assert target.at_least == 2
    assert refused.accepted == {"b0@x": 1.0}


def test_sessions_that_wait_for_their_turns_take_each_message_once() -> None:
    errand = Errand("n", "s@source.example", ("x.example", "y.example"), 30, 100, 4, 0.001)
    paced, taken = Paced(submissions(errand), errand.interval_s), list[str]()

    def take() -> None:
        taken.extend(submission.recipients[0] for submission in paced)

    gevent.joinall([gevent.spawn(take) for _ in range(errand.sessions)], raise_error=True)
    assert len(taken) == len(set(taken)) == 30
    assert Counter(r.partition("@")[2] for r in taken) == {"x.example": 15, "y.example": 15}


def _arrival(recipient: str, at: float) -> Arrival:
    return Arrival(at, "127.3.0.1", "s@source.example", (recipient,), 1, "", None)


def _report(began_at: float, accepted: dict[str, float]) -> Report:
    return Report(began_at, tuple(Told(r, at, "") for r, at in accepted.items()))


def _half(second: Report, campaign: Report) -> Half:
    return Half(second, campaign, 1.0, None, 1, {})
