"""`gwrelay bench source` and `gwrelay bench sink` as processes, with each other and others."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gwrelay_bench.sending import await_listener
from support.benches import serving, started
from support.peer import DROP, Peer
from support.processes import await_true


def source(port: int, *words: str, status: int = 0) -> dict[str, Any]:
    """What it says; it ends with `status`."""
    done = started("source", "--to", f"127.0.0.1:{port}", *words, "--json")
    assert done.returncode == status, done.stderr
    return dict(json.loads(done.stdout)["figures"])


@pytest.mark.parametrize(
    ("taking", "sending"),
    [
        ((), ()),
        (("--processes", "2"), ("--per-connection", "1")),
        (("--tls", "starttls"), ("--tls", "starttls", "--per-connection", "5")),
        (("--tls", "implicit"), ("--tls", "implicit", "--per-connection", "5")),
        (("--pipelining", "no"), ()),
        ((), ("--pipelining", "no")),
        (("--delay", "dot:5ms"), ("--rate", "200")),
    ],
    ids=["plain", "processes", "starttls", "implicit TLS", "not offered", "not used", "rate"],
)
def test_both_count_the_same(taking: tuple[str, ...], sending: tuple[str, ...]) -> None:
    with serving("sink", "--port", "0", *taking) as (port, end):
        told = source(
            port, "--messages", "60", "--sessions", "6", "--recipients", "2", "--size", "1K:3,9K:1",
            "--domains", "a.example:2,b.example:1", *sending,
        )  # fmt: skip
        found = end()["figures"]
    assert (told["accepted"], told["answers"]) == (60, {"250": 60})
    cores, seconds = told["source_cores"], told["seconds"]
    cpu_s = 60 * told["source_cpu_s_per_1000"] / 1000
    # Of a few milliseconds the third decimal, to which both are rounded, is a large part.
    rounding = 0.0005 * (cores + seconds) + 0.0001
    assert cores * seconds == pytest.approx(cpu_s, abs=rounding)
    # One process, which cannot take more than a core; what it took to start is not counted.
    assert cpu_s <= 2 * (seconds + 0.0005)
    assert told["rcpt_answers"] == {"250": 120}
    assert told["sessions_lost"] == 0
    assert 0 < told["dot_to_250_ms"]["p50"] <= told["dot_to_250_ms"]["p99"]
    assert (found["messages"], found["recipients"], found["again"]) == (60, 120, 0)
    assert (found["spoilt"], found["bodies"], found["faults"]) == (0, 2, {})
    assert sum(one["messages"] for one in found["most_bodies"]) == 60
    under_tls = found["sessions_under_tls"]
    if "--tls" in taking:
        assert 12 <= under_tls <= found["sessions"]
    else:
        assert under_tls == 0
    if "--rate" in sending:
        assert told["seconds"] >= 59 / 200
        assert told["due_to_dot_ms"]["p50"] >= 0


def test_faults_are_counted_alike_and_what_was_taken_in_silence_is_known() -> None:
    faults = (
        "mail:450 4.2.0 not now:0.2",
        "rcpt@a.example:550:0.5",
        "dot:taken:0.1",
        "data:421:.1",
    )
    words = [word for fault in faults for word in ("--fault", fault)]
    with serving("sink", "--port", "0", *words, "--processes", "2") as (port, end):
        # One command after another, or what follows a refusal fails as well.
        few = ("--messages", "300", "--domains", "a.example,b.example", "--pipelining", "no")
        told = source(port, *few, status=1)
        found = end()["figures"]
    answers, failed = told["answers"], found["faults"]
    assert sum(answers.values()) == 300
    assert set(answers) == {"250", "421", "450", "550", "lost"}
    assert answers["450"] == failed["450"] > 0
    assert answers["550"] == failed["550"] > 0
    assert answers["421"] == failed["421"] > 0
    assert answers["lost"] == failed["taken"] > 0
    assert found["messages"] == answers["250"] + answers["lost"]
    assert told["accepted"] == answers["250"]


def test_a_second_run_is_no_repetition_and_records_name_each_message(tmp_path: Path) -> None:
    records = tmp_path / "records"
    with serving("sink", "--port", "0", "--records", str(records)) as (port, end):
        for _ in range(2):
            source(port, "--messages", "5")
        found = end()["figures"]
    assert (found["messages"], found["again"]) == (10, 0)
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert len({line["id"] for line in lines}) == 10
    assert {line["whole"] for line in lines} == {True}
    assert sorted(line["recipients"][0] for line in lines)[:2] == ["r0@sink.example"] * 2


def test_it_logs_in() -> None:
    with Peer() as peer:
        peer.always("EHLO", "250-peer\r\n250 AUTH PLAIN")
        peer.always("AUTH", "235 2.7.0 welcome")
        told = source(peer.port, "--messages", "3", "--sessions", "1", "--auth", "me:se:cret")
        commands = [command for command in peer.commands if command.verb == "AUTH"]
    assert told["accepted"] == 3
    # base64 of NUL me NUL se:cret
    assert [command.line.strip() for command in commands] == [b"AUTH PLAIN AG1lAHNlOmNyZXQ="]


def test_without_a_login_nothing_is_handed_in() -> None:
    with Peer() as peer:
        peer.always("AUTH", "535 5.7.8 no")
        told = source(peer.port, "--messages", "3", "--auth", "me:secret", status=1)
        assert peer.messages == []
    assert any("535" in text for text in told["refusals"])


def test_refused_and_lost_messages_cost_nothing_but_themselves() -> None:
    with Peer() as peer:
        peer.recipient("r3@sink.example", "450 4.2.1 not now")
        peer.recipient("r9@sink.example", DROP)
        peer.once(".", "452 4.3.1 full")
        told = source(peer.port, "--messages", "30", "--sessions", "1", status=1)
        sessions = len({command.session for command in peer.commands})
    assert told["answers"] == {"250": 27, "450": 1, "452": 1, "lost": 1}
    assert (sessions, told["sessions_lost"]) == (2, 1)


def test_an_interrupt_tells_what_is_known(tmp_path: Path) -> None:
    records = tmp_path / "records"
    with serving("sink", "--port", "0", "--records", str(records)) as (port, _):
        words = [sys.executable, "-m", "gwrelay", "bench", "source", "--to", f"127.0.0.1:{port}"]
        process = subprocess.Popen(
            [*words, "--messages", "1000", "--rate", "10", "--sessions", "1", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 30
        while records.read_text().count("\n") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        out, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "known so far" in said
    assert "Traceback" not in said
    assert 0 < json.loads(out)["figures"]["accepted"] < 1000


def test_a_sink_ends_on_ctrl_c_too_and_says_what_came() -> None:
    with serving("sink", "--port", "0", number=signal.SIGINT) as (port, end):
        source(port, "--messages", "4")
        assert end()["figures"]["messages"] == 4


def test_processes_of_a_sink_end_with_it_however_that_was(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "gwrelay", "bench", "sink", "--port", "0"]
    sink = subprocess.Popen(
        words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    try:
        assert sink.stderr is not None
        port = int(sink.stderr.readline().rpartition(":")[2])
        children = Path(f"/proc/{sink.pid}/task/{sink.pid}/children").read_text().split()
    finally:
        sink.kill()
        sink.communicate(timeout=20)
    assert children
    await_true(lambda: not any(Path("/proc", child).exists() for child in children), "it lives")
    with socket.socket() as late:
        assert late.connect_ex(("127.0.0.1", port)) != 0


def test_it_waits_for_a_server_that_is_about_to_listen() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "gwrelay", "bench", "source", "--to", f"127.0.0.1:{port}"]
    early = subprocess.Popen([*words, "--messages", "5", "--json"], stdout=subprocess.PIPE)
    try:
        with serving("sink", "--port", str(port)) as (_, end):
            assert early.wait(timeout=20) == 0
            assert end()["figures"]["messages"] == 5
    finally:
        early.kill()
        early.communicate()


def test_the_first_address_where_somebody_listens_is_the_one() -> None:
    with socket.socket() as nobody, socket.create_server(("127.0.0.1", 0)) as somebody:
        nobody.bind(("127.0.0.1", 0))
        there = somebody.getsockname()
        assert await_listener([nobody.getsockname(), there]) == there


def test_a_sink_listens_on_ipv6_too() -> None:
    with serving("sink", "--listen", "::1", "--port", "0") as (port, end):
        done = started("source", "--to", f"[::1]:{port}", "--messages", "5")
        assert done.returncode == 0, done.stderr
        assert end()["figures"]["messages"] == 5


def test_it_waits_no_longer_than_that_for_a_server_that_does_not_come() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        done = started("source", "--to", f"127.0.0.1:{nobody.getsockname()[1]}")
    assert done.returncode == 1
    assert "nobody takes mail" in done.stderr


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = started("sink", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "in use" in done.stderr


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (("source",), "--to"),
        (("source", "--to", "nonsense"), "HOST:PORT"),
        (("source", "--to", "a:1", "--size", "2K:x"), "2K:50,20K:40,1M:10"),
        (("source", "--to", "a:1", "--domains", "a b"), "example.com:3,example.net:1"),
        (("source", "--to", "a:1", "--auth", "me"), "USER:PASSWORD"),
        (("source", "--to", "a:1", "--tls", "maybe"), "starttls"),
        (("source", "--to", "a:1", "--rate", "0"), "--rate"),
        (("source", "--to", "no-such-host.invalid:25"), "no address"),
        (("sink", "--fault", "rcpt"), "rcpt:450:0.1"),
        (("sink", "--fault", "rcpt:hello"), "rcpt:450:0.1"),
        (("sink", "--fault", "helo:450"), "COMMAND is"),
        (("sink", "--fault", "rcpt:450:1.5"), "outside 0..1"),
        (("sink", "--fault", "mail@a.example:450"), "rcpt, data and dot"),
        (("sink", "--fault", "rcpt:taken"), "taken is for dot"),
        (("sink", "--delay", "rcpt:fast"), "rcpt:100ms"),
        (("sink", "--greylist", "1m"), "a.example:1m"),
        (("sink", "--listen", "here"), "0.0.0.0"),
        (("sink", "--certificate", __file__), "--tls"),
        (("dns", "--addresses", "127.6.0.0/30"), "larger network"),
        (("dns", "--ttl", "long"), "60s"),
        (("dns", "--domains", "0"), "a number of them"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_would(words: tuple[str, ...], right: str) -> None:
    done = started(*words)
    assert done.returncode == 2
    assert right in " ".join(done.stderr.split())
