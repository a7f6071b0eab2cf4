"""`gwrelay bench sessions`: thousands of outbound sessions at once, to sinks that are slow.

One process relays some messages for each session over a MemoryStore to 50 destinations; their
sinks answer each command after a second, or as --delay says.  How busy the sessions were is the
rate beside what the sinks alone allow, the ratio.  Memory is what came on top of the full queue,
with all sessions open.
"""

import gc
import time

import click
import gevent
import gevent.event

from gwrelay.message.envelope import Envelope, Recipient
from gwrelay.mx.calculator import MXCalculator
from gwrelay.mx.denied import Denied
from gwrelay.mx.exchanges import Rules
from gwrelay.mx.policy import MXPolicy
from gwrelay.mx.resolver import DNSResolver
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.memorystore import MemoryStore
from gwrelay.relay.limits import LimitPolicy, SiteLimits
from gwrelay.relay.manager import RelayStateHelper, SmartHostESMTPRelayingManager
from gwrelay.relay.relayer import ESMTPManagedRelayerFactory, RelayerSettings
from gwrelay.relay.security import Security
from gwrelay.relay.tlspolicy import ENCRYPT, OFF, Demand, TlsPolicy
from gwrelay_bench.certificate import make_certificate
from gwrelay_bench.child import port_of
from gwrelay_bench.machine import raise_file_limit
from gwrelay_bench.measure import Meter, Result, Target, resident_bytes
from gwrelay_bench.scenario import Bench, as_module, scenario
from gwrelay_bench.slowsink import HOSTS
from gwrelay_bench.zone import NameServer

CONTENT = b"Subject: a message\r\n\r\n" + (b"x" * 70 + b"\r\n") * 50
#: Replies that a message waits for, and those before the first one (banner, EHLO).
_REPLIES, _REPLIES_BEFORE = 4, 2
_KIB_A_SESSION = 40


@click.command("sessions")
@click.option("--sessions", type=click.IntRange(1), default=5000, show_default=True)
@click.option(
    "--messages", type=click.IntRange(1), default=3, show_default=True, help="For each session."
)
@click.option(
    "--delay", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True,
    help="Seconds until each reply.",
)  # fmt: skip
@click.option("--tls", is_flag=True, help="Every session under TLS.")
@scenario
def command(bench: Bench, sessions: int, messages: int, delay: float, tls: bool) -> None:
    """Thousands of sessions to slow sinks: memory of each, rate, stalls of the loop."""
    raise_file_limit()
    certificate = (make_certificate(bench.directory),) if tls else ()
    with port_of("gwrelay_bench.slowsink", str(delay), *certificate) as port:
        bench.tell(_measure(port, sessions, messages, delay, tls))


def _measure(port: int, sessions: int, messages: int, delay_s: float, tls: bool) -> Result:
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
        # Sites as slow as these may have half of it.
        max_connections=2 * sessions,
        limits=LimitPolicy(SiteLimits(-(-sessions // len(HOSTS)), -(-sessions // len(HOSTS)))),
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
    targets = [Target("sessions_at_once", at_least=sessions)]
    if not tls:
        targets.append(Target("kib_a_session", at_most=_KIB_A_SESSION))
    return Result(
        "sessions",
        {"sessions": sessions, "messages": messages, "delay_s": delay_s, "tls": tls},
        {
            "sessions_at_once": most_open,
            "kib_a_session": round(most_bytes / most_open / 1024, 1),
            "messages_per_s": round(sessions * messages / took_s, 1),
            "cpu_s": round(cpu_s, 2),
            "stall_ms": meter.stalls(),
        },
        {"messages_per_s": round(sessions * messages / ideal_s, 1)},
        ideal_s / took_s,
        targets=targets,
    )


if __name__ == "__main__":
    as_module(__spec__.name)
