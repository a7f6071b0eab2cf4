"""Several workers behind one port: shared work, one view of it, and what happens when one ends."""

import contextlib
import json
import os
import pwd
import random
import re
import signal
import smtplib
import socket
import stat
import subprocess
import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import gwrelay as gwrelay_package
from gwrelay.config import MOST_WORKERS
from gwrelay.message.envelope import message_id
from spool.segment import SECRET_BYTES, VERSION, Header, header_block, name_of
from support.authority import certificate_at, make_authority
from support.clients import Load, submit
from support.commands import gwrelay, listed, said
from support.gateway import Gateway, StartGateway, expected_once
from support.peer import STALL, Peer
from support.processes import accepts, await_true, has_open, need_root
from support.relaying import nobody_listens

TWO = ("--workers", "2")
SENDER = "me@here.example"


@contextlib.contextmanager
def sessions(gateway: Gateway, count: int) -> Iterator[list[smtplib.SMTP]]:
    """So many clients at once, connected as fast as they can be, before any is greeted."""
    with contextlib.ExitStack() as stack:
        addresses = [("127.0.0.1", gateway.port)] * count
        sockets = [stack.enter_context(socket.create_connection(at, 20)) for at in addresses]
        clients = []
        for sock in sockets:
            client = smtplib.SMTP()
            client.sock = sock
            assert client.getreply()[0] == 220
            client.ehlo("client.example")
            clients.append(client)
        yield clients


def submitted(gateway: Gateway, count: int) -> list[str]:
    """Messages by ten sessions at once, which both workers take; their recipients."""
    recipients = [f"u{n}@there.example" for n in range(count)]
    with sessions(gateway, 10) as clients:
        for n, recipient in enumerate(recipients):
            clients[n % 10].sendmail(SENDER, [recipient], "Subject: x\r\n\r\nx\r\n")
    return recipients


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.name.startswith("worker-")}


# One gateway.


@pytest.mark.parametrize("count", [20, 100])
def test_sessions_are_spread_evenly_over_the_workers(
    start_gateway: StartGateway, count: int
) -> None:
    gateway = start_gateway(*TWO)
    with sessions(gateway, count):
        told = said("status", at=gateway)
        shares = [worker["connections"] for worker in told["workers"]]
    assert told["connections"] == sum(shares) == count
    # A difference of two is left, and each may take one while the other does.
    assert max(shares) - min(shares) <= 4, shares


def test_both_workers_carry_mail_and_keep_it_in_directories_of_their_own(
    start_gateway: StartGateway, peer: Peer
) -> None:
    peer.always("RCPT", "450 4.2.0 later")
    gateway = start_gateway("--smarthost", peer.spec, *TWO)
    recipients = submitted(gateway, 10)
    gateway.wait_for("deferred", count=10)
    assert names_in(gateway.spool) == {"worker-0", "worker-1"}
    counts = [worker["waiting"] for worker in said("status", at=gateway)["workers"]]
    assert sum(counts) == 10
    assert min(counts) >= 3, counts
    ids = [message_id(event["id"]) for event in gateway.events("accepted")]
    assert {key % MOST_WORKERS for key in ids} == {0, 1}, "each gives out ids of its own"
    peer.always("RCPT", "250 2.1.5 now")
    gwrelay("queue", "retry", "--all", at=gateway)
    gateway.wait_for("delivered", count=10)
    expected_once(recipients, peer.arrived())


def test_the_most_clients_there_may_be_are_those_of_all_workers(
    start_gateway: StartGateway,
) -> None:
    gateway = start_gateway(*TWO, "--max-connections", "6")
    at = "127.0.0.1", gateway.port
    with sessions(gateway, 6), socket.create_connection(at, 20) as one_more:
        assert one_more.makefile("rb").readline().startswith(b"421 4.7.0 ")
    gateway.wait_until(lambda: said("status", at=gateway)["connections"] == 0, "all gone")
    with sessions(gateway, 6):
        pass


def test_what_all_workers_have_is_listed_and_ordered_about_as_one_queue(
    start_gateway: StartGateway, peer: Peer
) -> None:
    peer.always("RCPT", "450 4.2.0 later")
    gateway = start_gateway("--smarthost", peer.spec, *TWO, "--idle-timeout", "0")
    names = []
    with sessions(gateway, 8) as clients:
        for n, client in enumerate(clients):
            client.mail(SENDER)
            client.rcpt(f"u{n}@dest{n % 2}.example")
            client.data("Subject: x\r\n\r\nx\r\n")
            names.append(gateway.wait_for("deferred", count=n + 1)[-1]["id"])
    workers = said("status", at=gateway)["workers"]
    assert min(worker["waiting"] for worker in workers) >= 2, workers
    assert [one["id"] for one in listed(at=gateway)] == names
    assert [one["id"] for one in listed("--limit", "3", at=gateway)] == names[:3]
    backwards = names[::-1]
    assert [one["id"] for one in listed(*backwards, at=gateway)] == backwards
    tallies = said("queue", "summary", at=gateway)["destinations"]
    assert [(one["destination"], one["deliveries"]) for one in tallies] == [
        ("dest0.example", 4),
        ("dest1.example", 4),
    ]
    for n, name in enumerate(names):
        shown = said("queue", "show", name, at=gateway)
        assert shown["envelope"]["recipients"][0]["address"] == f"u{n}@dest{n % 2}.example"
        assert said("explain", name, at=gateway)["parts"][0]["state"] == "waiting"
        assert b"Subject: x" in gwrelay("queue", "cat", name, at=gateway).stdout
    peer.wait_for(lambda p: not p.open)
    told = said("explain", "dest1.example", at=gateway)
    assert told["queue"]["deliveries"] == 4
    held = said("queue", "hold", "domain:dest1.example", at=gateway)
    assert (held["deliveries"], held["messages"], held["absent"]) == (4, 4, [])
    gone = "0000000000000"
    one = said("queue", "delete", names[0], gone, at=gateway, status=1)
    assert (one["deliveries"], one["absent"]) == (1, [gone])
    missing = gwrelay("queue", "show", names[0], at=gateway, status=1)
    assert f"message {names[0]} is not in the queue" in missing.stderr.decode()
    assert len(listed(at=gateway)) == 7
    screen = gwrelay("status", at=gateway).stdout.decode()
    assert "waiting    3 deliveries" in screen
    assert "\nworker 0 " in screen
    assert "\nworker 1 " in screen


def test_marks_are_set_and_cleared_for_all_workers(start_gateway: StartGateway) -> None:
    gateway = start_gateway("--resolver", "127.0.0.1:9", *TWO)
    gwrelay("mx", "mark-bad", "192.0.2.1", at=gateway)
    [mark] = said("mx", "bad", at=gateway)["marks"]
    assert mark["host"] == "192.0.2.1"
    gwrelay("mx", "mark-good", "192.0.2.1", at=gateway)
    assert said("mx", "bad", at=gateway)["marks"] == []
    assert b"bears no mark" in gwrelay("mx", "mark-good", "192.0.2.1", at=gateway, status=1).stderr


def test_a_worker_says_why_a_host_is_dead_that_another_one_tried(
    start_gateway: StartGateway,
) -> None:
    nowhere = "{}:{}".format(*nobody_listens())
    gateway = start_gateway("--smarthost", nowhere, *TWO)
    with sessions(gateway, 10) as clients:
        clients[0].sendmail(SENDER, ["first@there.example"], "Subject: x\r\n\r\nx\r\n")
        gateway.wait_for("deferred", recipient="first@there.example")
        for n, client in enumerate(clients):
            client.sendmail(SENDER, [f"u{n}@there.example"], "Subject: x\r\n\r\nx\r\n")
    [mark] = said("mx", "bad", at=gateway)["marks"]
    assert "refused" in mark["why"]
    screen = gwrelay("mx", "bad", at=gateway).stdout
    assert screen.endswith(b": 421 4.4.1 connection refused (in connect)\n"), screen
    waiting = [worker["waiting"] for worker in said("status", at=gateway)["workers"]]
    assert min(waiting) >= 2, waiting
    for one in listed(at=gateway):
        told = gwrelay("explain", one["id"], at=gateway).stdout.decode().lower()
        assert "marked bad since" in told
        assert "connection refused" in told


def test_a_worker_that_does_not_answer_is_named_and_the_others_tell(
    start_gateway: StartGateway,
) -> None:
    gateway = start_gateway(*TWO)
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(gateway.spool / "admin.worker-5.sock"))
    done = gwrelay("status", at=gateway)
    assert done.stderr == b"gwrelay: worker 5 does not answer: what it has is left out\n"
    assert b"clients now" in done.stdout


def test_sighup_has_all_workers_go_on_in_new_files(
    start_gateway: StartGateway, peer: Peer, tmp_path: Path
) -> None:
    gateway = start_gateway("--smarthost", peer.spec, *TWO)
    with sessions(gateway, 10) as clients:
        old = gateway.events_path.rename(tmp_path / "events.1")
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_until(
            lambda: all(has_open(pid, gateway.events_path) for pid in gateway.worker_pids),
            "the new file, in both",
        )
        for n, client in enumerate(clients):
            client.sendmail(SENDER, [f"u{n}@there.example"], "Subject: x\r\n\r\nx\r\n")
    gateway.wait_for("delivered", count=10)
    assert not old.read_text()


def test_several_workers_write_whole_lines_to_one_file_of_events(
    start_gateway: StartGateway, peer: Peer
) -> None:
    gateway = start_gateway("--smarthost", peer.spec, *TWO)
    with Load(gateway.port) as load:
        gateway.wait_until(lambda: len(load.acknowledged) > 500, "under load")
        load.stop()
    gateway.wait_until(lambda: len(gateway.events("delivered")) >= len(load.acknowledged), "all")
    lines = gateway.events_path.read_text().splitlines()
    assert Counter(json.loads(line)["event"] for line in lines) == {
        "accepted": len(load.acknowledged),
        "delivered": len(load.acknowledged),
    }


# When one ends.


def test_a_killed_worker_comes_back_and_what_was_answered_250_arrives(
    start_gateway: StartGateway, peer: Peer
) -> None:
    options = ["--retry", "500ms", "--in-doubt-wait", "1s"]
    gateway = start_gateway("--smarthost", peer.spec, *options, *TWO)
    chance = random.Random()
    moment = threading.Event()
    supervisor = gateway.process.popen.pid
    with Load(gateway.port) as load:
        for _ in range(4):
            already = len(load.acknowledged)
            gateway.wait_until(lambda n=already: len(load.acknowledged) > n + 50, "under load")
            moment.wait(chance.uniform(0.0, 0.3))  # nobody's choice
            victim = chance.choice(gateway.worker_pids)
            os.kill(victim, signal.SIGKILL)
            gateway.wait_until(
                lambda gone=victim: len({*gateway.worker_pids} - {gone}) == 2,
                "another in its place",
            )
        load.stop()
    acknowledged = load.acknowledged
    gateway.wait_until(lambda: acknowledged <= peer.arrived().keys(), "all mail", timeout=30)
    assert gateway.process.popen.pid == supervisor
    assert gateway.process.popen.poll() is None
    assert gateway.terminate() == 0


def test_a_stopped_worker_is_replaced_and_its_mail_goes_on(
    start_gateway: StartGateway, peer: Peer
) -> None:
    peer.once("RCPT", *["450 4.2.0 later"] * 10)
    options = ["--retry", "2s", "--jitter", "0", "--stall-max", "2s"]
    gateway = start_gateway("--smarthost", peer.spec, *options, *TWO)
    recipients = submitted(gateway, 10)
    gateway.wait_for("deferred", count=10)
    [stopped, _] = gateway.worker_pids
    os.kill(stopped, signal.SIGSTOP)
    gateway.wait_for("delivered", count=10, timeout=30)
    expected_once(recipients, peer.arrived())
    assert f"(process {stopped}) has stood still for " in gateway.log
    assert stopped not in gateway.worker_pids


def test_a_busy_loop_is_not_taken_for_one_that_stands_still(
    start_gateway: StartGateway,
) -> None:
    """Stopped for a second of the two that it has, again and again."""
    gateway = start_gateway("--stall-max", "2s")
    pid = gateway.worker_pid
    for _ in range(4):
        os.kill(pid, signal.SIGSTOP)
        threading.Event().wait(1.0)
        os.kill(pid, signal.SIGCONT)
        threading.Event().wait(0.6)  # a beat, and a look at it
    assert gateway.worker_pid == pid
    assert "stood still" not in gateway.log


def test_a_kill_of_the_supervisor_ends_all_and_the_next_start_needs_no_patience(
    start_gateway: StartGateway, peer: Peer
) -> None:
    gateway = start_gateway("--smarthost", peer.spec, "--workers", "3")
    pids = gateway.worker_pids
    assert len(pids) == 3
    os.kill(pids[0], signal.SIGSTOP)  # it sees nothing, and the kernel ends it all the same
    os.kill(gateway.process.popen.pid, signal.SIGKILL)
    gateway.process.popen.wait()
    await_true(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "all gone")
    gateway.start()
    submit(gateway.port, SENDER, ["you@there.example"])
    peer.wait_for_messages(1)


def test_workers_stay_in_the_process_group_of_their_supervisor(start_gateway: StartGateway) -> None:
    gateway = start_gateway(*TWO)
    group = os.getpgid(gateway.process.popen.pid)
    assert [os.getpgid(pid) for pid in gateway.worker_pids] == [group, group]


def test_the_supervisor_loads_no_gevent_and_takes_little_memory(
    start_gateway: StartGateway,
) -> None:
    gateway = start_gateway()
    pid = gateway.process.popen.pid
    assert "gevent" not in Path(f"/proc/{pid}/maps").read_text()
    assert "gevent" in Path(f"/proc/{gateway.worker_pid}/maps").read_text()


def test_who_comes_while_it_is_stopping_is_refused_and_does_not_wait_in_vain(
    start_gateway: StartGateway, peer: Peer
) -> None:
    peer.once("RCPT", STALL)
    gateway = start_gateway("--smarthost", peer.spec, "--shutdown-max", "8s")
    submit(gateway.port, SENDER, ["you@there.example"])
    peer.wait_for(lambda p: "RCPT" in p.verbs())
    gateway.process.send_signal(signal.SIGTERM)
    gateway.wait_until(lambda: not accepts("127.0.0.1", gateway.port), "the end of its port")
    assert gateway.worker_pids, "it waits for the next hop still"


# Starting.


def test_one_worker_with_a_spool_of_a_newer_program_ends_all_in_one_line(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gateway", *TWO)
    (gateway.spool / "worker-1").mkdir(parents=True)
    segment = gateway.spool / "worker-1" / name_of(1)
    segment.write_bytes(header_block(Header(VERSION + 1, 1, bytes(SECRET_BYTES))))
    try:
        assert gateway.launch().popen.wait(20) == 2
        [line] = gateway.log.splitlines()
        assert line.startswith(f"gwrelay: error: --spool {gateway.spool}: ")
        assert f"format version {VERSION + 1}" in line
        assert not gateway.worker_pids
    finally:
        gateway.kill()


def test_what_every_worker_would_fail_at_is_said_once(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gateway", *TWO, "--source", "192.0.2.1")
    try:
        assert gateway.launch().popen.wait(20) == 2
        assert len(gateway.log.splitlines()) == 1
    finally:
        gateway.kill()


def test_a_worker_that_is_started_again_has_the_settings_of_the_start(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    file = tmp_path / "gwrelay.toml"
    file.write_text('max-message-size = "3M"\n')
    gateway = start_gateway("--config", str(file))
    file.write_text("no TOML at all")
    [first] = gateway.worker_pids
    os.kill(first, signal.SIGKILL)
    with smtplib.SMTP("127.0.0.1", gateway.port, "client.example", timeout=20) as client:
        client.ehlo()
        assert client.esmtp_features["size"] == str(3 * 1024**2)
    assert gateway.worker_pid != first


# Fewer workers than before.


def test_mail_of_workers_that_there_are_no_more_is_delivered_once_and_their_directories_go(
    start_gateway: StartGateway, peer: Peer
) -> None:
    peer.always("RCPT", "450 4.2.0 later")
    options = ["--smarthost", peer.spec, "--retry", "1h"]
    gateway = start_gateway(*options, "--workers", "3")
    recipients = submitted(gateway, 30)
    gateway.wait_for("deferred", count=30)
    assert names_in(gateway.spool) == {"worker-0", "worker-1", "worker-2"}
    gateway.kill()
    # Those who look at the spool at rest, or at a gateway that has fewer workers, miss nothing.
    assert len(listed(at=gateway)) == 30
    gateway.start("--workers", "1")
    gateway.wait_until(lambda: len(listed(at=gateway)) == 30, "all of them loaded")
    told = said("status", at=gateway)
    assert [worker["worker"] for worker in told["workers"]] == [0, 1, 2]
    assert [bool(worker["listening"]) for worker in told["workers"]] == [True, False, False]
    # One of them is held: it has to be released before its directory can go.
    held = next(one["id"] for one in listed(at=gateway))
    gwrelay("queue", "hold", held, at=gateway)
    peer.always("RCPT", "250 2.1.5 now")
    gwrelay("queue", "retry", "--all", at=gateway)
    gateway.wait_for("delivered", count=29)
    gwrelay("queue", "release", held, at=gateway)
    gateway.wait_for("delivered", count=30)
    expected_once(recipients, peer.arrived())
    gateway.wait_until(lambda: names_in(gateway.spool) == {"worker-0"}, "only its own directory")
    gateway.wait_until(lambda: len(gateway.worker_pids) == 1, "only its own process")
    assert listed(at=gateway) == []
    assert gateway.terminate() == 0


def test_a_drained_worker_reports_what_it_gave_up_before_it_goes(
    start_gateway: StartGateway, peer: Peer
) -> None:
    peer.always("RCPT", "450 4.2.0 later")
    options = ["--smarthost", peer.spec, "--retry", "1h"]
    gateway = start_gateway(*options, "--workers", "2")
    recipients = submitted(gateway, 10)
    gateway.wait_for("deferred", count=10)
    gateway.kill()
    for recipient in recipients:
        peer.recipient(recipient, "550 5.1.1 nobody")
    peer.always("RCPT", "250 2.1.5 now")
    gateway.start("--workers", "1")
    gateway.wait_until(lambda: len(listed(at=gateway)) == 10, "all of them loaded")
    gwrelay("queue", "retry", "--all", at=gateway)
    gateway.wait_for("delivered", recipient=SENDER, count=10)
    gateway.wait_until(lambda: names_in(gateway.spool) == {"worker-0"}, "only its own directory")
    assert peer.arrived()[SENDER] == 10


# Giving up root.


class Somebody(NamedTuple):
    """An account, and a Python that it can run gwrelay with."""

    about: pwd.struct_passwd
    python: str
    environment: dict[str, str]


def need_another_user() -> Somebody:
    """Skips the test where there is none: where ours is in root's home, the system's may do."""
    need_root("become somebody else")
    nobody = pwd.getpwnam("nobody")
    here = [str(Path(gwrelay_package.__file__).parents[1]), sysconfig.get_path("purelib")]
    here.append(sysconfig.get_path("platlib"))
    apart = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(here))}
    for python, environment in ((sys.executable, {}), ("/usr/bin/python3", apart)):
        try:
            subprocess.run(
                [python, "-c", "import gwrelay.service"],
                user=nobody.pw_uid,
                env=os.environ | environment,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return Somebody(nobody, python, environment)
    pytest.skip("no Python with gwrelay is for everybody to read: install it elsewhere")


def free_low_port() -> int:
    for port in range(1023, 600, -1):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", port))
                return port
    pytest.fail("no port below 1024 is free")


def test_root_opens_a_low_port_and_becomes_the_user_for_good(
    peer: Peer, open_directory: Path
) -> None:
    nobody, python, environment = need_another_user()
    open_directory.chmod(0o777)
    port = free_low_port()
    gateway = Gateway(
        *(open_directory / "gateway", "--smarthost", peer.spec, "--user", "nobody", *TWO),
        python=python,
        environment=environment,
    )
    gateway.directory.chmod(0o777)
    try:
        gateway.start("--listen", f"127.0.0.1:{port}")
        submit(port, SENDER, ["you@there.example"])
        peer.wait_for_messages(1)
        for pid in (gateway.process.popen.pid, *gateway.worker_pids):
            about = Path(f"/proc/{pid}/status").read_text()
            assert f"Uid:\t{nobody.pw_uid}\t{nobody.pw_uid}\t{nobody.pw_uid}\t" in about
            assert f"Gid:\t{nobody.pw_gid}\t{nobody.pw_gid}\t{nobody.pw_gid}\t" in about
        for path in (gateway.spool, *gateway.spool.rglob("*"), gateway.events_path):
            assert path.stat().st_uid == nobody.pw_uid, path
        assert stat.S_IMODE(gateway.spool.stat().st_mode) == 0o700
        # What it made as root it can use as that user, and a worker can be started again.
        os.kill(gateway.worker_pids[0], signal.SIGKILL)
        gateway.wait_until(lambda: "started again" in gateway.log, "a new worker")
        gateway.wait_until(lambda: len(gateway.worker_pids) == 2, "a new worker")
        assert gateway.terminate() == 0
    finally:
        gateway.kill()


def test_a_key_that_is_roots_alone_is_read_before_root_is_given_up(open_directory: Path) -> None:
    _, python, environment = need_another_user()
    open_directory.chmod(0o777)
    closed = open_directory / "closed"
    closed.mkdir(mode=0o700)
    authority = make_authority(closed, "gw.example")
    gateway = Gateway(
        *(open_directory / "gateway", "--listen", "tls:127.0.0.1:0", "--user", "nobody", *TWO),
        *("--tls-cert", str(authority.certificate), "--tls-key", str(authority.key)),
        python=python,
        environment=environment,
    )
    gateway.directory.chmod(0o777)
    with gateway:
        port = int(re.findall(r"127\.0\.0\.1:(\d+)[,;]", gateway.log)[1])
        shown = certificate_at(port)
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_until(lambda: "cannot be read: Permission denied" in gateway.log)
        assert "clients are shown the certificate from before" in gateway.log
        os.kill(gateway.worker_pids[0], signal.SIGKILL)
        gateway.wait_until(lambda: "it is started again" in gateway.log)
        assert {certificate_at(port) for _ in range(6)} == {shown}


def refused(*flags: str, directory: Path, somebody: Somebody | None = None) -> str:
    """The one line a gateway that does not start ends with, with status 2."""
    python = somebody.python if somebody else sys.executable
    command = [python, "-m", "gwrelay", "serve", "--hostname", "gw.example", *flags]
    done = subprocess.run(
        [*command, "--listen", "127.0.0.1:0", "--spool", str(directory / "spool")],
        stderr=subprocess.PIPE,
        text=True,
        timeout=20,
        user=somebody.about.pw_uid if somebody else None,
        env=os.environ | (somebody.environment if somebody else {}),
        check=False,
    )
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    return line


def test_who_is_not_root_cannot_become_another_user(open_directory: Path) -> None:
    somebody = need_another_user()
    line = refused("--user", "daemon", directory=open_directory, somebody=somebody)
    assert line == (
        "gwrelay: error: --user daemon: only root can become another user; start it as root, or "
        "leave it out"
    )
    assert not (open_directory / "spool").exists()


def test_a_user_that_there_is_not_is_named(tmp_path: Path) -> None:
    line = refused("--user", "no-such-user", directory=tmp_path)
    assert line.startswith("gwrelay: error: --user no-such-user: there is no such user; ")


def test_a_spool_of_another_user_is_not_taken_over(open_directory: Path) -> None:
    need_root("become somebody else")
    (open_directory / "spool").mkdir()
    line = refused("--user", "nobody", directory=open_directory)
    assert line.endswith(f"--spool {open_directory}/spool: belongs to user 0, not to us")
