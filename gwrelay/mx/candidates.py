"""Which addresses one attempt tries, and in which order (RFC 5321 5.1).

Pure.  The exchanges come from the cache and are the same for every attempt; the choice among
equals is made here, each time anew, since otherwise the first of them would get all the mail
for as long as the answer is remembered.
"""

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from gwrelay.mx.exchanges import Exchange


class Candidate(NamedTuple):
    """One address of one exchange; `port` and `preference` are the exchange's."""

    exchange: str
    address: str
    port: int = 0
    preference: int = 0


class Plan(NamedTuple):
    """`candidates` in the order to try them.

    `all_marked_until` is 0.0 as long as one of them bears no bad-host mark.  Otherwise there is
    a single candidate, the one whose mark ends first, and this is when it ends (seconds of the
    calculator's clock): one message may try it, the others had better wait.
    """

    candidates: tuple[Candidate, ...]
    all_marked_until: float


#: Until when a candidate is marked bad; 0.0 if it is not.
BadUntil = Callable[[Candidate], float]


def make_plan(
    exchanges: Sequence[Exchange],
    bad_until: BadUntil | None,
    limit: int,
    prefer: str,
    rng: random.Random,
) -> Plan:
    """At most `limit` addresses: by preference, unmarked before marked.

    `bad_until` None means that nothing is marked.  `prefer` is "4", "6" or "" for no preference
    between the families.
    """
    if len(exchanges) == 1 and len(exchanges[0].addresses) == 1:
        if bad_until is None:
            return _plan_of_one(exchanges[0])
        ordered = [_only_candidate(exchanges[0])]
    else:
        ordered = _ordered(exchanges, prefer, rng)
    if bad_until is None:
        return Plan(tuple(_balanced(ordered, limit)), 0.0)
    marked = sorted(((bad_until(c), n, c) for n, c in enumerate(ordered)), key=lambda m: m[:2])
    unmarked = [candidate for until, _, candidate in marked if until == 0.0]
    if not unmarked:
        until, _, first = marked[0]
        return Plan((first,), until)
    chosen = _balanced(unmarked, limit)
    chosen += [candidate for until, _, candidate in marked if until > 0.0][: limit - len(chosen)]
    return Plan(tuple(chosen), 0.0)


def _only_candidate(exchange: Exchange) -> Candidate:
    return Candidate(exchange.name, exchange.addresses[0], exchange.port, exchange.preference)


# Every message to a smart host, or to a domain with one small exchange, has this plan.
@lru_cache(maxsize=1024)
def _plan_of_one(exchange: Exchange) -> Plan:
    return Plan((_only_candidate(exchange),), 0.0)


def _ordered(exchanges: Sequence[Exchange], prefer: str, rng: random.Random) -> list[Candidate]:
    """Every address once, exchanges of one preference in random order and taking turns.

    Turns, because the second try after a failure is best made at another host, and because a
    host with many addresses is not due more mail than its equal with one.
    """
    by_place: dict[tuple[str, int], Candidate] = {}
    start = 0
    while start < len(exchanges):
        end = start + 1
        while end < len(exchanges) and exchanges[end].preference == exchanges[start].preference:
            end += 1
        queues = [_of_one(exchange, prefer, rng) for exchange in exchanges[start:end]]
        if len(queues) > 1:
            rng.shuffle(queues)
        for turn in range(max(map(len, queues))):
            for queue in queues:
                if turn < len(queue):
                    by_place.setdefault(queue[turn][1:3], queue[turn])
        start = end
    return list(by_place.values())


def _of_one(exchange: Exchange, prefer: str, rng: random.Random) -> list[Candidate]:
    """Its addresses in random order, families taking turns or the preferred one first."""
    addresses = list(exchange.addresses)
    if len(addresses) > 1:
        rng.shuffle(addresses)
        first = (addresses[0].find(":") >= 0) if not prefer else prefer == "6"
        ours = [a for a in addresses if (":" in a) == first]
        others = [a for a in addresses if (":" in a) != first]
        addresses = ours + others if prefer else _in_turn(ours, others)
    port, preference = exchange.port, exchange.preference
    return [Candidate(exchange.name, address, port, preference) for address in addresses]


def _in_turn(one: list[str], other: list[str]) -> list[str]:
    both = min(len(one), len(other))
    mixed = [address for pair in zip(one, other, strict=False) for address in pair]
    return mixed + one[both:] + other[both:]


def _balanced(ordered: list[Candidate], limit: int) -> list[Candidate]:
    """The first `limit`, but of each family at least half of them where there are so many.

    Five unreachable IPv6 addresses must not hide every IPv4 one.
    """
    if len(ordered) <= limit:
        return ordered
    first_is_six = ":" in ordered[0].address
    others = sum((":" in candidate.address) != first_is_six for candidate in ordered)
    others_kept = max(min(limit // 2, others), limit - (len(ordered) - others))
    room = {first_is_six: limit - others_kept, not first_is_six: others_kept}
    chosen = []
    for candidate in ordered:
        family = ":" in candidate.address
        if room[family] > 0:
            room[family] -= 1
            chosen.append(candidate)
    return chosen
