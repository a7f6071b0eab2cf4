"""What `serve` looks at before it starts: its directory and its limits."""

import os
import resource
import stat
import sys
from pathlib import Path

import pytest

from spool.segment import SECRET_BYTES, VERSION, Header, header_block, name_of
from support.clients import submit
from support.gateway import Gateway, StartGateway, expected_once
from support.peer import Peer
from support.processes import Program


def refused(gateway: Gateway) -> str:
    """The one line a gateway that does not start ends with, with status 2."""
    try:
        assert gateway.launch().popen.wait(15) == 2
    finally:
        gateway.kill()
    [line] = gateway.log.splitlines()
    return line


def test_an_open_directory_of_ours_is_closed_to_others_with_a_warning(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    spool = tmp_path / "mail"
    spool.mkdir()
    spool.chmod(0o755)
    gateway = start_gateway(spool=spool)
    assert stat.S_IMODE(spool.stat().st_mode) == 0o700
    assert f"WARNING gwrelay.spooldirectory: spool {spool} was open to others" in gateway.log


def test_a_directory_with_other_things_in_it_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    spool = tmp_path / "home"
    (spool / "letters").mkdir(parents=True)
    spool.chmod(0o755)
    line = refused(Gateway(tmp_path / "gateway", spool=spool))
    assert line == f"gwrelay: error: --spool {spool}: not a spool, it holds 'letters'"
    assert stat.S_IMODE(spool.stat().st_mode) == 0o755


def test_a_spool_of_a_newer_program_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    top = tmp_path / "mail"
    (top / "worker-0").mkdir(parents=True)
    segment = top / "worker-0" / name_of(1)
    segment.write_bytes(header_block(Header(VERSION + 1, 1, bytes(SECRET_BYTES))))
    for path in (top, segment.parent):
        path.chmod(0o755)
    line = refused(Gateway(tmp_path / "gateway", spool=top))
    assert line.startswith(f"gwrelay: error: --spool {top}: ")
    assert f"format version {VERSION + 1}" in line
    assert [stat.S_IMODE(path.stat().st_mode) for path in (top, segment.parent)] == [0o755] * 2
    assert os.listdir(segment.parent) == [segment.name]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    spool = tmp_path / "theirs"
    spool.mkdir()
    os.chown(spool, 12345, 12345)
    line = refused(Gateway(tmp_path / "gateway", spool=spool))
    assert line == f"gwrelay: error: --spool {spool}: belongs to user 12345, not to us"


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    spool = tmp_path / "file"
    spool.write_text("")
    line = refused(Gateway(tmp_path / "gateway", spool=spool))
    assert line.startswith(f"gwrelay: error: --spool {spool}: ")


def test_a_source_address_that_is_not_ours_is_said_in_one_line(tmp_path: Path) -> None:
    line = refused(Gateway(tmp_path / "gateway", "--source", "192.0.2.1"))
    assert line.startswith("gwrelay: error: --source 192.0.2.1: Cannot assign requested address")
    assert line.endswith("; give an address of this machine")


def test_the_soft_limit_of_open_files_is_raised_and_a_shortfall_named(tmp_path: Path) -> None:
    """Started with a soft limit of 64 files and a hard one of 600."""
    script = (
        "import os, resource, sys;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 600));"
        "os.execv(sys.executable, [sys.executable, '-m', 'gwrelay', 'serve', *sys.argv[1:]])"
    )
    flags = ["--listen", "127.0.0.1:0", "--spool", str(tmp_path / "spool"), "--concurrency", "500"]
    gateway = Program([sys.executable, "-c", script, *flags], tmp_path / "log")
    try:
        gateway.await_ready(lambda: "ready: " in gateway.output, 15)
        assert "the limit of open files is 600; --concurrency 500 and" in gateway.output
        assert resource.prlimit(gateway.popen.pid, resource.RLIMIT_NOFILE) == (600, 600)
    finally:
        gateway.stop()


def test_it_is_ready_at_once_and_delivers_what_it_loads(
    start_gateway: StartGateway, peer: Peer
) -> None:
    peer.always("RCPT", "450 4.2.0 later")
    gateway = start_gateway("--smarthost", peer.spec, "--retry", "1s", "--jitter", "0")
    recipients = [f"user{n}@there.example" for n in range(20)]
    for recipient in recipients:
        submit(gateway.port, "me@here.example", [recipient])
    gateway.wait_for("deferred", count=20)
    gateway.kill()
    peer.always("RCPT", "250 2.1.5 now")
    gateway.start()
    gateway.wait_for("delivered", count=20)
    expected_once(recipients, peer.arrived())
    assert "loading what the spool holds" in gateway.log
    assert "loaded 20 messages in " in gateway.log


def test_content_damaged_on_disk_is_held_and_never_sent(
    start_gateway: StartGateway, peer: Peer
) -> None:
    peer.once("RCPT", "450 4.2.0 later", "450 4.2.0 later")
    gateway = start_gateway("--smarthost", peer.spec, "--retry", "500ms", "--jitter", "0")
    submit(
        gateway.port, "me@here.example", ["bad@there.example"], b"Subject: x\r\n\r\nDAMAGE ME\r\n"
    )
    submit(gateway.port, "me@here.example", ["good@there.example"])
    for segment in gateway.spool.glob("worker-0/*.segment"):
        at = segment.read_bytes().find(b"DAMAGE ME")
        if at >= 0:
            with segment.open("r+b") as file:
                file.seek(at)
                file.write(b"GARBAGE!!")
    [held] = gateway.wait_for("held")
    gateway.wait_for("delivered", recipient="good@there.example")
    assert "offset" in held["reason"]
    assert f"message {held['id']} to there.example is held: " in gateway.log
    assert expected_once(["good@there.example"], peer.arrived()) is None
