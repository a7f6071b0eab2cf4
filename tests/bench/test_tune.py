"""`gwrelay tune`: what it makes of figures, and that it tries, tells and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from gwrelay_bench import tune
from gwrelay_bench.gateway import GatewayDied
from gwrelay_bench.passing import Plan
from gwrelay_bench.relays import Relay
from gwrelay_bench.scenario import Bench, BenchFailed
from gwrelay_bench.trials import (
    CPU,
    FASTER,
    LEANER,
    RATE,
    SAME,
    SLOWER,
    TOO_FEW,
    Knob,
    Trial,
    chosen,
    flags_of,
    knobs,
    toml_of,
)
from gwrelay_bench.tune import Job, Outcome, Tuning
from gwrelay_bench.tunetable import print_outcome

KNOB = Knob("workers", ("1", "2", "4"))


def trial(rates: list[float], beside: list[float], cpu: float = 1.0, value: str = "2") -> Trial:
    """CPU beside is 1.0 in each round."""
    return Trial(
        KNOB,
        value,
        "1",
        [{"per_s": rate, "cpu_s_per_1000": cpu} for rate in rates],
        [{"per_s": rate, "cpu_s_per_1000": 1.0} for rate in beside],
    )


@pytest.mark.parametrize(
    ("one", "verdict"),
    [
        (trial([160, 170, 165], [100, 100, 100]), FASTER),
        (trial([62, 68, 65], [100, 100, 100]), SLOWER),
        # Half again as fast, but its rounds are further apart than that.
        (trial([100, 150, 190], [100, 100, 100]), SAME),
        # Always faster; yet three rounds so far apart may be so by chance, and seven not.
        (trial([120, 150, 190], [100, 100, 100]), SAME),
        (trial([120, 150, 190, 130, 160, 140, 170], [100] * 7), FASTER),
        # Three times as fast, and a third: both are as far from 1, and as far apart.
        (trial([270, 300, 340, 290], [100] * 4), FASTER),
        (trial([37, 33, 29, 34], [100] * 4), SLOWER),
        # A machine that becomes slow in the second round is slow for both.
        (trial([160, 16, 160], [100, 10, 100]), FASTER),
        (trial([101, 101, 101], [100, 100, 100]), SAME),
        (trial([101, 101, 101], [100, 100, 100], cpu=0.5), LEANER),
        (trial([62, 68, 65], [100, 100, 100], cpu=0.5), SLOWER),
        # Perhaps it is slower: that is no way to less CPU.
        (trial([90, 95, 130], [100, 100, 100], cpu=0.5), SAME),
        (trial([101, 101, 101], [100, 100, 100], cpu=1.5), SAME),
        (trial([200], [100]), TOO_FEW),
        (trial([200, 201], [100, 100]), TOO_FEW),
        (trial([], []), TOO_FEW),
    ],
)
def test_a_difference_counts_when_it_is_larger_than_the_spread(one: Trial, verdict: str) -> None:
    assert one.verdict == verdict


def test_the_fastest_is_chosen_then_the_leanest_and_nothing_when_nothing_is_certain() -> None:
    even, far_apart = [100.0] * 3, [80.0, 130.0, 190.0]
    faster, fastest = trial([150] * 3, even), trial([190] * 3, even, value="4")
    leaner = trial([100] * 3, even, cpu=0.5)
    assert chosen([faster, fastest, leaner]) is fastest
    assert chosen([trial(far_apart, even), leaner]) is leaner
    assert chosen([trial(far_apart, even), trial([50] * 3, even), trial([300], [100])]) is None
    assert chosen([]) is None


@pytest.mark.parametrize(("cores", "workers"), [(1, {"1"}), (2, {"1", "2"}), (6, {*"1246"})])
def test_workers_up_to_one_for_each_core_are_tried(cores: int, workers: set[str]) -> None:
    found = {knob.flag: knob for knob in knobs(cores)}
    assert set(found["workers"].values) == workers
    assert all(len(set(knob.values)) == len(knob.values) for knob in found.values())
    assert found["site-concurrency"].settings("50") == {
        "--site-concurrency": "50",
        "--site-concurrency-initial": "50",
    }


def test_what_it_prints_is_taken_by_serve_and_by_its_file(tmp_path: Path) -> None:
    settings = {flag: value for knob in knobs(4) for flag, value in knob.settings("64").items()}
    settings |= {"--segment-size": "64M", "--resident-bodies": "256M"}
    file = tmp_path / "gwrelay.toml"
    file.write_text(toml_of(settings))
    base = [sys.executable, "-m", "gwrelay", "check-config", "--spool", str(tmp_path)]
    base += ["--hostname", "gw.example.com"]
    for words in (flags_of(settings).split(), ["--config", str(file)]):
        done = subprocess.run([*base, *words], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


def test_each_value_has_as_many_rounds_as_the_one_beside_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, as_json=False)
    bench.console = Console(quiet=True)
    knob = Knob("site-concurrency", ("5", "20"), is_far=True, along=("site-concurrency-initial",))
    tuning = Tuning(bench, Job(15.0, 1000, 5, 0.01), [knob])
    tuning.run()
    outcome = tuning.outcome
    [one] = outcome.trials
    assert (one.value, one.kept) == ("20", "5")
    assert len(one.rounds) == len(one.beside) >= 1
    assert outcome.straight["per_s"] > 0
    assert all(found["per_s"] > 0 for found in (*one.rounds, *one.beside))
    if one.verdict == FASTER:
        assert outcome.settings == knob.settings("20")
    console = Console(record=True, width=100, quiet=False, file=(tmp_path / "told").open("w"))
    print_outcome(console, outcome, {}, cut_off="")
    told = console.export_text()
    assert "site-concurrency" in told
    assert "replies in 10 ms" in told
    assert "straight into the sink" in told


def test_what_to_use_is_told_to_be_copied_and_how_to_see_it_again(tmp_path: Path) -> None:
    settings = {"--site-concurrency": "50", "--site-concurrency-initial": "50"}
    console = Console(record=True, width=40, file=(tmp_path / "told").open("w"))
    print_outcome(console, Outcome({}, {}, [], settings, 0.01), {}, cut_off="")
    told = console.export_text().splitlines()
    words = "--site-concurrency 50 --site-concurrency-initial 50"
    assert f"gwrelay serve --spool DIR --hostname NAME {words}" in told
    assert 'site-concurrency = "50"' in told
    assert f'gwrelay bench relay_one_site --gateway "{words}"' in told
    assert "gwrelay bench wan --delay 10 --site-concurrency 50" in told
    cautions = " ".join(" ".join(told).split())
    assert "--site-concurrency: for a next hop of your own" in cautions
    assert "--workers:" not in cautions


def test_without_time_left_nothing_is_tried_and_that_is_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path, as_json=False)
    bench.console = Console(record=True, width=100, file=(tmp_path / "told").open("w"))
    tuning = Tuning(bench, Job(0.0, 1000, 5, 0.0), [KNOB])
    tuning.run()
    assert [one.rounds for one in tuning.outcome.trials] == [[], []]
    assert tuning.outcome.settings == {}
    assert "workers 2: not tried, the time was out" in bench.console.export_text()


def _tune(*words: str) -> list[str]:
    return [sys.executable, "-m", "gwrelay", "tune", *words]


def test_an_interrupt_tells_what_is_known_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if "GWRELAY" not in name}
    words = _tune("--time", "1m", "--sessions", "5", "--json", "--dir", str(tmp_path))
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        assert process.stderr is not None
        # One setting is through when its first line is there.
        first = process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)
        out, told = process.communicate(timeout=30)
    finally:
        watchdog.cancel()
        process.kill()
    assert first.startswith("workers ")
    assert process.returncode == 130
    assert "known so far" in told
    assert "Traceback" not in told
    last = json.loads(out.splitlines()[-1])
    assert (last["bench"], last["figures"]["complete"]) == ("tune", False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [BenchFailed("mail was lost"), GatewayDied("mail was lost")])
def test_a_failure_tells_what_is_known(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failure: Exception,
) -> None:
    runs: list[str] = []

    def fail_late(bench: Bench, plan: Plan, relay: Relay, what: str) -> dict[str, float]:
        runs.append(what)
        # Straight into the sink, as it comes, and the first setting's two values, in 7 rounds.
        if len(runs) == 2 + 2 * 7 + 1:
            raise failure
        return {RATE: 1000.0, CPU: 0.3}

    monkeypatch.setattr(tune, "run", fail_late)
    monkeypatch.setattr(tune, "knobs", lambda: [Knob("workers", ("1", "2")), KNOB])
    with pytest.raises(BenchFailed, match="mail was lost"):
        tune.tune(tmp_path, Job(3600.0, 1000, 5, 0.0), as_json=True)
    out, told = capsys.readouterr()
    assert "It went no further; this is known so far." in told
    assert "workers" in told
    first, last = json.loads(out.splitlines()[0]), json.loads(out.splitlines()[-1])
    assert (first["settings"]["value"], first["settings"]["rounds"]) == ("2", 7)
    assert last["figures"]["complete"] is False
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--time", "5s"), "write 20s or more"),
        (("--time", "long"), "is not a duration"),
        (("--size", "1"), "is outside"),
        (("--delay", "x"), "is not a duration"),
        (("--sessions", "0"), "--sessions"),
        (("--dir", "/no/such/place"), "--dir"),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, str], said: str) -> None:
    done = subprocess.run(_tune(*words), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
