"""`gwrelay bench session`: one relayer over one session with Debian's smtp-sink.

Every contestant sends the same messages (one recipient) over one session of this process, in
turn, round after round; smtp-sink has the other core.  Then once more through a proxy that adds
to each round trip.

    sendmail   stock smtplib.SMTP.sendmail(), one message after the other: the baseline
    bare       MAIL, RCPT and DATA in one write, the content in the next: no features at all
    relayer    gwrelay's: plan, session, transaction, outcomes, settlement in a MemoryStore
"""

import gc
import shutil
import smtplib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from gwrelay.message.envelope import Envelope, Recipient
from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.exchanges import Exchange
from gwrelay.mx.resolver import DNSResolver
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.relay.attempt import AttemptManager
from gwrelay.relay.hosts import SiteHosts
from gwrelay.relay.limits import SiteLimits
from gwrelay.relay.relayer import ESMTPManagedRelayerFactory, RelayerSettings
from gwrelay.relay.site import Site
from gwrelay.waiting import Gate, Patience
from gwrelay_bench.child import port_of
from gwrelay_bench.figures import medians
from gwrelay_bench.measure import Result, Target
from gwrelay_bench.scenario import Bench, BenchFailed, as_module, scenario

SENDER, RECIPIENT = "source@source.example", "user@dest.example"
HOST, OURS = "127.0.0.1", "gw.example"

LOOPBACK, DISTANT = "loopback", "through a slow proxy"
#: Times the rate of stock sendmail() that the relayer must reach.
TARGETS = {LOOPBACK: 2.0, DISTANT: 3.0}


class Lap:
    """What a contestant took for its messages: of the clock, and of this process's CPU."""

    def __init__(self, messages: int) -> None:
        self._messages = messages
        self.figures: dict[str, float] = {}

    def __enter__(self) -> "Lap":
        # As the service does at its start: what lives now is not looked at again.
        gc.collect()
        gc.freeze()
        self._began, self._cpu_began = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        took_s = time.perf_counter() - self._began
        cpu_s = time.process_time() - self._cpu_began
        self.figures = {
            "per_s": self._messages / took_s,
            "cpu_us_per_message": cpu_s / self._messages * 1e6,
        }
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
                raise BenchFailed("the sink refused a message")
    return lap


def by_relayer(port: int, content: bytes, messages: int) -> Lap:
    queue = Queue(MemoryStore(), hostname=OURS, resident_bytes=1 << 30)
    for _ in range(messages):
        queue.add_message(Envelope(SENDER, (Recipient(RECIPIENT),)), content)
    first, *others = queue.get_waiting(messages)
    hosts = SiteHosts(MXCalculator(DNSResolver([f"{HOST}:53"]), time.time), "")
    hosts.exchanges = (Exchange(0, "sink.example", (HOST,), port),)
    site = Site("sink", "sink.example", hosts, SiteLimits(1, 1))
    site.ready.extend(others)
    site.relayers = 1
    settings = RelayerSettings(
        OURS,
        max_messages_per_connection=messages,
        idle_timeout_s=0.0,
        patience=Patience,
        event=Gate,
    )
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
        raise BenchFailed(f"{queue.get_relayed()} of {messages} were relayed")
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
        raise BenchFailed("smtp-sink is not installed: apt-get install postfix")
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


def _await_listener(port: int) -> None:
    for _ in range(500):
        with socket.socket() as sock:
            if sock.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.01)
    raise BenchFailed("smtp-sink did not start")


@click.command("session")
@click.option("--messages", type=click.IntRange(1), default=4000, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--size", type=click.IntRange(100), default=4096, show_default=True, help="Bytes.")
@click.option(
    "--delay", type=click.FloatRange(min=0), default=20.0, show_default=True,
    help="That the proxy adds to a round trip, in milliseconds.",
)  # fmt: skip
@scenario
def command(bench: Bench, messages: int, rounds: int, size: int, delay: float) -> None:
    """One relayer over one session, against stock smtplib, near and far."""
    content = content_of(size)
    near, far = messages, max(1, messages // 40)
    with bench.steps("session", 2 * rounds * len(CONTESTANTS)) as advance, smtp_sink() as port:
        proxy = port_of("gwrelay_bench.slowproxy", str(port), str(delay))
        for result in _measure(LOOPBACK, port, content, near, rounds, advance):
            bench.tell(result)
        with proxy as slow_port:
            for result in _measure(DISTANT, slow_port, content, far, rounds, advance):
                bench.tell(result)


def _measure(
    path: str,
    port: int,
    content: bytes,
    messages: int,
    rounds: int,
    advance: Callable[[int], None],
) -> Iterator[Result]:
    """One result for each contestant: medians over `rounds`, beside sendmail's."""
    laps: dict[str, list[Lap]] = {name: [] for name in CONTESTANTS}
    for _ in range(rounds):
        for name, contestant in CONTESTANTS.items():
            laps[name].append(contestant(port, content, messages))
            advance(1)
    figures = {name: medians([lap.figures for lap in run]) for name, run in laps.items()}
    baseline = figures["sendmail"]
    for name, found in figures.items():
        settings = {
            "path": path,
            "contestant": name,
            "messages": messages,
            "message_bytes": len(content),
            "rounds": rounds,
        }
        ratio = found["per_s"] / baseline["per_s"]
        targets = [Target("ratio", at_least=TARGETS[path])] if name == "relayer" else ()
        yield Result("session", settings, found, baseline, ratio, targets=targets)


if __name__ == "__main__":
    as_module(__spec__.name)
