"""A full disk: new mail is put off, old mail goes on, and nothing is lost."""

import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.clients import submit
from support.gateway import StartGateway
from support.peer import Peer
from support.processes import need_root

CONTENT = b"Subject: weight\r\n\r\n" + (b"x" * 76 + b"\r\n") * 500


class SmallDisk:
    """A file system of its own, which can be filled and emptied again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ballast = path / "ballast"

    def fill(self) -> None:
        with self.ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError:
                return

    def empty(self) -> None:
        self.ballast.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    need_root("mount a small file system")
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64M", "tmpfs", str(path)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a small file system, not even root")
    yield SmallDisk(path)
    # Lazily: a gateway that a failed test left running must not keep it.
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_full_disk_defers_new_mail_and_lets_old_mail_go(
    start_gateway: StartGateway, peer: Peer, small_disk: SmallDisk
) -> None:
    peer.always("RCPT", "450 4.2.0 not yet")
    gateway = start_gateway(
        *("--smarthost", peer.spec, "--retry", "1s"), spool=small_disk.path / "spool"
    )
    before = [f"before{n}@there.example" for n in range(5)]
    for recipient in before:
        submit(gateway.port, "me@here.example", [recipient], CONTENT)
        gateway.wait_for("deferred", recipient=recipient)

    small_disk.fill()
    refused = _fill_up(gateway.port)
    assert refused.smtp_code == 452
    assert b"4.3.1" in refused.smtp_error

    peer.always("RCPT", "250 2.1.5 now")
    gateway.wait_until(lambda: set(before) <= peer.arrived().keys(), "the mail from before")

    small_disk.empty()
    submit(gateway.port, "me@here.example", ["after@there.example"], CONTENT)
    peer.wait_for(lambda p: p.arrived()["after@there.example"])


def _fill_up(port: int) -> smtplib.SMTPResponseException:
    """Send until the gateway refuses: what is left of its present file comes first."""
    for n in range(2000):
        try:
            submit(port, "", [f"filler{n}@elsewhere.example"], CONTENT)
        except smtplib.SMTPResponseException as error:
            return error
    raise AssertionError("a full disk was never noticed")


def test_nothing_acknowledged_is_lost_when_the_disk_fills_and_the_gateway_dies(
    start_gateway: StartGateway, peer: Peer, small_disk: SmallDisk
) -> None:
    peer.always("RCPT", "450 4.2.0 not yet")
    gateway = start_gateway(
        *("--smarthost", peer.spec, "--retry", "1s"), spool=small_disk.path / "spool"
    )
    submit(gateway.port, "me@here.example", ["one@there.example"], CONTENT)
    gateway.wait_for("deferred")
    small_disk.fill()
    _fill_up(gateway.port)
    gateway.kill()
    small_disk.empty()
    peer.always("RCPT", "250 2.1.5 now")
    gateway.start()
    submit(gateway.port, "me@here.example", ["two@there.example"], CONTENT)
    mine = ["one@there.example", "two@there.example"]
    peer.wait_for(lambda p: all(p.arrived()[recipient] for recipient in mine))
    assert [peer.arrived()[recipient] for recipient in mine] == [1, 1]
