"""The process: signals, flags, locks, and who may relay."""

import os
import signal
import smtplib
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.clients import Load, expect, submit
from support.gateway import Gateway, StartGateway, expected_once
from support.peer import STALL, Peer

SENDER = "me@here.example"
YOU = "you@there.example"


def test_sigterm_under_load_loses_nothing_and_repeats_nothing(
    start_gateway: StartGateway, peer: Peer
) -> None:
    gateway = start_gateway("--smarthost", peer.spec)
    with Load(gateway.port) as load:
        for _ in range(2):
            already = len(peer.messages)
            peer.wait_for_messages(already + 50)
            assert gateway.terminate(timeout=15) == 0
            gateway.start()
            load.port = gateway.port
        load.stop()
    gateway.wait_until(lambda: load.acknowledged <= peer.arrived().keys(), "all mail", timeout=20)
    repeated = {recipient: n for recipient, n in peer.arrived().items() if n > 1}
    assert not repeated


def test_sigterm_does_not_wait_for_a_next_hop_that_says_nothing(
    start_gateway: StartGateway, peer: Peer
) -> None:
    peer.once("RCPT", STALL)
    gateway = start_gateway("--smarthost", peer.spec, "--shutdown-max", "1s")
    submit(gateway.port, SENDER, [YOU])
    peer.wait_for(lambda p: "RCPT" in p.verbs())
    assert gateway.terminate(timeout=6) == 0
    assert not any(event.get("in_doubt") for event in gateway.events())
    gateway.start()
    peer.wait_for_messages(1)
    expected_once([YOU], peer.arrived())


def test_only_what_is_past_its_final_dot_at_the_end_is_in_doubt(
    start_gateway: StartGateway, peer: Peer
) -> None:
    peer.once(".", STALL)
    flags = ["--shutdown-max", "1s", "--site-concurrency", "1", "--retry", "500ms"]
    gateway = start_gateway("--smarthost", peer.spec, *flags)
    submit(gateway.port, SENDER, [YOU])
    peer.wait_for(lambda p: "." in p.verbs())
    submit(gateway.port, SENDER, ["behind@there.example"])
    assert gateway.terminate(timeout=6) == 0
    doubtful = [event["recipient"] for event in gateway.events() if event.get("in_doubt")]
    assert doubtful == [YOU]
    gateway.start()
    peer.wait_for_messages(2)
    expected_once([YOU, "behind@there.example"], peer.arrived())


def test_sigterm_tells_connected_clients_and_takes_no_more(
    start_gateway: StartGateway, peer: Peer
) -> None:
    gateway = start_gateway("--smarthost", peer.spec)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        replies = client.makefile("rb")
        assert replies.readline().startswith(b"220 ")
        assert gateway.terminate() == 0
        assert replies.readline().startswith(b"421 ")
        assert replies.read() == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", gateway.port), timeout=10)


def test_sighup_goes_on_in_new_files_after_a_rename(
    start_gateway: StartGateway, peer: Peer, tmp_path: Path
) -> None:
    gateway = start_gateway("--smarthost", peer.spec)
    submit(gateway.port, SENDER, ["first@there.example"])
    gateway.wait_for("delivered", recipient="first@there.example")
    old = gateway.events_path.rename(tmp_path / "events.1")
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_until(gateway.events_path.exists, "the new events file")
    submit(gateway.port, SENDER, ["second@there.example"])
    gateway.wait_for("delivered", recipient="second@there.example")
    assert "second@there.example" not in old.read_text()
    assert "first@there.example" not in gateway.events_path.read_text()


def test_sighup_goes_on_in_a_new_log_after_a_rename(
    start_gateway: StartGateway, peer: Peer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    # The first start has no --log, so that the harness sees it become ready.
    gateway = start_gateway("--smarthost", peer.spec)
    assert gateway.terminate() == 0
    gateway.launch("--log", str(log))
    gateway.wait_until(lambda: log.exists() and "ready: listening" in log.read_text(), "the log")
    log.rename(tmp_path / "log.1")
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_until(log.exists, "the new log")
    assert gateway.terminate() == 0
    assert log.read_text()


def test_a_second_process_on_a_spool_is_refused(
    start_gateway: StartGateway, peer: Peer, tmp_path: Path
) -> None:
    gateway = start_gateway("--smarthost", peer.spec)
    second = Gateway(tmp_path / "second", spool=gateway.spool)
    try:
        assert second.launch().popen.wait(15) != 0
    finally:
        second.kill()
    assert str(gateway.spool) in second.log
    assert str(gateway.process.popen.pid) in second.log
    assert "Traceback" not in second.log
    submit(gateway.port, SENDER, [YOU])
    peer.wait_for_messages(1)


def serve(*flags: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit status and text of a `serve` that is expected to end by itself."""
    clean = {name: value for name, value in os.environ.items() if "GWRELAY" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "gwrelay", "serve", *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**clean, **(environment or {})},
        timeout=20,
        check=False,
    )
    return done.returncode, done.stdout.decode()


#: Flags, and words that the complaint must have in it.
BAD = {
    "unknown flag": (["--smart-host", "x"], ["--smart-host"]),
    "duration without unit": (["--retry", "5"], ["retry", "5m"]),
    "size of nothing": (["--max-message-size", "lots"], ["max-message-size", "lots", "50M"]),
    "listen without port": (["--listen", "127.0.0.1"], ["listen", "HOST:PORT"]),
    "network with host bits": (["--relay-from", "10.0.0.1/8"], ["relay-from", "10.0.0.0/8"]),
    "resolver by name": (["--resolver", "ns.example"], ["resolver", "ns.example"]),
}


@pytest.mark.parametrize(("flags", "words"), BAD.values(), ids=BAD)
def test_bad_flags_are_explained_with_status_2(
    tmp_path: Path, flags: list[str], words: list[str]
) -> None:
    status, text = serve("--spool", str(tmp_path / "spool"), "--hostname", "gw.example", *flags)
    assert status == 2
    for word in words:
        assert word in text
    assert "Traceback" not in text
    assert not (tmp_path / "spool").exists()


def test_bad_keys_and_variables_are_explained_with_status_2(tmp_path: Path) -> None:
    file = tmp_path / "gwrelay.toml"
    file.write_text('lifetme = "5d"\n')
    flags = ["--spool", str(tmp_path / "spool"), "--hostname", "gw.example"]
    status, text = serve(*flags, "--config", str(file), environment={"GWRELAY_LIFETIME": "5 days"})
    assert status == 2
    assert str(file) in text
    assert "lifetme" in text
    assert "lifetime" in text
    assert "GWRELAY_LIFETIME" in text


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = ["--spool", str(tmp_path / "spool"), "--hostname", "gw.example"]
        status, text = serve(*flags, "--listen", f"127.0.0.1:{port}")
    assert status != 0
    assert f"127.0.0.1:{port}" in text
    assert "Traceback" not in text


def test_flag_beats_variable_beats_file(
    start_gateway: StartGateway, peer: Peer, tmp_path: Path
) -> None:
    file = tmp_path / "gwrelay.toml"
    file.write_text('max-message-size = "1M"\nmax-recipients = 1\nmax-hops = 1\n')
    gateway = start_gateway(
        *("--smarthost", peer.spec, "--config", str(file), "--max-message-size", "3M"),
        environment={"GWRELAY_MAX_MESSAGE_SIZE": "2M", "GWRELAY_MAX_RECIPIENTS": "2"},
    )
    with smtplib.SMTP("127.0.0.1", gateway.port, "client.example") as client:
        assert f"SIZE {3 * 1024**2}" in expect(client, "EHLO client.example").splitlines()[1:]
        expect(client, f"MAIL FROM:<{SENDER}>")
        expect(client, f"RCPT TO:<{YOU}>")
        expect(client, f"RCPT TO:<{YOU}>")
        with pytest.raises(smtplib.SMTPResponseException) as third:
            expect(client, f"RCPT TO:<{YOU}>")
        assert third.value.smtp_code == 452
    with pytest.raises(smtplib.SMTPResponseException) as looping:
        submit(gateway.port, SENDER, [YOU], b"Received: a\r\nReceived: b\r\n\r\nx\r\n")
    assert b"5.4.6" in looping.value.smtp_error


def test_relaying_is_refused_to_clients_it_is_not_for(
    start_gateway: StartGateway, peer: Peer
) -> None:
    gateway = start_gateway("--smarthost", peer.spec, "--relay-from", "127.0.0.1/32")
    with pytest.raises(smtplib.SMTPResponseException) as refused:
        submit(gateway.port, SENDER, [YOU], source="127.0.0.2")
    assert refused.value.smtp_code == 550
    assert b"5.7.1" in refused.value.smtp_error
    submit(gateway.port, SENDER, [YOU], source="127.0.0.1")
    peer.wait_for_messages(1)
    expected_once([YOU], peer.arrived())


def test_the_spool_is_closed_to_others(start_gateway: StartGateway, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir(mode=0o755)
    gateway = start_gateway(spool=spool)
    submit(gateway.port, SENDER, [YOU])
    for path in (spool, *spool.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert str(spool) in gateway.log
