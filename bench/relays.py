"""What a load goes through: the gateway, a Postfix, or nothing at all, all used alike.

Starting one, what it uses, what it has counted, and its end; judges nothing.
"""

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gevent

from gwrelay.admin.control import ask, workers_at
from gwrelay_bench.gateway import Gateway, flags
from gwrelay_bench.machine import footprint, usage
from gwrelay_bench.postfix import Postfix, greets, smarthost
from gwrelay_bench.scenario import BenchFailed

_START_S, _POLL_S = 60.0, 0.005

Address = tuple[str, int]


class Onward(NamedTuple):
    """Where a relay sends mail: a smart host, or exchanges at `port` that name servers know."""

    address: str
    port: int
    #: Of the name server, whose port Postfix takes to be 53; "": there is a smart host.
    resolver: Address | None = None


class Used(NamedTuple):
    """Of all its processes."""

    cpu_s: float
    #: In RAM, the most that each of those has had which are there.
    peak_bytes: int
    processes: int


class Relay(ABC):
    """start() it, then load it; it can be stopped and started again."""

    name: str

    @abstractmethod
    def start(self, directory: Path, onward: Onward) -> Address:
        """Where it takes mail, once it greets.  Its files are below `directory`."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """Of the process that started all of its others; 0: there is none."""

    @abstractmethod
    def check(self) -> None:
        """Raises BenchFailed or GatewayDied when it has ended."""

    @abstractmethod
    def flush(self) -> None:
        """Have it try all that waits, at once."""

    @abstractmethod
    def stop(self) -> None:
        """In order, with nothing lost; nothing to do when it does not run."""

    @abstractmethod
    def kill(self) -> None:
        """However it may be."""

    def used(self) -> Used:
        if not self.pid:
            return Used(0.0, 0, 0)
        return Used(usage(self.pid).cpu_s, *footprint(self.pid))

    def counted(self) -> dict[str, Any]:
        """Figures that only it knows."""
        return {}


class Straight(Relay):
    """Nothing: the source speaks with the sink."""

    name = "straight into the sink"
    pid = 0

    def start(self, directory: Path, onward: Onward) -> Address:
        return onward.address, onward.port

    def check(self) -> None: ...

    def flush(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...


class GatewayRelay(Relay):
    """`settings` are flags of `gwrelay serve`; `words`, more of them, as somebody typed them."""

    name = "gateway"

    def __init__(self, settings: Mapping[str, str], words: Sequence[str]) -> None:
        self._words = [*flags(settings), *words]
        self.flags = " ".join(self._words)
        self._gateway: Gateway | None = None
        self._control = ""

    def start(self, directory: Path, onward: Onward) -> Address:
        words = ["--listen", "127.0.0.1:0", "--hostname", "gw.bench.example"]
        words += ["--min-free-space", "0", "--deny-host", "none"]
        if onward.resolver is None:
            words += ["--smarthost", f"{onward.address}:{onward.port}"]
        else:
            words += ["--resolver", "{}:{}".format(*onward.resolver)]
            words += ["--smtp-port", str(onward.port)]
        directory.mkdir(exist_ok=True)
        self._control = str(directory / "spool" / "admin.sock")
        self._gateway = Gateway(directory, [*words, *self._words])
        address = self._gateway.await_ready(_START_S)
        await_greeting(address)
        return address

    @property
    def pid(self) -> int:
        return self._gateway.pid if self._gateway else 0

    def check(self) -> None:
        if self._gateway is not None:
            self._gateway.check()

    def flush(self) -> None:
        paths = workers_at(self._control).values()
        gevent.joinall([gevent.spawn(self._flush, path) for path in paths], raise_error=True)

    def _flush(self, path: str) -> None:
        """One worker: the others have their own to do meanwhile."""
        # What it has not loaded yet would not hear of it.
        while not ask(path, "status").result["loaded"]:
            self.check()
            gevent.sleep(_POLL_S)
        ask(path, "queue retry", words=[], everything=True, dry_run=False)

    def stop(self) -> None:
        if self._gateway is not None:
            self._gateway.stop()
            self._gateway = None

    def kill(self) -> None:
        if self._gateway is not None:
            self._gateway.kill()
            self._gateway = None

    def counted(self) -> dict[str, Any]:
        return counted_at(self._control)


class PostfixRelay(Relay):
    def __init__(self, configuration: str, settings: Mapping[str, str]) -> None:
        self.name = f"Postfix, {configuration}"
        self.tuning = " ".join(f"{key}={value}" for key, value in settings.items())
        self._given = settings
        self._postfix: Postfix | None = None

    def start(self, directory: Path, onward: Onward) -> Address:
        if self._postfix is None:
            if onward.resolver is None:
                where, resolver = smarthost(onward.address, onward.port), ""
            else:
                where, resolver = {"smtp_tcp_port": str(onward.port)}, onward.resolver[0]
            self._postfix = Postfix(directory, {**where, **self._given}, resolver)
        self._postfix.start()
        return "127.0.0.1", self._postfix.port

    @property
    def pid(self) -> int:
        return self._postfix.pid if self._postfix else 0

    def check(self) -> None:
        if self._postfix is not None:
            self._postfix.check()

    def flush(self) -> None:
        if self._postfix is not None:
            self._postfix.flush()

    def stop(self) -> None:
        if self._postfix is not None:
            self._postfix.stop()

    def kill(self) -> None:
        """The next start() is one of a new Postfix."""
        self.stop()
        self._postfix = None


def counted_at(control: str) -> dict[str, Any]:
    """What all workers of the gateway with that control socket have counted: syncs, and how late
    their loops were when they looked, in milliseconds: what is measured falls into classes, and
    the upper end of one is told."""
    syncs, late, bounds = 0.0, Counter[int](), list[float]()
    for path in workers_at(control).values():
        for family in ask(path, "metrics").items:
            if family["name"] == "spool_syncs":
                syncs += sum(value for _, value in family["samples"])
            elif family["name"] == "loop_lag_seconds":
                bounds = family["bounds"]
                late.update(dict(enumerate(family["counts"])))
    return {"syncs": round(syncs), "loop_lag_ms": lag_ms(late, bounds)}


def await_greeting(address: Address) -> None:
    """Raises BenchFailed."""
    deadline = time.monotonic() + _START_S
    while not greets(*address):
        if time.monotonic() > deadline:
            raise BenchFailed("nobody greets at {}:{}".format(*address))
        gevent.sleep(_POLL_S)


def lag_ms(late: Mapping[int, int], bounds: Sequence[float]) -> dict[str, float]:
    """`late` has how many fell into each class, which `bounds` are the upper ends of; none is known
    of the last.  {} when nothing was seen."""
    fell = sorted(Counter(late).elements())
    if not fell:
        return {}
    middle, last = fell[len(fell) // 2], fell[-1]
    return {
        name: round(1000 * bounds[min(place, len(bounds) - 1)], 1)
        for name, place in (("p50", middle), ("max", last))
    }
