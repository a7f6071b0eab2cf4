"""Thousands of outbound sessions at once, to sinks that answer each command after a second.

    python -m gwrelay_bench.sessions [--sessions 5000] [--messages 3] [--delay 1]

One process, patched like `serve`, relays `--messages` for each session over a MemoryStore to 50
destinations; their sinks are a process of their own and offer no PIPELINING, so that a message
takes four replies.
How busy the sessions were is the rate beside what the sinks alone allow.  Memory is what came
on top of the full queue, with all sessions open.  --tls puts every session under TLS.
"""

from gevent import monkey  # noqa: TID251  (a program of its own: it patches as __main__ does)

if __name__ == "__main__":
    monkey.patch_all()

import gc
import resource
import socket
import ssl
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import click
import gevent
import gevent.event
from gevent.server import StreamServer
from rich.console import Console
from rich.table import Table

from gwrelay.message.envelope import Envelope, Recipient
from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.denied import Denied
from gwrelay.mx.exchanges import Rules
from gwrelay.mx.policy import MXPolicy
from gwrelay.mx.resolver import DNSResolver
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.relay.manager import RelayStateHelper, SmartHostESMTPRelayingManager
from gwrelay.relay.relayer import ESMTPManagedRelayerFactory, RelayerSettings
from gwrelay.relay.security import Security
from gwrelay.relay.tlspolicy import ENCRYPT, OFF, Demand, TlsPolicy
from gwrelay_bench.child import port_of
from gwrelay_bench.measure import Meter, Result, emit, resident_bytes
from gwrelay_bench.zone import NameServer

#: Each with its own listening socket: the kernel bounds how many connections one of them may
#: have waiting.
HOSTS = tuple(f"127.1.0.{n}" for n in range(1, 51))
CONTENT = b"Subject: a message\r\n\r\n" + (b"x" * 70 + b"\r\n") * 50
#: Replies that a message waits for, and those before the first one (banner, EHLO).
_REPLIES, _REPLIES_BEFORE = 4, 2
_KIB_A_SESSION = 40


def run_sink(delay_s: float, certificate: str) -> None:
    """A server that answers every command with yes, `delay_s` later; prints its port."""
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

    def serve(sock: socket.socket, _: object) -> None:
        with suppress(OSError):
            _converse(sock, delay_s, context)
        sock.close()

    _raise_file_limit()
    port = 0
    for host in HOSTS:
        server = StreamServer((host, port), serve, backlog=4096)
        server.start()
        port = server.server_port
    print(port, flush=True)
    gevent.event.Event().wait()


def _converse(sock: socket.socket, delay_s: float, context: ssl.SSLContext | None) -> None:
    gevent.sleep(delay_s)
    sock.sendall(b"220 sink.example ESMTP\r\n")
    received = b""
    while chunk := sock.recv(16384):
        received += chunk
        while b"\r\n" in received:
            line, _, received = received.partition(b"\r\n")
            verb = line[:4].upper()
            gevent.sleep(delay_s)
            if verb == b"EHLO":
                offer = (
                    b"250-STARTTLS\r\n" if context and not isinstance(sock, ssl.SSLSocket) else b""
                )
                sock.sendall(b"250-sink.example\r\n" + offer + b"250 8BITMIME\r\n")
            elif verb == b"STAR" and context is not None:
                sock.sendall(b"220 go on\r\n")
                sock = context.wrap_socket(sock, server_side=True)
            elif verb == b"DATA":
                sock.sendall(b"354 go on\r\n")
                while not received.endswith(b"\r\n.\r\n"):
                    chunk = sock.recv(16384)
                    if not chunk:
                        return
                    received += chunk
                received = b""
                gevent.sleep(delay_s)
                sock.sendall(b"250 ok\r\n")
            elif verb == b"QUIT":
                return
            else:
                sock.sendall(b"250 ok\r\n")


def measure(port: int, sessions: int, messages: int, delay_s: float, tls: bool) -> Result:
    queue = Queue(MemoryStore(), hostname="gw.example", resident_bytes=1 << 40)
    for n in range(sessions * messages):
        recipient = Recipient(f"u{n}@d{n % len(HOSTS)}.example")
        queue.add_message(Envelope("source@source.example", (recipient,)), CONTENT)
    settings = RelayerSettings(
        "gw.example", max_messages_per_connection=messages, smtp_port=port, idle_timeout_s=0.0
    )
    names = NameServer({f"d{n}.example": {"A": [host]} for n, host in enumerate(HOSTS)})
    resolver = DNSResolver([f"127.0.0.1:{names.port}"])
    policy = MXPolicy(rules=Rules(denied=Denied(())))
    security = Security(TlsPolicy(Demand(ENCRYPT if tls else OFF)))
    calculator = MXCalculator(resolver, time.time, policy=policy)
    for n in range(len(HOSTS)):
        calculator.get_exchanges(f"d{n}.example")
    manager = SmartHostESMTPRelayingManager(
        queue,
        calculator=calculator,
        factory=ESMTPManagedRelayerFactory(settings, security=security),
        max_connections=sessions,
        max_site_connections=-(-sessions // len(HOSTS)),
    )
    stop = gevent.event.Event()
    gc.collect()
    gc.freeze()
    before_bytes, cpu, began = resident_bytes(), time.process_time(), time.monotonic()
    most_bytes = most_open = 0
    with Meter() as meter:
        helper = gevent.spawn(RelayStateHelper(manager).run, stop)
        while queue.get_relayed() < sessions * messages:
            gevent.sleep(0.1)
            if len(manager.managed) >= most_open:
                most_open = len(manager.managed)
                most_bytes = max(most_bytes, resident_bytes() - before_bytes)
        took_s = time.monotonic() - began
    cpu_s = time.process_time() - cpu
    stop.set()
    manager.wake()
    helper.join()
    names.close()
    ideal_s = (_REPLIES_BEFORE + 2 * tls + messages * _REPLIES) * delay_s
    kib = most_bytes / most_open / 1024
    return Result(
        "sessions",
        {"sessions": sessions, "messages": messages, "delay_s": delay_s, "tls": tls},
        {
            "sessions_at_once": most_open,
            "kib_a_session": round(kib, 1),
            "messages_per_s": round(sessions * messages / took_s, 1),
            "cpu_s": round(cpu_s, 2),
            "stall_ms": meter.stalls(),
        },
        {"messages_per_s": round(sessions * messages / ideal_s, 1)},
        ideal_s / took_s,
        most_open == sessions and (tls or kib <= _KIB_A_SESSION),
    )


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _certificate(directory: str) -> str:
    path = str(Path(directory) / "sink.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=sink.example", "-keyout", path, "-out", path]
    subprocess.run([*command, "-addext", "subjectAltName=DNS:sink.example"], check=True,
                   capture_output=True)  # fmt: skip
    return path


@click.command(help="Memory, rate and loop stalls of thousands of slow outbound sessions.")
@click.option("--sessions", type=click.IntRange(1), default=5000, show_default=True)
@click.option("--messages", type=click.IntRange(1), default=3, show_default=True)
@click.option("--delay", type=float, default=1.0, show_default=True, help="Of a reply, seconds.")
@click.option("--tls", is_flag=True, help="Under TLS.")
@click.option("--sink", "is_sink", is_flag=True, hidden=True)
@click.option("--certificate", default="", hidden=True)
def main(
    sessions: int, messages: int, delay: float, tls: bool, is_sink: bool, certificate: str
) -> None:
    if is_sink:
        run_sink(delay, certificate)
        return
    _raise_file_limit()
    with tempfile.TemporaryDirectory() as directory:
        certificate = _certificate(directory) if tls else ""
        sink = ("--sink", "--delay", str(delay), "--certificate", certificate)
        with port_of("gwrelay_bench.sessions", *sink) as port:
            result = measure(port, sessions, messages, delay, tls)
    figures = result.figures
    table = Table("sessions", "KiB/session", "messages/s", "busy", "CPU s", "stall p99/max ms")
    table.add_row(
        f"{figures['sessions_at_once']}",
        f"{figures['kib_a_session']}",
        f"{figures['messages_per_s']:,.0f}",
        f"{result.ratio:.0%}",
        f"{figures['cpu_s']}",
        f"{figures['stall_ms']['p99']} / {figures['stall_ms']['max']}",
    )
    Console(stderr=True).print(table)
    emit(result)


if __name__ == "__main__":
    main()
