"""What processes of `gwrelay bench sink` are told to do: a value that JSON has, too."""

from collections.abc import Mapping
from typing import NamedTuple

from gwrelay_bench.behaviour import Behaviour, Fault


class Order(NamedTuple):
    """What it is to do; see Behaviour."""

    addresses: tuple[str, ...]
    port: int
    #: A file with the key in it, too; "": no TLS.
    certificate: str = ""
    encrypts_at_once: bool = False
    delays: Mapping[str, float] = {}
    #: Verb, domain and seconds of each.
    domain_delays: tuple[tuple[str, str, float], ...] = ()
    faults: tuple[Fault, ...] = ()
    #: By domain, seconds.
    greylist: Mapping[str, float] = {}
    pipelining: bool = True
    #: Where each message is written down, a line of JSON; "": nowhere.
    records: str = ""

    @property
    def behaviour(self) -> Behaviour:
        return Behaviour(
            greylist=self.greylist,
            delays=self.delays,
            pipelining=self.pipelining,
            domain_delays={(verb, domain): s for verb, domain, s in self.domain_delays},
            faults=tuple(Fault(*one) for one in self.faults),
        )
