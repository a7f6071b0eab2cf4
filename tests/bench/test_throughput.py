"""The scenarios that send load through a relay, tiny: all of it arrives, once.  Never how fast."""

from pathlib import Path
from typing import Any

import pytest

from gwrelay.processes.cores import usable_cores
from gwrelay_bench import passing
from gwrelay_bench.figures import middle
from gwrelay_bench.ledger import AGAIN, SPOILT, STRANGE, Ledger
from gwrelay_bench.load import Load
from gwrelay_bench.measure import Result
from gwrelay_bench.passing import Passage, Plan, figures, run
from gwrelay_bench.postfix import Postfix
from gwrelay_bench.relays import Address, GatewayRelay, Onward, Straight, lag_ms
from gwrelay_bench.rounds import Contest, Scores, tell
from gwrelay_bench.scenario import Bench, BenchFailed
from support.benches import bench, started
from support.peer import Peer
from support.processes import need_root, program

TINY = {
    "kept": ("relay_one_site", "--messages", "200", "--sessions", "5"),
    "for one": ("relay_one_site", "--messages", "60", "--sessions", "5", "--per-connection", "1"),
    "large": ("relay_one_site", "--messages", "40", "--sessions", "5", "--size", "50K"),
    "sites": ("relay_many_sites", "--messages", "200", "--sessions", "5", "--domains", "40"),
    "wan": (
        *("wan", "--messages", "60", "--sessions", "5", "--delay", "20"),
        *("--site-concurrency", "10"),
    ),
    "burst": ("burst", "--messages", "60", "--sessions", "5", "--rate", "100"),
    "tls": ("tls", "--messages", "100", "--sessions", "5"),
}
LATENCIES = ("dot_to_250_ms", "to_arrival_ms")


def gateway_in(lines: list[dict[str, Any]]) -> dict[str, Any]:
    [line] = [line for line in lines if line["settings"]["relay"] == "gateway"]
    return line


@pytest.mark.parametrize("words", TINY.values(), ids=TINY.keys())
def test_all_arrives_once_and_is_measured(tmp_path: Path, words: tuple[str, ...]) -> None:
    [line] = bench(tmp_path, *words, "--runs", "1")
    found, limit = line["figures"], line["baseline"]
    assert found["again"] == limit["again"] == 0
    for figure in ("per_s", "cpu_s_per_1000", "peak_bytes", "syncs", "load_cpu_s_per_1000"):
        assert found[figure] > 0
    for name in LATENCIES:
        assert 0 <= found[name]["p50"] <= found[name]["p99"] <= found[name]["max"]
    # A supervisor, and its workers.
    assert found["processes"] == 1 + usable_cores()
    assert "loop_lag_ms" in found
    assert len(found["runs"]) == 1
    assert line["ratio"] > 0
    assert limit["per_s"] > 0


@pytest.mark.parametrize(
    ("side", "flags"),
    [
        ("in", {"--tls-cert", "--tls-key"}),
        ("out", {"--tls"}),
        ("both", {"--tls", "--tls-cert", "--tls-key"}),
    ],
)
def test_tls_is_on_the_side_that_is_wanted(tmp_path: Path, side: str, flags: set[str]) -> None:
    [line] = bench(tmp_path, *TINY["tls"], "--runs", "1", "--side", side)
    told = line["settings"]
    assert told["side"] == side
    assert {word for word in told["flags"].split() if word.startswith("--tls")} == flags


def test_mail_handed_in_under_tls_is_not_taken_by_who_offers_none(tmp_path: Path) -> None:
    plan = Plan(Load(10, 1000, 2, encrypts=True))
    with pytest.raises(BenchFailed, match="refused: 502"):
        run(Bench(tmp_path, as_json=True), plan, GatewayRelay({}, ()), "a gateway")


def test_each_number_of_sessions_has_its_result(tmp_path: Path) -> None:
    words = ("relay_one_site", "--messages", "50", "--sessions", "2", "--sessions", "200")
    few, many = bench(tmp_path, *words, "--runs", "1")
    assert (few["settings"]["sessions"], many["settings"]["sessions"]) == (2, 200)
    assert "ratio" in {target["figure"] for target in many["targets"]}
    assert "ratio" not in {target["figure"] for target in few["targets"]}


def test_flags_for_the_gateway_are_its_own_and_are_told(tmp_path: Path) -> None:
    words = ("relay_one_site", "--messages", "200", "--sessions", "20", "--runs", "1")
    line = gateway_in(bench(tmp_path, *words, "--gateway", "--workers 2 --site-concurrency 3"))
    assert line["settings"]["flags"] == "--workers 2 --site-concurrency 3"
    assert line["figures"]["processes"] == 3
    assert 1 <= line["figures"]["sessions_at_once"] <= 6


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [("--workers 'two", 2, "--gateway"), ("--no-such-flag", 1, "no such option")],
)
def test_flags_that_make_no_sense_are_refused(
    tmp_path: Path, flags: str, status: int, said: str
) -> None:
    words = ("relay_one_site", "--messages", "20", "--sessions", "2", "--runs", "1")
    done = started(*words, "--gateway", flags, "--dir", str(tmp_path))
    assert (done.returncode == 2) == (status == 2)
    assert done.returncode != 0
    assert said in done.stderr.lower()
    assert list(tmp_path.iterdir()) == []


def test_a_backlog_is_taken_kept_over_a_stop_and_drained(tmp_path: Path) -> None:
    [line] = bench(tmp_path, "backlog", "--messages", "300", "--sessions", "5", "--runs", "1")
    found = line["figures"]
    assert found["again"] == 0
    for figure in ("accepted_per_s", "last_over_first", "ready_s", "drained_per_s", "syncs"):
        assert found[figure] > 0
    assert 0 < found["dot_to_250_ms"]["p50"] <= found["dot_to_250_ms"]["p99"]
    assert "loop_lag_ms" in found
    limits = {target["figure"]: target for target in line["targets"]}
    assert limits["ready_s"]["at_most"] == 1.5


AGAINST = {
    "one site": (*TINY["kept"], "--postfix", "both"),
    "many sites": (*TINY["sites"], "--postfix", "default"),
    "tls": (*TINY["tls"], "--postfix", "tuned"),
    "backlog": ("backlog", "--messages", "100", "--sessions", "5", "--postfix", "default"),
}


@pytest.mark.parametrize("words", AGAINST.values(), ids=AGAINST.keys())
def test_a_postfix_of_our_own_has_the_same_load(
    open_directory: Path, words: tuple[str, ...]
) -> None:
    program("postfix")
    need_root("Postfix starts as root and gives its daemons the user postfix")
    lines = bench(open_directory, *words, "--runs", "1", "--against", "postfix")
    configurations = ("default", "tuned") if words[-1] == "both" else (words[-1],)
    assert len(lines) == 1 + len(configurations)
    beside = gateway_in(lines)["figures"]["times_postfix"]
    for configuration, line in zip(configurations, lines[1:], strict=True):
        assert line["settings"]["relay"].endswith(f", {configuration}")
        assert ("in_flow_delay=0" in line["settings"]["flags"]) == (configuration == "tuned")
        assert line["figures"]["again"] == 0
        assert line["figures"]["processes"] > 3
        assert line["figures"]["cpu_s_per_1000"] > 0
        assert min(beside[configuration].values()) > 0
        wanted = {target["figure"] for target in gateway_in(lines)["targets"]}
        assert {f"times_postfix.{configuration}.{name}" for name in beside[configuration]} <= wanted


def test_postfix_needs_a_directory_that_it_may_pass(tmp_path: Path) -> None:
    program("postfix")
    need_root("or it is refused for another reason")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(BenchFailed, match="closed to other users"):
        Postfix(closed / "postfix", {})


class _Elsewhere(Straight):
    """Takes all mail, and hands it to nobody."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def start(self, directory: Path, onward: Onward) -> Address:
        return self._peer.address


def test_mail_that_was_taken_and_does_not_arrive_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "_PATIENCE_S", 0.3)
    with Peer() as peer, pytest.raises(BenchFailed, match=r"3 messages did not arrive: r0, r1, r2"):
        run(Bench(tmp_path, True), Plan(Load(3, 500, 1)), _Elsewhere(peer), "lost")
    assert list(tmp_path.iterdir()) == []


def test_mail_that_is_refused_fails_the_run(tmp_path: Path) -> None:
    with Peer() as peer:
        peer.recipient("r1@sink.example", "450 4.2.1 not now")
        with pytest.raises(BenchFailed, match=r"1 messages were not taken.*450 4.2.1"):
            run(Bench(tmp_path, True), Plan(Load(3, 500, 1)), _Elsewhere(peer), "refused")


@pytest.mark.parametrize(
    ("counter", "said"), [(SPOILT, "not what was sent"), (STRANGE, "1 not ours")]
)
def test_mail_that_arrives_otherwise_fails_the_run(tmp_path: Path, counter: int, said: str) -> None:
    with Passage(Bench(tmp_path, True), Plan(Load(1, 500, 1)), Straight(), "spoilt") as passage:
        passage.ledger.arrived_at[0] = 1.0
        passage.judge()
        passage.ledger.counters[counter] = 1
        with pytest.raises(BenchFailed, match=said):
            passage.judge()


def test_rates_are_from_the_first_byte_to_the_last_dot(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", 4)
    ledger.began_at = 100.0
    for number in range(4):
        ledger.sent_at[number] = 100.5 + number
        ledger.answered_at[number] = 100.6 + number
        ledger.arrived_at[number] = 100.55 + number if number < 2 else 101.1 + number
    ledger.counters[AGAIN] = 2
    found = figures(ledger, Load(4, 500, 1, rate_per_s=1.0))
    assert found["per_s"] == round(4 / 4.1, 1)
    assert found["accepted_per_s"] == round(4 / 3.6, 1)
    assert found["dot_to_250_ms"]["max"] == pytest.approx(100, abs=0.01)
    # Two of them were there before their 250 was read.
    assert found["to_arrival_ms"]["p50"] == 0.0
    assert found["to_arrival_ms"]["max"] == pytest.approx(500, abs=0.01)
    assert found["due_to_dot_ms"]["p50"] == pytest.approx(500, abs=0.01)
    assert found["again"] == 2


def test_the_middle_of_rounds_is_each_figures_own() -> None:
    rounds = [
        {"per_s": 1.0, "ms": {"p50": 9.0}, "name": "a", "now and then": 1},
        {"per_s": 5.0, "ms": {"p50": 3.0}, "name": "b"},
        {"per_s": 2.0, "ms": {"p50": 4.0}, "name": "c"},
    ]
    assert middle(rounds) == {"per_s": 2.0, "ms": {"p50": 4.0}, "name": "a"}


def test_how_late_the_loop_was_is_told_by_the_upper_ends_of_classes() -> None:
    bounds = [0.001, 0.01, 0.1]
    assert lag_ms({0: 5, 1: 3, 2: 1}, bounds) == {"p50": 1.0, "max": 100.0}
    assert lag_ms({1: 2, 3: 1}, bounds) == {"p50": 10.0, "max": 100.0}
    assert lag_ms({0: 0}, bounds) == {}


@pytest.mark.parametrize(
    ("words", "workers"),
    [
        ((), usable_cores()),
        (("--workers", "auto"), usable_cores()),
        (("--workers", "3"), 3),
        (("--workers=2", "--max-hops", "9"), 2),
    ],
)
def test_memory_may_grow_with_workers_and_sessions(words: tuple[str, ...], workers: int) -> None:
    target = Contest(1, (), words).most_bytes(10)
    assert target.at_most == workers * 214 * 1024 * 1024 + 10 * 40 * 1024


def test_ratios_are_of_runs_in_the_same_round(tmp_path: Path) -> None:
    class Told(Bench):
        def tell(self, result: Result) -> None:
            results.append(result)

    def rounds(*rates: float) -> list[dict[str, Any]]:
        return [{"per_s": rate, "ms": {"p99": 100 / rate}, "again": 0} for rate in rates]

    results = list[Result]()
    program("postconf")
    scores = Scores(
        rounds(100, 50, 10), rounds(50, 10, 9), {"default": rounds(5, 2, 3)}, "", {"default": ""}
    )
    tell(
        Told(tmp_path, True), "wan", Load(1, 500, 1), scores,
        times={"per_s": 6.0}, shares={"ms.p99": 0.5},
    )  # fmt: skip
    ours, postfix = results
    assert ours.ratio == 0.5
    assert ours.figures["times_postfix"]["default"] == {"per_s": 5.0, "ms.p99": 0.2}
    limits = {target.figure: target for target in ours.targets}
    assert limits["times_postfix.default.per_s"].at_least == 6.0
    assert limits["ms.p99"].at_most == pytest.approx(50 / 3, abs=0.01)
    assert not limits["times_postfix.default.per_s"].met(ours)
    assert limits["ms.p99"].met(ours)
    assert postfix.ratio == 0.05
