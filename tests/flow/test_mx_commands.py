"""`gwrelay mx ...` beside a running gateway, as its operators type it."""

import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.clients import submit
from support.dns_server import DNSServer
from support.gateway import Gateway, StartGateway
from support.peer import Peer

ZONE = {
    "dest.example": {"MX": ["10 mx.dest.example.", "20 spare.dest.example."]},
    "mx.dest.example": {"A": ["127.0.0.1"]},
    "spare.dest.example": {"A": ["127.0.0.98"]},
    "null.example": {"MX": ["0 ."]},
}


@pytest.fixture
def names() -> Iterator[DNSServer]:
    with DNSServer(ZONE) as running:
        yield running


@pytest.fixture
def flags(names: DNSServer, peer: Peer) -> list[str]:
    port = str(peer.port)
    return ["--resolver", names.address, "--smtp-port", port, "--deny-host", "none"]


@pytest.fixture
def gateway(start_gateway: StartGateway, flags: list[str]) -> Gateway:
    return start_gateway(*flags, "--mx-bad-time", "1h..1h", "--retry", "200ms")


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One for all who leave it as it was."""
    with Gateway(tmp_path_factory.mktemp("idle"), "--resolver", "127.0.0.1:9") as running:
        yield running
    assert "Traceback" not in running.log, running.log


def mx(*arguments: str, status: int = 0) -> str:
    """What `gwrelay mx ...` prints; AssertionError unless it ends with `status`."""
    environment = {name: text for name, text in os.environ.items() if "GWRELAY" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "gwrelay", "mx", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment,
        check=False,
    )
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done.stdout if status in (0, 1) and done.stdout else done.stderr


def said(*arguments: str, status: int = 0) -> Any:
    return json.loads(mx(*arguments, "--json", status=status))


def of(gateway: Gateway) -> list[str]:
    return ["--spool", str(gateway.spool)]


def test_what_was_looked_up_is_in_the_cache_until_it_is_flushed(
    gateway: Gateway, names: DNSServer, peer: Peer
) -> None:
    submit(gateway.port, "", ["user@dest.example", "user@null.example"])
    gateway.wait_for("delivered", recipient="user@dest.example")
    gateway.wait_for("bounced", recipient="user@null.example")
    entries = {one["name"]: one for one in said("cache", *of(gateway))["entries"]}
    assert set(entries) == {"dest.example", "null.example"}
    found = entries["dest.example"]
    assert [(e["preference"], e["name"], e["addresses"]) for e in found["exchanges"]] == [
        (10, "mx.dest.example", ["127.0.0.1"]),
        (20, "spare.dest.example", ["127.0.0.98"]),
    ]
    assert found["refresh_at"] < found["expires_at"] <= time.time() + 300
    assert entries["null.example"]["reply"].startswith("556 5.1.10")
    assert "10:mx.dest.example[127.0.0.1]" in mx("cache", "Dest.Example.", *of(gateway))
    assert "forgot 1 names" in mx("flush", "DEST.example", *of(gateway))
    assert [e["name"] for e in said("cache", *of(gateway))["entries"]] == ["null.example"]
    submit(gateway.port, "", ["again@dest.example"])
    gateway.wait_for("delivered", recipient="again@dest.example")
    assert names.asked("dest.example", "MX") == names.asked("mx.dest.example", "A") == 2
    assert said("flush", "--all", *of(gateway)) == {"flushed": 2}
    assert said("cache", *of(gateway)) == {"entries": []}


def test_a_host_marked_by_hand_is_left_alone_until_it_is_marked_good(
    gateway: Gateway, peer: Peer
) -> None:
    marked = said("mark-bad", "127.0.0.1", "--for", "10m", *of(gateway))
    assert marked == {"host": "127.0.0.1", "addresses": ["127.0.0.1"], "for_s": 600.0}
    assert said("mark-bad", "127.0.0.98", *of(gateway))["for_s"] == 3600.0
    submit(gateway.port, "", ["user@dest.example"])
    gateway.wait_until(lambda: said("cache", *of(gateway))["entries"], "the lookup")
    marks = {(m["host"], m["port"]): m["until"] for m in said("bad", *of(gateway))["marks"]}
    assert 590 < marks["127.0.0.1", 0] - time.time() <= 600
    assert not gateway.events("delivered")
    assert peer.connections == 0
    assert "bears no mark any more" in mx("mark-good", "127.0.0.1", *of(gateway))
    gateway.wait_for("delivered", timeout=5)
    assert peer.connections == 1


def test_marks_of_a_gateway_are_shown_with_the_plan(
    gateway: Gateway, flags: list[str], peer: Peer
) -> None:
    peer.stop()
    submit(gateway.port, "", ["user@dest.example"])
    gateway.wait_for("deferred")
    plan = said("lookup", "dest.example", *flags, *of(gateway))
    assert plan["gateway"] is True
    assert all(host["bad_until"] > time.time() for host in plan["hosts"])
    assert len(plan["hosts"]) == 2
    lines = mx("lookup", "dest.example", *flags, *of(gateway)).splitlines()
    assert "marked bad" in lines[1]
    assert mx("bad", *of(gateway)).count(" until ") == 2


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["cache", "nobody.example"], 1, "nothing is remembered of nobody.example"),
        (["flush", "nobody.example"], 1, "nothing is remembered of nobody.example"),
        (["mark-good", "127.0.0.77"], 1, "127.0.0.77 bears no mark"),
        (["flush", "no domain"], 2, "is not a valid domain name"),
        (["flush"], 2, "name domains, or give --all"),
        (["mark-bad", "mx.example", "--for", "5"], 2, "--for: '5' is not a duration"),
        (["bad", "--admin", "/x"], 2, "--admin: '/x' is no Unix socket; write unix:PATH"),
    ],
)
def test_what_cannot_be_done_says_why(
    idle: Gateway, arguments: list[str], status: int, words: str
) -> None:
    assert words in mx(*arguments, *of(idle), status=status)


def test_without_a_gateway_the_status_is_4_and_a_lookup_works(
    tmp_path: Path, flags: list[str]
) -> None:
    spool = ["--spool", str(tmp_path)]
    for command in (["cache"], ["bad"], ["flush", "--all"], ["mark-good", "x.example"]):
        assert "no gateway runs at" in mx(*command, *spool, status=4)
    assert "--spool: not given" in mx("bad", status=2)
    assert said("lookup", "dest.example", *flags, *spool)["gateway"] is False


def test_the_socket_is_its_owners_alone_and_goes_when_the_gateway_goes(gateway: Gateway) -> None:
    path = gateway.spool / "admin.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert gateway.terminate() == 0
    assert not path.exists()


def test_a_socket_left_by_kill_9_is_no_obstacle(gateway: Gateway) -> None:
    gateway.kill()
    assert (gateway.spool / "admin.sock").exists()
    assert "no gateway runs at" in mx("bad", *of(gateway), status=4)
    gateway.start()
    assert said("bad", *of(gateway)) == {"marks": []}


def test_the_socket_may_be_elsewhere_and_is_never_taken_from_another(
    start_gateway: StartGateway, tmp_path: Path, flags: list[str]
) -> None:
    admin = ["--admin", f"unix:{tmp_path}/control"]
    start_gateway(*flags, *admin)
    assert said("bad", *admin) == {"marks": []}
    second = Gateway(tmp_path / "second", *flags, *admin)
    try:
        assert second.launch().popen.wait(15) == 2
    finally:
        second.kill()
    assert f"--admin unix:{tmp_path}/control: another gateway answers there" in second.log
    (tmp_path / "file").write_text("precious")
    third = Gateway(tmp_path / "third", "--admin", f"unix:{tmp_path}/file")
    try:
        assert third.launch().popen.wait(15) == 2
    finally:
        third.kill()
    assert "is there, and no socket" in third.log
    assert (tmp_path / "file").read_text() == "precious"


def test_a_spool_of_a_name_too_long_for_a_socket_has_one_all_the_same(
    start_gateway: StartGateway, tmp_path: Path, flags: list[str]
) -> None:
    spool = tmp_path / ("long" * 30) / ("name" * 30)
    gateway = start_gateway(*flags, spool=spool)
    assert said("bad", *of(gateway)) == {"marks": []}


# -- the wire -------------------------------------------------------------------------------


def converse(gateway: Gateway, request: bytes, answers: int = 1) -> list[dict[str, Any]]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(gateway.spool / "admin.sock"))
        client.sendall(request)
        with client.makefile("rb") as lines:
            return [json.loads(lines.readline()) for _ in range(answers)]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (b"\n", "not a request"),
        (b"{}\n", "not a request"),
        (b"\xff\xfe\n", "not a request"),
        (b"[1]\n", "not a request"),
        (b'{"command": "stop"}\n', "unknown command 'stop'; known are explain domain"),
        (b'{"command": "mx flush"}\n', "mx flush: Object missing required field `domains`"),
        (b'{"command": "mx flush", "arguments": {"domains": [7]}}\n', "Expected `str`, got `int`"),
        (b'{"command": "mx bad", "arguments": {"x": 1}}\n', "unknown field `x`"),
        (b'{"command": "' + b"x" * 70_000 + b'"}\n', "a request of more than 65536 bytes"),
    ],
)
def test_what_is_no_request_is_told_so_and_harms_nothing(
    idle: Gateway, request_: bytes, words: str
) -> None:
    [answer] = converse(idle, request_)
    assert (answer["ok"], answer["status"]) == (False, 2)
    assert words in answer["error"]
    assert said("bad", *of(idle)) == {"marks": []}


def test_several_requests_of_one_client_are_answered_in_order(idle: Gateway) -> None:
    one, two = converse(idle, b'{"command": "mx bad"}\n{"command": "nonsense"}\n', 2)
    assert one == {"ok": True, "result": None}
    assert two["ok"] is False


def test_clients_that_say_nothing_hold_up_nobody_else(idle: Gateway) -> None:
    silent = [socket.socket(socket.AF_UNIX) for _ in range(8)]
    try:
        for client in silent:
            client.connect(str(idle.spool / "admin.sock"))
            client.sendall(b'{"comm')
        assert said("bad", *of(idle)) == {"marks": []}
    finally:
        for client in silent:
            client.close()
