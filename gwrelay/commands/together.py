"""What several workers tell, as one gateway tells it.  Pure.

Each function takes what queueadmin.py, queueverbs.py, explainadmin.py and mxadmin.py of each
worker say, at least one, and gives the same of all of them together.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gwrelay.queue.standing import HELD, RELAYING, WAITING

Record = dict[str, Any]

_COUNTS = ("deliveries", "recipients", WAITING, RELAYING, HELD)
#: Of `status`: what adds up, the limit of each worker's own among it.
_STATUS_SUMS = (
    *("connections", WAITING, RELAYING, HELD, "messages_done", "in_doubt", "violations", "stuck"),
    *("relayers", "concurrency"),
)
#: Of a verb.
_VERB_SUMS = ("deliveries", "messages", "recipients", "busy", "held", "in_doubt")
_SITE_SUMS = ("relayers", "window", "ready", "parked")


def status(each: Sequence[Record]) -> Record:
    """`workers` has what each said.  Most sites are every worker's: how many there are is at
    least what the one with most has."""
    return {
        **each[0],
        **_sums(each, _STATUS_SUMS),
        "started_at": min(one["started_at"] for one in each),
        "uptime_s": max(one["uptime_s"] for one in each),
        "listening": max((one["listening"] for one in each), key=len),
        "loaded": all(one["loaded"] for one in each),
        "next_due_at": _known(min, each, "next_due_at"),
        "sites": max(one["sites"] for one in each),
        "dead_sites": max(one["dead_sites"] for one in each),
        "workers": list(each),
    }


def tallies(each: Iterable[Record]) -> list[Record]:
    """One for each destination."""
    by_destination: dict[str, list[Record]] = {}
    for one in each:
        by_destination.setdefault(one["destination"], []).append(one)
    return [_tally(some) for some in by_destination.values()]


def _tally(each: Sequence[Record]) -> Record:
    return {
        **each[0],
        **_sums(each, _COUNTS),
        "oldest_at": min(one["oldest_at"] for one in each),
        "next_due_at": _known(min, each, "next_due_at"),
    }


def done(each: Sequence[Record]) -> Record:
    """What a verb has done: the last that each worker said."""
    absent = [name for name in each[0]["absent"] if all(name in one["absent"] for one in each)]
    return {**each[0], **_sums(each, _VERB_SUMS), "absent": absent}


def domain(each: Sequence[Record]) -> Record:
    """Of a destination.  The plan is of one that knows it: they ask the same name servers."""
    queues = [one["queue"] for one in each if one["queue"] is not None]
    sites = [one["site"] for one in each if one["site"] is not None]
    plans = [one["plan"] for one in each]
    return {
        **each[0],
        **_sums(each, ("relayers", "concurrency")),
        "queue": _tally(queues) if queues else None,
        "site": _site(sites) if sites else None,
        "plan": next((plan for plan in plans if plan["known"]), plans[0]),
    }


def _site(each: Sequence[Record]) -> Record:
    failures = [one["last_failure"] for one in each if one["last_failure"] is not None]
    return {
        **each[0],
        **_sums(each, _SITE_SUMS),
        "dead_until": _known(max, each, "dead_until"),
        "last_failure": failures[0] if failures else None,
    }


def entries(each: Iterable[Record]) -> list[Record]:
    """What is remembered, of each name the newest."""
    newest: dict[tuple[Any, ...], Record] = {}
    for one in each:
        key = one["name"], one["smarthost"], one["cname_limit"]
        if key not in newest or one["made_at"] > newest[key]["made_at"]:
            newest[key] = one
    return list(newest.values())


def marks(each: Iterable[Record]) -> list[Record]:
    """Bad-host marks, of each host the one that lasts longest."""
    longest: dict[tuple[Any, ...], Record] = {}
    for one in each:
        key = one["host"], one["port"], one["source"]
        if key not in longest or one["until"] > longest[key]["until"]:
            longest[key] = one
    return list(longest.values())


def suspended(each: Iterable[Record]) -> list[Record]:
    """What is suspended, of each the one that lasts longest; what is parked is each worker's."""
    by_name: dict[tuple[str, str], list[Record]] = {}
    for one in each:
        by_name.setdefault((one["kind"], one["name"]), []).append(one)
    return [
        max(some, key=lambda one: float(one["until"])) | _sums(some, ("parked",))
        for some in by_name.values()
    ]


def _sums(each: Sequence[Record], names: Iterable[str]) -> Record:
    return {name: sum(one[name] for one in each) for name in names}


def _known(choose: Callable[[list[Any]], Any], each: Iterable[Record], name: str) -> Any:
    """Of those that are known; None when none is."""
    found = [one[name] for one in each if one[name] is not None]
    return choose(found) if found else None
