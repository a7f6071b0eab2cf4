"""An SMTP server that takes mail, says exactly what arrived, and can be told to misbehave.

As a library: `Sink(...)`, `listen(address, port)` as often as wanted, `arrivals`.  As a
program: `python -m gwrelay_bench.sink --listen 127.0.0.1:2526`, which prints a summary as
one JSON object when it is interrupted or terminated.

Uses gevent's own sockets, so it works the same in a patched process and in a plain one.
"""

import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from json import dumps

import click
import gevent
from gevent.event import Event
from gevent.server import StreamServer

from gwrelay_bench.behaviour import UNKNOWN_USER, Behaviour, Greylist
from gwrelay_bench.sinksession import Arrival, SinkSession

_RECV_BYTES = 256 * 1024


class Sink:
    """Any number of listening addresses with one set of rules and one list of arrivals."""

    def __init__(
        self,
        rules: Behaviour | None = None,
        *,
        digest: bool = True,
        keep_content: bool = False,
        clock: Callable[[], float] = time.time,
        on_arrival: Callable[[Arrival], None] | None = None,
    ) -> None:
        self.arrivals: list[Arrival] = []
        self.sessions = 0
        self._rules = rules or Behaviour()
        self._greylist = Greylist()
        self._digest = digest
        self._keep_content = keep_content
        self._clock = clock
        self._on_arrival = on_arrival
        self._servers: list[StreamServer] = []

    def listen(self, address: str = "127.0.0.1", port: int = 0) -> int:
        """Accept mail on `address` from now on; returns the port.  OSError when it is taken."""

        def talk(connection: socket.socket, _: object) -> None:
            self._talk(connection, address)

        server = StreamServer((address, port), talk, backlog=1024)
        server.start()
        self._servers.append(server)
        return int(server.server_port)

    def close(self) -> None:
        """Stop accepting and drop the open sessions."""
        for server in self._servers:
            server.stop(timeout=0)
        self._servers.clear()

    def _arrive(self, arrival: Arrival) -> None:
        self.arrivals.append(arrival)
        if self._on_arrival is not None:
            self._on_arrival(arrival)

    def _talk(self, connection: socket.socket, exchange: str) -> None:
        # Without it each reply waits for the client's delayed ACK, 40 ms; gevent leaves it off.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = SinkSession(
            exchange,
            self._arrive,
            self._clock,
            self._rules,
            self._greylist,
            digest=self._digest,
            keep_content=self._keep_content,
        )
        self.sessions += 1
        try:
            self._serve(connection, session)
        except ConnectionError:
            # A client that hangs up is one of the things a sink is there to see through.
            return

    def _serve(self, connection: socket.socket, session: SinkSession) -> None:
        replies = session.greeting
        while True:
            if session.delay_s:
                gevent.sleep(session.delay_s)
            if replies:
                connection.sendall(replies)
            if session.closes:
                return
            chunk = connection.recv(_RECV_BYTES)
            if not chunk:
                return
            replies = session.receive(chunk)


def summary(arrivals: list[Arrival], sessions: int) -> dict[str, object]:
    """Counts and the rate from the first arrival to the last."""
    span_s = arrivals[-1].at - arrivals[0].at if arrivals else 0.0
    mailboxes = Counter((a.reverse_path, a.digest, r) for a in arrivals for r in a.recipients)
    return {
        "messages": len(arrivals),
        "recipients": sum(mailboxes.values()),
        "distinct": len(mailboxes),
        "bytes": sum(arrival.size_bytes for arrival in arrivals),
        "sessions": sessions,
        "seconds": round(span_s, 3),
        "messages_per_s": round((len(arrivals) - 1) / span_s, 1) if span_s else None,
    }


def _pairs(values: tuple[str, ...]) -> dict[str, str]:
    """`("RCPT=0.1", "gone@d.example")` → `{"RCPT": "0.1", "gone@d.example": ""}`."""
    return {key: value for key, _, value in (text.partition("=") for text in values)}


def _seconds(values: tuple[str, ...]) -> dict[str, float]:
    try:
        return {key: float(value) for key, value in _pairs(values).items()}
    except ValueError:
        raise click.BadParameter("wanted KEY=SECONDS, as in RCPT=0.1") from None


@click.command()
@click.option("--listen", multiple=True, default=["127.0.0.1:2526"], metavar="ADDR:PORT")
@click.option("--refuse", multiple=True, metavar="WHO[=REPLY]", help="550 5.1.1, or REPLY.")
@click.option("--greylist", multiple=True, metavar="WHO=SECONDS", help="451 until then.")
@click.option("--delay", multiple=True, metavar="VERB=SECONDS", help="Also CONNECT and DOT.")
@click.option("--digest/--no-digest", default=True, help="SHA-256 of each content.")
@click.option("--records", type=click.File("w"), help="One JSON object a line for each arrival.")
def main(listen, refuse, greylist, delay, digest, records) -> None:  # type: ignore[no-untyped-def]
    """Take mail.  WHO is an address or a domain."""
    rules = Behaviour(
        {who.lower(): reply or UNKNOWN_USER for who, reply in _pairs(refuse).items()},
        {who.lower(): delay_s for who, delay_s in _seconds(greylist).items()},
        {verb.upper(): delay_s for verb, delay_s in _seconds(delay).items()},
    )
    sink = Sink(rules, digest=digest)
    for text in listen:
        address, _, port = text.rpartition(":")
        print(f"listening on {address}:{sink.listen(address, int(port))}", file=sys.stderr)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop.set)
    stop.wait()
    sink.close()
    if records is not None:
        records.writelines(dumps(_as_record(arrival)) + "\n" for arrival in sink.arrivals)
    print(dumps(summary(sink.arrivals, sink.sessions)))


def _as_record(arrival: Arrival) -> dict[str, object]:
    record = arrival._asdict()
    del record["content"]
    return record


if __name__ == "__main__":
    main()
