"""`gwrelay bench plot`: which figures it takes from the lines of benches, and what it draws."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gwrelay_bench.points import (
    NotALine,
    Spread,
    by_sessions,
    cases,
    costs,
    newest,
    rates,
    read_points,
    relays,
    straight,
)
from support.benches import started

PNG = b"\x89PNG"


def line(
    relay: str = "gateway", sessions: int = 20, per_s: float = 100.0, **others: Any
) -> dict[str, Any]:
    settings = {"relay": relay, "sessions": sessions, "bytes": 4096}
    settings |= {"messages_per_connection": others.get("per_connection", "all")}
    return {
        "bench": others.get("bench", "relay_one_site"),
        "revision": others.get("revision", "abc"),
        "settings": settings,
        "figures": {
            "per_s": per_s,
            "cpu_s_per_1000": others.get("cpu", 0.3),
            "dot_to_250_ms": {"p50": 1.0, "p99": 3.0, "max": 9.0},
            "to_arrival_ms": {"p50": 0.0, "p99": 3.0, "max": 9.0},
            "runs": others.get("runs", [per_s]),
        },
        "baseline": {"per_s": 1000.0},
    }


def text(*lines: Mapping[str, Any]) -> list[str]:
    return [json.dumps(one) for one in lines]


def write(path: Path, *lines: Mapping[str, Any]) -> str:
    path.write_text("\n".join(text(*lines)))
    return str(path)


def test_results_that_are_not_of_a_relay_are_left_out() -> None:
    other = {"bench": "append", "revision": "abc", "settings": {}, "figures": {"per_s": 1}}
    [point] = read_points("f", [*text(other), "", *text(line())])
    assert (point.case, point.sessions, point.is_ours) == ("relay_one_site, 4 KiB", 20, True)


@pytest.mark.parametrize("bad", ["{", "[]", "7", '{"bench": "x"}', "bench  measured"])
def test_what_no_bench_prints_is_refused_with_its_line(bad: str) -> None:
    with pytest.raises(NotALine, match="f, line 2"):
        read_points("f", [*text(line()), bad])


def test_loads_of_another_kind_are_cases_of_their_own() -> None:
    points = read_points("f", text(line(), line(per_connection=1), line(bench="tls"), line()))
    assert {case: len(found) for case, found in cases(points).items()} == {
        "relay_one_site, 4 KiB": 2,
        "relay_one_site, 4 KiB, 1 per connection": 1,
        "tls, 4 KiB": 1,
    }


def test_rates_are_medians_with_the_extremes_of_all_runs() -> None:
    one, other = line(per_s=100.0, runs=[90, 100, 120]), line(per_s=110.0, runs=[80, 110, 111])
    points = read_points("f", text(other, one, line(sessions=5, per_s=7.0)))
    assert rates(points) == {5: Spread(7.0, 7.0, 7.0), 20: Spread(105.0, 80, 120)}
    assert straight(points)[20] == Spread(1000.0, 1000.0, 1000.0)
    assert by_sessions(points, "dot_to_250_ms.p99") == {5: 3.0, 20: 3.0}
    assert by_sessions(points, "no_such") == {}


def test_of_ours_the_newest_revision_is_shown_and_ours_comes_first() -> None:
    rival = line("Postfix 3.7.11, tuned", revision="old")
    points = read_points("f", text(line(revision="old"), rival, line(revision="new")))
    shown = newest(points)
    assert [(point.relay, point.revision) for point in shown] == [
        ("Postfix 3.7.11, tuned", "old"),
        ("gateway", "new"),
    ]
    assert relays(shown) == ["gateway", "Postfix 3.7.11, tuned"]
    assert newest([]) == []


def test_costs_are_told_by_revision_and_what_was_not_measured_is_missing() -> None:
    points = read_points(
        "f",
        text(
            line(revision="b", cpu=0.4),
            line(revision="a", cpu=0.2),
            line(revision="a", cpu=0.3, sessions=200),
            line("Postfix", revision="b", cpu=2.0),
        ),
    )
    assert costs(points) == (
        ["b", "a"],
        {
            "relay_one_site, 4 KiB, 20 sessions": [0.4, 0.2],
            "relay_one_site, 4 KiB, 200 sessions": [None, 0.3],
        },
    )


def test_the_pictures_are_drawn_and_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    lines = [line(), line(sessions=200), line("Postfix 3.7.11, default"), line(per_connection=1)]
    out = tmp_path / "new" / "pictures"
    done = started("plot", write(tmp_path / "lines", *lines), "--out", str(out))
    assert (done.returncode, done.stderr) == (0, "")
    names = {"throughput-relay_one_site-4_KiB", "latency-relay_one_site-4_KiB", "cost"}
    names |= {f"{kind}-relay_one_site-4_KiB-1_per_connection" for kind in ("throughput", "latency")}
    assert sorted(done.stdout.split()) == sorted(str(out / f"{name}.png") for name in names)
    assert all((out / f"{name}.png").read_bytes().startswith(PNG) for name in names)


def test_what_tests_of_throughput_print_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = ("relay_one_site", "--messages", "50", "--sessions", "5", "--runs", "1", "--json")
    (tmp_path / "lines").write_text(started(*words, "--dir", str(tmp_path)).stdout)
    done = started("plot", str(tmp_path / "lines"), "--out", str(tmp_path), "--format", "svg")
    assert len(done.stdout.split()) == 3
    assert "<svg" in (tmp_path / "cost.svg").read_text()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "nothing to draw"),
        ("gwrelay bench relay_one_site\n", "line 1"),
        (json.dumps(line()) + "\nnonsense\n", "line 2"),
        ('{"bench": "append", "revision": "a", "settings": {}, "figures": {}}', "nothing to draw"),
    ],
)
def test_a_file_without_results_is_refused(tmp_path: Path, content: str, said: str) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "lines").write_text(content)
    done = started("plot", str(tmp_path / "lines"), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert said in done.stderr
    assert "--json" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [("plot",), ("plot", "/no/such/file")])
def test_files_have_to_be_named_and_be_there(words: tuple[str, ...]) -> None:
    assert started(*words).returncode == 2


def test_without_matplotlib_it_says_how_to_install_it(tmp_path: Path) -> None:
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ImportError('not installed')")
    paths = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    drawing = write(tmp_path / "lines", line())
    for words in (("plot", drawing), ("window", "--plot", "x.png", "--dir", str(tmp_path))):
        done = subprocess.run(
            [sys.executable, "-m", "gwrelay", "bench", *words],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert "pip install 'gwrelay[bench]'" in done.stderr


def test_a_picture_that_cannot_be_written_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = started("plot", write(tmp_path / "lines", line()), "--out", str(blocked / "below"))
    assert done.returncode == 2
    assert "--out" in done.stderr
