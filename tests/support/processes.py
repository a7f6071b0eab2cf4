"""Programs started for one test: found or skipped, awaited, read, and ended.

Nothing here sleeps for a guessed time: `await_true` asks again and again until the condition
holds or a limit is past.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

#: Which Debian package brings a program the flow tests run.
PACKAGES = {
    "postfix": "postfix",
    "smtp-sink": "postfix",
    "smtp-source": "postfix",
    "swaks": "swaks",
    "unbound": "unbound",
    "dnsmasq": "dnsmasq-base",
    "knotd": "knot",
    "dovecot": "dovecot-core",
    "sendmail": "postfix",
    "mailq": "postfix",
    "strace": "strace",
}
#: Where Debian keeps servers; not every user's PATH has these.
SYSTEM_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"))


def program(name: str) -> str:
    """Path of the program `name`; skips the test, saying how to install it, when there is none."""
    path = shutil.which(name, path=SYSTEM_PATH)
    if path is None:
        pytest.skip(
            f"{name} is not installed: apt-get install --no-install-recommends {PACKAGES[name]}"
        )
    return path


def need_root(why: str) -> None:
    if os.geteuid() != 0:
        pytest.skip(f"only root can do this: {why}")


def await_true(
    condition: Callable[[], T],
    what: str | Callable[[], str],
    timeout: float = 10.0,
    every: float = 0.01,
) -> T:
    """Ask `condition` until it says something true, and return that.

    AssertionError after `timeout` seconds, with `what` (or what it returns) in it.
    """
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > deadline:
            reason = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {timeout} s: {reason}")
        time.sleep(every)
    return answer


def free_port(*hosts: str, udp: bool = False) -> int:
    """A port that is free just now on all of `hosts` (default 127.0.0.1)."""
    hosts = hosts or ("127.0.0.1",)
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM) if udp else (socket.SOCK_STREAM,)
    for _ in range(100):
        with contextlib.ExitStack() as held:
            port = 0
            try:
                for host in hosts:
                    for kind in kinds:
                        sock = held.enter_context(socket.socket(socket.AF_INET, kind))
                        sock.bind((host, port))
                        port = sock.getsockname()[1]
            except OSError:
                continue  # taken on a later host: draw again
            return port
    raise AssertionError(f"no port is free on all of {hosts}")


def accepts(host: str, port: int) -> bool:
    """Whether something takes TCP connections there."""
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex((host, port)) == 0


def children(pid: int) -> list[int]:
    """The processes that it has started, and that have not ended."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def has_open(pid: int, path: Path) -> bool:
    """Whether the process has the file of that name open."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(link))
    return str(path) in links


class Program:
    """A running program: its output in a file, and an orderly end.

    `environment` is all of its environment; None: the same as ours.
    """

    def __init__(
        self,
        command: Sequence[str],
        output: Path,
        *,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.command, self.output_path = [*command], output
        with output.open("ab") as sink:
            self.popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self.output_path.read_text("utf-8", "replace")

    def await_ready(self, condition: Callable[[], T], timeout: float = 20.0) -> T:
        """Return what `condition` says once it is true; fails if the program ends first."""

        def ready() -> T:
            if self.popen.poll() is not None:
                raise AssertionError(
                    f"{self.command} ended with {self.popen.returncode}:\n{self.output[-4000:]}"
                )
            return condition()

        return await_true(ready, lambda: f"{self.command}:\n{self.output[-4000:]}", timeout)

    def send_signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 15.0) -> int:
        """Send a signal, wait for the end (killing what will not go), return the exit status."""
        if self.popen.poll() is None:
            self.send_signal(number)
            try:
                self.popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self._kill_group()
                self.popen.wait()
        self._kill_group()
        return self.popen.returncode

    def _kill_group(self) -> None:
        """End whatever of its children stayed in its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)


def run(command: Sequence[str], *, content: bytes = b"", timeout: float = 60.0) -> str:
    """Run a client program to its end; its output.  AssertionError unless it exits 0."""
    done = subprocess.run(
        command, input=content, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout
    )
    text = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{text}"
    return text
