"""Which hosts take mail for a domain, and in which order (RFC 5321 5.1, RFC 7505).

Pure rules.  Nothing here asks a name server or looks at a clock: `resolve` and `resolve_host`
are generators that yield each Question they need answered and are sent the Answer, or have
LookupFailed thrown in where there is none.  They return Resolved or raise ResolutionError.
Questions are bounded: by the CNAME limit, by the records kept, by the addresses kept.
"""

import random
from collections.abc import Callable, Generator, Iterator
from typing import Literal, NamedTuple

import msgspec

from gwrelay.mx.denied import DEFAULT_DENIED, Denied
from gwrelay.mx.failures import (
    CanonicalNameChainTooLong,
    CanonicalNameLoop,
    LookupFailed,
    Loop,
    NoAddress,
    NoSuchDomain,
    NullMX,
    ResolutionError,
)
from gwrelay.mx.names import FOREVER_S, literal_address, normal_domain, normal_host

__all__ = [
    "Answer",
    "CanonicalNameChainTooLong",
    "CanonicalNameLoop",
    "Considered",
    "Exchange",
    "LookupFailed",
    "Loop",
    "NoAddress",
    "NoSuchDomain",
    "NullMX",
    "Question",
    "Resolution",
    "ResolutionError",
    "Resolved",
    "Rules",
    "conclude",
    "literal_address",
    "normal_domain",
    "normal_host",
    "resolve",
    "resolve_host",
]


class Exchange(msgspec.Struct, frozen=True, gc=False):
    """One host that takes mail.  `addresses` are textual, v4 and v6.

    `port` 0 is the port that exchanges found by MX are reached on; only a smart host brings
    one of its own.  Tens of thousands are remembered, and can be part of no cycle: looking at
    them all would keep the collector, and the loop, busy for a tenth of a second.
    """

    preference: int
    name: str
    addresses: tuple[str, ...]
    port: int = 0


class Question(NamedTuple):
    name: str
    kind: Literal["MX", "A", "AAAA"]


class Answer(NamedTuple):
    """What one question got.

    `aliases` are the CNAME targets from the question's name on, in order.  `found` is about
    the last of them (or the name itself): "records"; "nodata", it exists but not with this
    type; "nxdomain", it does not exist; "alias", the server stopped there and must be asked
    again.  `mx` or `addresses` holds the records, by the question's kind.  `ttl_s` is the
    smallest TTL of what was used, or the negative TTL of the SOA (RFC 2308 5).
    """

    found: Literal["records", "nodata", "nxdomain", "alias"]
    ttl_s: float
    mx: tuple[tuple[int, str], ...] = ()
    addresses: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


class Resolved(NamedTuple):
    """`exchanges` by preference, random within one.  `ttl_s` is the smallest TTL among them.

    `partial` says that some lookup failed on the way: usable now, but not for long.
    """

    exchanges: tuple[Exchange, ...]
    ttl_s: float
    partial: bool = False


_LOOPBACK = {"A": "127.0.0.1", "AAAA": "::1"}


Fate = Literal["used", "denied", "own", "not better", "no address", "failed"]


class Considered(NamedTuple):
    """One address of an exchange and what becomes of it; `address` "" is the exchange itself.

    "used"; "denied" by the operator; "own", we listen there; "not better" than ourselves, so
    left out; "no address"; or "failed", its address could not be looked up.
    """

    preference: int
    name: str
    address: str
    fate: Fate


Resolution = Generator[Question, Answer, Resolved]


def _nobody(address: str) -> bool:
    return False


class Rules(NamedTuple):
    """What the operator decides about routing by MX."""

    cname_limit: int = 3
    #: Without MX the domain itself is the exchange (implicit MX); off, it has none.
    fallback_to_domain: bool = True
    families: tuple[Literal["A", "AAAA"], ...] = ("A", "AAAA")
    nxdomain_defers: bool = False
    denied: Denied = DEFAULT_DENIED
    #: Whether an address, at the port exchanges are reached on, is one we listen on.
    is_own: Callable[[str], bool] = _nobody
    #: MX records kept of one answer, the most preferred; Postfix keeps as many.
    max_records: int = 100
    #: Addresses kept of one exchange, and of all together: an attempt tries five.
    max_addresses_per_exchange: int = 20
    max_addresses: int = 100


def conclude(resolution: Resolution, ask: Callable[[Question], Answer | LookupFailed]) -> Resolved:
    """Have `ask` answer the questions of `resolution` one by one.  Raises ResolutionError."""
    try:
        question = next(resolution)
        while True:
            answer = ask(question)
            if isinstance(answer, LookupFailed):
                question = resolution.throw(answer)
            else:
                question = resolution.send(answer)
    except StopIteration as done:
        resolved: Resolved = done.value
        return resolved


def resolve(
    domain: str, rules: Rules, rng: random.Random, seen: list[Considered] | None = None
) -> Resolution:
    """The exchanges of `domain`, which must be normal_domain()'s.

    Implicit MX only if there certainly is no MX; MX records that lead nowhere are no reason
    for it (RFC 5321 5.1).  `seen` is for who wants to know why: it gets each address found.
    """
    if domain.startswith("["):
        return _usable(domain, [_literal(domain)], FOREVER_S, rules, seen)
    name, answer = yield from _follow(domain, "MX", rules.cname_limit)
    if answer.found == "nxdomain":
        raise NoSuchDomain(domain, answer.ttl_s, defers=rules.nxdomain_defers)
    hosts = _best_records(answer.mx, rules.max_records, rng)
    if len(hosts) == 1 and hosts[0][1] == "":
        raise NullMX(domain, answer.ttl_s)
    if answer.found == "nodata":
        if not rules.fallback_to_domain:
            raise NoAddress(domain, answer.ttl_s, "no MX record")
        hosts = [(0, name)]
    looked_up = yield from _look_up(hosts, rules)
    return _usable(domain, looked_up, answer.ttl_s, rules, seen)


def resolve_host(name: str, rules: Rules) -> Resolution:
    """The addresses of the smart host `name` (normal_host()'s): never MX, never denied.

    Whatever goes wrong defers: the host was chosen by the operator, so that a lookup that
    fails says nothing about the recipients.
    """
    if literal_address(name) is not None:
        return Resolved((Exchange(0, name, (name,)),), FOREVER_S)
    found = yield from _addresses(name, rules)
    if found.failure is not None and not found.addresses:
        raise found.failure
    if not found.addresses:
        raise NoAddress(name, found.ttl_s, "smart host has no address", defers=True)
    exchange = Exchange(0, name, found.addresses)
    return Resolved((exchange,), found.ttl_s, found.failure is not None)


def _best_records(
    records: tuple[tuple[int, str], ...], keep: int, rng: random.Random
) -> list[tuple[int, str]]:
    """The `keep` most preferred, each name once, in random order within one preference.

    "" stands for the root.  Beside other records it is no null MX (RFC 7505 3), just useless.
    """
    best: dict[str, int] = {}
    for preference, name in records:
        best[name] = min(preference, best.get(name, preference))
    if len(best) > 1:
        best.pop("", None)
    hosts = [(preference, name) for name, preference in best.items()]
    rng.shuffle(hosts)
    hosts.sort(key=lambda host: host[0])
    return hosts[:keep]


class _Found(NamedTuple):
    addresses: tuple[str, ...]
    ttl_s: float
    #: Why the addresses may not be all; None when they are.
    failure: ResolutionError | None


#: Preference and name of an exchange, and what was found of it.
_LookedUp = list[tuple[int, str, _Found]]


def _look_up(hosts: list[tuple[int, str]], rules: Rules) -> Generator[Question, Answer, _LookedUp]:
    """Look up `hosts` in their order until enough addresses are known."""
    looked_up: _LookedUp = []
    room = rules.max_addresses
    for preference, name in hosts:
        if room <= 0:
            break
        found = _Found((), FOREVER_S, None)
        if not rules.denied.name(name):
            found = yield from _addresses(name, rules)
        looked_up.append((preference, name, found._replace(addresses=found.addresses[:room])))
        room -= len(found.addresses)
    return looked_up


def _usable(
    domain: str,
    looked_up: _LookedUp,
    ttl_s: float,
    rules: Rules,
    seen: list[Considered] | None,
) -> Resolved:
    """Leave out what may not be connected to; say why if nothing is left (semantics 1.5)."""
    considered = [
        one
        for preference, name, found in looked_up
        for one in _considered(preference, name, found, rules)
    ]
    own = min((one.preference for one in considered if one.fate == "own"), default=None)
    if own is not None:
        considered = [_beside_ourselves(one, own) for one in considered]
        ttl_s = min(
            ttl_s, *(found.ttl_s for preference, _, found in looked_up if preference <= own)
        )
    else:
        ttl_s = min([ttl_s, *(found.ttl_s for _, _, found in looked_up)])
    if seen is not None:
        seen.extend(considered)
    kept = _exchanges(considered)
    failed = any(found.failure is not None for _, _, found in looked_up)
    if kept:
        return Resolved(kept, ttl_s, failed)
    if own is not None:
        raise _at_ourselves(domain, [h for h in looked_up if h[0] < own], ttl_s, failed)
    if failed:
        raise NoAddress(domain, None, "no address found, a lookup failed", defers=True)
    denied = any(one.fate == "denied" for one in considered)
    reason = "only addresses that mail is not sent to" if denied else "no exchange has an address"
    raise NoAddress(domain, ttl_s, reason)


def _considered(preference: int, name: str, found: _Found, rules: Rules) -> Iterator[Considered]:
    """A denied address is dropped before it is asked whether it is ours: 127.0.0.1 in somebody's
    zone is a mistake or an attack, no proof that we are an exchange of that domain."""
    if not found.addresses:
        denied = rules.denied.name(name)
        without: Fate = "denied" if denied else "failed" if found.failure else "no address"
        yield Considered(preference, name, "", without)
    for address in found.addresses:
        denied = rules.denied.address(address)
        fate: Fate = "denied" if denied else "own" if rules.is_own(address) else "used"
        yield Considered(preference, name, address, fate)


def _beside_ourselves(one: Considered, own: int) -> Considered:
    """The list is cut at our own preference, the equals and our other addresses included."""
    cut = one.fate == "used" and one.preference >= own
    return one._replace(fate="not better") if cut else one


def _exchanges(considered: list[Considered]) -> tuple[Exchange, ...]:
    """Those in use, in their order, each with its addresses."""
    used: dict[tuple[int, str], list[str]] = {}
    for one in considered:
        if one.fate == "used":
            used.setdefault(one[:2], []).append(one.address)
    return tuple(Exchange(*place, tuple(addresses)) for place, addresses in used.items())


def _at_ourselves(domain: str, better: _LookedUp, ttl_s: float, failed: bool) -> ResolutionError:
    """Nothing before us is usable: a loop, unless a better exchange only lacks its address."""
    if any(not found.addresses for _, _, found in better):
        text = "cannot find the exchanges before myself"
        return NoAddress(domain, None if failed else ttl_s, text, defers=True)
    return Loop(domain, ttl_s)


def _addresses(name: str, rules: Rules) -> Generator[Question, Answer, _Found]:
    """Addresses of one exchange, families in turn so that the cap hides neither.

    An MX that is a CNAME is against RFC 2181 10.3, but followed like everybody does.
    Localhost is not for the DNS to say (RFC 6761 6.3), and many servers do not know it.
    """
    if name == "localhost" or name.endswith(".localhost"):
        return _Found(tuple(_LOOPBACK[family] for family in rules.families), FOREVER_S, None)
    families: list[tuple[str, ...]] = []
    positive_s, negative_s = FOREVER_S, FOREVER_S
    failure: ResolutionError | None = None
    for family in rules.families:
        try:
            _, answer = yield from _follow(name, family, rules.cname_limit)
        except (LookupFailed, CanonicalNameLoop, CanonicalNameChainTooLong) as error:
            failure = error
            continue
        if answer.found == "records":
            positive_s = min(positive_s, answer.ttl_s)
            families.append(answer.addresses)
        else:
            negative_s = min(negative_s, answer.ttl_s)
        if answer.found == "nxdomain":
            break
    addresses = _in_turn(families)[: rules.max_addresses_per_exchange]
    # A short negative TTL matters only if nothing was found: that a host has no AAAA is
    # no reason to look it up every minute.
    return _Found(addresses, positive_s if addresses else negative_s, failure)


def _in_turn(families: list[tuple[str, ...]]) -> tuple[str, ...]:
    longest = max(map(len, families), default=0)
    mixed = [family[n] for n in range(longest) for family in families if n < len(family)]
    return tuple(dict.fromkeys(mixed))


def _follow(
    name: str, kind: Literal["MX", "A", "AAAA"], limit: int
) -> Generator[Question, Answer, tuple[str, Answer]]:
    """Ask for `name`, and again at the end of each unfinished CNAME chain, `limit` in all.

    Returns the canonical name and its answer, with the smallest TTL on the way.  CNAMEs that
    the name server followed itself count like those we follow.
    """
    seen = [name]
    ttl_s = FOREVER_S
    while True:
        answer = yield Question(seen[-1], kind)
        ttl_s = min(ttl_s, answer.ttl_s)
        for alias in answer.aliases:
            if alias in seen:
                raise CanonicalNameLoop(name, ttl_s)
            if len(seen) > limit:
                raise CanonicalNameChainTooLong(name, ttl_s, limit)
            seen.append(alias)
        if answer.found != "alias":
            return seen[-1], answer._replace(ttl_s=ttl_s)


def _literal(domain: str) -> tuple[int, str, _Found]:
    """`domain` is an address literal in lower case (RFC 5321 4.1.3)."""
    address = literal_address(domain)
    if address is None or (":" in address) != domain.startswith("[ipv6:"):
        raise NoSuchDomain(domain, FOREVER_S, "is not a valid address literal")
    return 0, domain, _Found((address,), FOREVER_S, None)
