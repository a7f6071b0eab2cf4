"""A Postfix of our own on loopback, to measure beside: its files in one directory, nothing of the
machine's configuration read or written.  Needs root, as Postfix does.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import gevent

from gwrelay_bench.loopback import free_port
from gwrelay_bench.scenario import BenchFailed

_SYSTEM_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_START_S, _STOP_S, _POLL_S = 60.0, 30.0, 0.01

#: master.cf as Debian has it, but for chroots and for what delivers to mailboxes and programs.
SERVICES = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix   n - n 60 1 pickup
cleanup   unix   n - n - 0 cleanup
qmgr      unix   n - n 300 1 qmgr
tlsmgr    unix   - - n 1000? 1 tlsmgr
tlsproxy  unix   - - n - 0 tlsproxy
rewrite   unix   - - n - - trivial-rewrite
bounce    unix   - - n - 0 bounce
defer     unix   - - n - 0 bounce
trace     unix   - - n - 0 bounce
verify    unix   - - n - 1 verify
flush     unix   n - n 1000? 0 flush
proxymap  unix   - - n - - proxymap
smtp      unix   - - n - - smtp
relay     unix   - - n - - smtp
showq     unix   n - n - - showq
error     unix   - - n - - error
retry     unix   - - n - - error
discard   unix   - - n - - discard
anvil     unix   - - n - 1 anvil
scache    unix   - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""

#: What makes it private to us.  All else is as Postfix comes.
PRIVATE: Mapping[str, str] = {
    "compatibility_level": "3.6",
    "mail_owner": "postfix",
    "setgid_group": "postdrop",
    "command_directory": "/usr/sbin",
    "daemon_directory": "/usr/lib/postfix/sbin",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "myhostname": "postfix.example",
    "mydomain": "example",
    "mydestination": "",
    "mynetworks": "127.0.0.0/8",
    "alias_maps": "",
    "alias_database": "",
    "local_recipient_maps": "",
    "append_dot_mydomain": "no",
    # Content goes on as it came, as from clients that are not local.
    "local_header_rewrite_clients": "",
}


def smarthost(address: str, port: int) -> dict[str, str]:
    """The settings that send all mail there."""
    return {
        "relayhost": f"[{address}]:{port}",
        "smtp_dns_support_level": "disabled",
        "smtp_host_lookup": "native",
    }


class Postfix:
    """Its files are below `directory`, and stay for another start().

    With a `resolver` (an address whose port 53 answers) it asks there, and nobody else is asked.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str], resolver: str = "") -> None:
        """Raises BenchFailed where it cannot run."""
        self._program = _found("postfix")
        if os.geteuid() != 0:
            raise BenchFailed("Postfix starts as root and gives its daemons the user postfix")
        _open_to_others(directory)
        self.port = free_port()
        self._directory = directory
        self._resolver = resolver
        self._settings = {
            **PRIVATE,
            "maillog_file": str(directory / "postfix.log"),
            "maillog_file_prefixes": str(directory),
            "queue_directory": str(directory / "queue"),
            "data_directory": str(directory / "state"),
            **settings,
        }
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that started all others."""
        return self._running.pid if self._running else 0

    @property
    def _configuration(self) -> str:
        return str(self._directory / "configuration")

    def start(self) -> None:
        """Returns once it greets.  Raises BenchFailed."""
        for name in ("configuration", "queue", "state"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        shutil.chown(self._directory / "state", "postfix")
        lines = [f"{key} = {value}\n" for key, value in self._settings.items()]
        Path(self._configuration, "main.cf").write_text("".join(lines))
        Path(self._configuration, "master.cf").write_text(SERVICES.format(port=self.port))
        with Path(self._directory, "output").open("ab") as output:
            self._running = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while not greets("127.0.0.1", self.port):
            if self._running.poll() is not None or time.monotonic() > deadline:
                raise BenchFailed(f"Postfix did not start:\n{self._said()}")
            gevent.sleep(_POLL_S)

    def check(self) -> None:
        """Raises BenchFailed if it no longer runs."""
        if self._running is None or self._running.poll() is not None:
            raise BenchFailed(f"Postfix has ended:\n{self._said()}")

    def flush(self) -> None:
        """Have it try all that waits, at once."""
        words = [_found("postqueue"), "-c", self._configuration, "-f"]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)

    def stop(self) -> None:
        """Nothing to do when it does not run."""
        if self._running is None:
            return
        pid_file = self._directory / "queue/pid/master.pid"
        # The master leaves the process group of the script that started it, and takes its own
        # children with it; the script goes when it has gone.
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(pid_file.read_text()), signal.SIGTERM)
        try:
            self._running.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
            raise BenchFailed(f"Postfix still ran {_STOP_S:g} s after SIGTERM") from None
        finally:
            self._running = None

    def _command(self) -> list[str]:
        command = [self._program, "-c", self._configuration, "start-fg"]
        if not self._resolver:
            return command
        # Its resolver knows one file, and port 53: both are given to it in namespaces of its own.
        (self._directory / "resolv.conf").write_text(f"nameserver {self._resolver}\n")
        script = 'mount --bind "$0/resolv.conf" /etc/resolv.conf && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, str(self._directory), *command]

    def _said(self) -> str:
        logs = [self._directory / name for name in ("output", "postfix.log")]
        return "".join(log.read_text(errors="replace")[-1000:] for log in logs if log.exists())


def version() -> str:
    """As it calls itself, like 3.7.11."""
    words = [_found("postconf"), "-d", "-h", "mail_version"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def greets(address: str, port: int) -> bool:
    """Whether a mail server answers there."""
    try:
        with socket.create_connection((address, port), 1) as sock:
            return sock.recv(3) == b"220"
    except OSError:
        return False


def _found(name: str) -> str:
    path = shutil.which(name, path=_SYSTEM_PATH)
    if path is None:
        raise BenchFailed("Postfix is not installed: apt-get install postfix")
    return path


def _open_to_others(directory: Path) -> None:
    """Let other users pass through `directory`, which is ours.  Raises BenchFailed when one above
    it is closed."""
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    for above in directory.parents:
        if not above.stat().st_mode & 0o001:
            raise BenchFailed(
                f"{above} is closed to other users, and Postfix gives up being root; name another"
                " directory with --dir"
            )
