"""A real name server on loopback for benches: Unbound or Knot, whichever is installed.

It answers from records given to it and nothing else, and ends with the bench.
"""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

import dns.exception
import dns.message
import dns.query

_WHERE = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
_READY_S = 60.0

_UNBOUND = """server:
  directory: "{directory}"
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  interface: {host}@{port}
  do-ip6: no
  access-control: 127.0.0.0/8 allow
  module-config: "iterator"
  num-threads: 1
  local-zone: "{origin}" static
  include: "{directory}/records"
remote-control:
  control-enable: no
"""
_KNOT = """server:
  rundir: "{directory}"
  listen: {host}@{port}
  udp-workers: 1
  tcp-workers: 1
database:
  storage: "{directory}/database"
zone:
- domain: {origin}
  storage: "{directory}"
  file: zone
"""
_START = "{origin} 3600 IN SOA ns.{origin} admin.{origin} 1 1800 900 604800 300"
_SERVER = "{origin} 3600 IN NS ns.{origin}"


class NoNameServer(Exception):
    """None is installed, or the one there is did not start."""


class NameServer:
    """Serves `records`, lines of a zone file with owners in full, all below `origin` ("test.").

    with NameServer("test.", ["d.test. 300 IN MX 10 a.test."]) as server:
        ... ask server.address, as "127.0.0.1:5353" ...

    Raises NoNameServer on entering.
    """

    def __init__(
        self, origin: str, records: Iterable[str], host: str = "127.0.0.1", port: int = 0
    ) -> None:
        """`port` 0 is any that is free."""
        self._origin = origin
        self._records = records
        self.name = ""
        self.host = host
        self.port = port or _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = Path(tempfile.mkdtemp(prefix="gwrelay-names-"))

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _start(self) -> None:
        command = self._prepare()
        with (self._directory / "output").open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        deadline = time.monotonic() + _READY_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self._directory / "output").read_text(errors="replace")
                raise NoNameServer(f"{self.name} did not start:\n{said[-1000:]}")
            time.sleep(0.05)

    def _prepare(self) -> list[str]:
        """Its files; the command that starts it."""
        names = {
            "directory": self._directory,
            "host": self.host,
            "port": self.port,
            "origin": self._origin,
        }
        found = found_server()
        if found is None:
            raise NoNameServer("needs a name server: apt-get install knot, or unbound")
        self.name = Path(found).name
        configuration = self._directory / "configuration"
        start = _START.format(**names)
        if self.name == "knotd":
            (self._directory / "database").mkdir()
            configuration.write_text(_KNOT.format(**names))
            zone = (f"{record}\n" for record in (start, _SERVER.format(**names), *self._records))
            (self._directory / "zone").write_text("".join(zone))
            return [found, "-c", str(configuration)]
        configuration.write_text(_UNBOUND.format(**names))
        # With its SOA record, or it would say "no" without how long that is to be believed.
        data = (f"local-data: '{record}'\n" for record in (start, *self._records))
        (self._directory / "records").write_text("".join(data))
        return [found, "-d", "-c", str(configuration)]

    def _answers(self) -> bool:
        question = dns.message.make_query(f"ready.{self._origin}", "A")
        try:
            dns.query.udp(question, self.host, port=self.port, timeout=0.2)
        except (dns.exception.DNSException, OSError):
            return False
        return True

    def _end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


def found_server() -> str | None:
    """The program that would be used, if one is installed."""
    programs = (shutil.which(name, path=_WHERE) for name in ("unbound", "knotd"))
    return next(filter(None, programs), None)


def _free_port() -> int:
    """Free just now for UDP and for TCP."""
    for _ in range(100):
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as other,
        ):
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                other.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise NoNameServer("no port is free for a name server")
