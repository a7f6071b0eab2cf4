"""One relayer over one session with Debian's smtp-sink, beside stock smtplib and a bare loop.

    python -m gwrelay_bench.session [--messages 4000] [--rounds 3] [--delay 20]

Every contestant sends the same messages (4 KiB, one recipient) over one session of this patched
process, in turn, round after round; smtp-sink has the other core.  Then once more through a
proxy that adds `--delay` milliseconds to each round trip.

    sendmail   stock smtplib.SMTP.sendmail(), one message after the other
    bare       MAIL, RCPT and DATA in one write, the content in the next: no features at all
    relayer    gwrelay's: plan, session, transaction, outcomes, settlement in a MemoryStore

Prints a table, and one JSON object for each row.  The targets hold for the relayer.
"""

from gevent import monkey  # noqa: TID251  (a program of its own: it patches as __main__ does)

if __name__ == "__main__":
    monkey.patch_all()

import gc
import shutil
import smtplib
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click
import gevent
from gevent.queue import Queue as Pipe
from gevent.server import StreamServer
from rich.console import Console
from rich.table import Table

from gwrelay.message.envelope import Envelope, Recipient
from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.exchanges import Exchange
from gwrelay.mx.resolver import DNSResolver
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.relay.attempt import AttemptManager
from gwrelay.relay.hosts import SiteHosts
from gwrelay.relay.relayer import ESMTPManagedRelayerFactory, RelayerSettings
from gwrelay.relay.site import Site
from gwrelay_bench.child import port_of
from gwrelay_bench.measure import Result, emit

SENDER, RECIPIENT = "source@source.example", "user@dest.example"
HOST, OURS = "127.0.0.1", "gw.example"

LOOPBACK, DISTANT = "loopback", "through a slow proxy"
#: Times the rate of stock sendmail() that the relayer must reach.
TARGETS = {LOOPBACK: 2.0, DISTANT: 3.0}


class Lap:
    """What a contestant took for its messages: of the clock, and of this process's CPU."""

    def __init__(self, messages: int) -> None:
        self._messages = messages
        self.rate = self.cpu_us = 0.0

    def __enter__(self) -> "Lap":
        # As the service does at its start: what lives now is not looked at again.
        gc.collect()
        gc.freeze()
        self._began, self._cpu_began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.rate = self._messages / (time.perf_counter() - self._began)
        self.cpu_us = (time.process_time() - self._cpu_began) / self._messages * 1e6
        gc.unfreeze()


def content_of(size_bytes: int) -> bytes:
    line = b"x" * 70 + b"\r\n"
    head = b"Subject: a message\r\n\r\n"
    return (head + line * (size_bytes // len(line) + 1))[: size_bytes - 2] + b"\r\n"


def by_sendmail(port: int, content: bytes, messages: int) -> Lap:
    with smtplib.SMTP(HOST, port, local_hostname=OURS) as session, Lap(messages) as lap:
        for _ in range(messages):
            session.sendmail(SENDER, RECIPIENT, content)
    return lap


def by_bare_loop(port: int, content: bytes, messages: int) -> Lap:
    envelope = f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nDATA\r\n".encode()
    with smtplib.SMTP(HOST, port, local_hostname=OURS) as session, Lap(messages) as lap:
        session.ehlo()
        sock = session.sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(messages):
            sock.send(envelope)
            received = b""
            while received.count(b"\n") < 3:
                received += sock.recv(4096)
            sock.send(content + b".\r\n")
            if not sock.recv(4096).startswith(b"250"):
                raise RuntimeError("the sink refused a message")
    return lap


def by_relayer(port: int, content: bytes, messages: int) -> Lap:
    queue = Queue(MemoryStore(), hostname=OURS, resident_bytes=1 << 30)
    for _ in range(messages):
        queue.add_message(Envelope(SENDER, (Recipient(RECIPIENT),)), content)
    first, *others = queue.get_waiting(messages)
    hosts = SiteHosts(MXCalculator(DNSResolver([f"{HOST}:53"]), time.time), "")
    hosts.exchanges = (Exchange(0, "sink.example", (HOST,), port),)
    site = Site("sink", "sink.example", 1, hosts)
    site.ready.extend(others)
    site.relayers = 1
    settings = RelayerSettings(OURS, max_messages_per_connection=messages, idle_timeout_s=0.0)
    attempts = AttemptManager(
        queue,
        site,
        ended=lambda *_: None,
        no_connection=lambda *_: None,
        done=lambda _: None,
    )
    relayer = ESMTPManagedRelayerFactory(settings).build_relayer(attempts, hosts, queue)
    with Lap(messages) as lap:
        relayer.run(first)
    if queue.get_relayed() != messages:
        raise RuntimeError(f"{queue.get_relayed()} of {messages} were relayed")
    return lap


CONTESTANTS: dict[str, Callable[[int, bytes, int], Lap]] = {
    "sendmail": by_sendmail,
    "bare": by_bare_loop,
    "relayer": by_relayer,
}


@contextmanager
def smtp_sink() -> Iterator[int]:
    """Postfix's smtp-sink on a port of its own."""
    program = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        raise click.ClickException("smtp-sink is not installed: apt-get install postfix")
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port = int(sock.getsockname()[1])
    sink = subprocess.Popen([program, "-u", "nobody", f"{HOST}:{port}", "1024"])
    try:
        _await_listener(port)
        yield port
    finally:
        sink.kill()
        sink.wait()


def _run_proxy(port: int, one_way_s: float) -> None:
    def serve(client: socket.socket, _: object) -> None:
        server = socket.create_connection((HOST, port))
        pairs = ((client, server), (server, client))
        gevent.joinall([gevent.spawn(_pass_on, *pair, one_way_s) for pair in pairs])

    proxy = StreamServer((HOST, 0), serve)
    proxy.start()
    print(proxy.server_port, flush=True)
    proxy.serve_forever()


def _pass_on(source: socket.socket, drain: socket.socket, one_way_s: float) -> None:
    """Everything `source` says reaches `drain` `one_way_s` later, however much is on the way."""
    drain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    pipe: Pipe = Pipe()

    def deliver() -> None:
        for due_at, chunk in pipe:
            gevent.sleep(max(0.0, due_at - time.monotonic()))
            drain.sendall(chunk)

    delivery = gevent.spawn(deliver)
    while chunk := source.recv(65536):
        pipe.put((time.monotonic() + one_way_s, chunk))
    pipe.put(StopIteration)
    delivery.join()
    with suppress(OSError):  # the other end may have gone first
        drain.shutdown(socket.SHUT_WR)


def _await_listener(port: int) -> None:
    for _ in range(500):
        with socket.socket() as sock:
            if sock.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.01)
    raise click.ClickException("smtp-sink did not start")


def measure(path: str, port: int, content: bytes, messages: int, rounds: int) -> list[Result]:
    """One result for each contestant: medians over `rounds`, beside sendmail's."""
    laps: dict[str, list[Lap]] = {name: [] for name in CONTESTANTS}
    for _ in range(rounds):
        for name, contestant in CONTESTANTS.items():
            laps[name].append(contestant(port, content, messages))
    figures = {
        name: {
            "messages_per_s": round(statistics.median(lap.rate for lap in run), 1),
            "cpu_us_per_message": round(statistics.median(lap.cpu_us for lap in run)),
        }
        for name, run in laps.items()
    }
    baseline = figures["sendmail"]
    results = []
    for name, found in figures.items():
        settings = {"path": path, "contestant": name, "messages": messages, "rounds": rounds}
        ratio = found["messages_per_s"] / baseline["messages_per_s"]
        ok = name != "relayer" or ratio >= TARGETS[path]
        results.append(Result("session", settings, found, baseline, ratio, ok))
    return results


@click.command(help="Messages a second of one relayer over one session, beside stock smtplib.")
@click.option("--messages", type=click.IntRange(1), default=4000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--size", type=click.IntRange(100), default=4096, show_default=True, help="Bytes.")
@click.option("--delay", type=float, default=20.0, show_default=True, help="Round trip, in ms.")
@click.option("--proxy", type=int, default=0, hidden=True)
def main(messages: int, rounds: int, size: int, delay: float, proxy: int) -> None:
    if proxy:
        _run_proxy(proxy, delay / 2000)
        return
    content = content_of(size)
    with smtp_sink() as port:
        results = measure(LOOPBACK, port, content, messages, rounds)
        # Passes bytes on, each way after half of the round trip.
        proxy_arguments = ("--proxy", str(port), "--delay", str(delay))
        with port_of("gwrelay_bench.session", *proxy_arguments) as slow_port:
            results += measure(DISTANT, slow_port, content, max(1, messages // 40), rounds)
    table = Table("path", "contestant", "messages/s", "ratio", "CPU µs/message")
    for result in results:
        table.add_row(
            result.settings["path"],
            result.settings["contestant"],
            f"{result.figures['messages_per_s']:,.0f}",
            f"{result.ratio:.2f}",
            f"{result.figures['cpu_us_per_message']}",
        )
    Console(stderr=True).print(table)
    for result in results:
        emit(result)


if __name__ == "__main__":
    main()
