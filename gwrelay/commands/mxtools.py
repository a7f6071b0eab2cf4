"""`gwrelay mx ...`: where mail for a domain goes, and which hosts a gateway leaves alone.

`lookup` asks name servers itself; the others ask a running gateway's workers (fleet.py), whose
answers are mxadmin.py's.  Each command prints and returns its exit status.
"""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from gwrelay.commands import fleet, together
from gwrelay.commands.printing import at, plain, print_told
from gwrelay.config import TABLE, Settings, admin_path
from gwrelay.errors import CommandFailed, ConfigError, NotRunning
from gwrelay.mx.candidates import Candidate, make_plan
from gwrelay.mx.exchanges import (
    Answer,
    Considered,
    Exchange,
    LookupFailed,
    Question,
    ResolutionError,
    Resolved,
    conclude,
    normal_domain,
    resolve,
)
from gwrelay.mx.policy import MXPolicy
from gwrelay.mx.resolver import DNSResolver
from gwrelay.mxsetup import build_policy, build_resolver

#: Why an address is not tried, as people read it.
_FATES = {
    "denied": "denied by --deny-host",
    "own": "our own address: we listen there",
    "not better": "no better than ourselves",
    "no address": "has no address",
    "failed": "could not be looked up",
}


# Where mail goes.


class _Asked(NamedTuple):
    question: Question
    answer: Answer | LookupFailed
    took_s: float


def lookup(domain: str, settings: Settings, *, asks_gateway: bool, as_json: bool) -> int:
    """Print the plan for `domain`, with the reason for each host's place.  1 if there is none."""
    policy = build_policy(settings, settings.endpoints)
    asked: list[_Asked] = []
    seen: list[Considered] = []
    found: Resolved | ResolutionError
    try:
        name = normal_domain(domain)
        resolution = resolve(name, policy.rules, random.Random(), seen)
        resolver = build_resolver(settings)
        found = conclude(resolution, lambda question: _ask(resolver, question, asked))
    except ResolutionError as error:
        found = error
    path = admin_path(settings.admin, settings.spool) if asks_gateway else ""
    marks = _marks(path) if path else None
    told = _told(domain, found, asked, seen, policy, marks)
    told["port"] = settings.smtp_port
    told["smarthosts"] = [str(hop) for hop in settings.smarthost]
    print_told(told, _plan_lines(told), as_json=as_json)
    return 0 if told["reply"] is None else 1


def _ask(resolver: DNSResolver, question: Question, asked: list[_Asked]) -> Answer | LookupFailed:
    started = time.monotonic()
    answer: Answer | LookupFailed
    try:
        answer = resolver.ask(question)
    except LookupFailed as failure:
        answer = failure
    asked.append(_Asked(question, answer, time.monotonic() - started))
    return answer


def _marks(path: str) -> list[dict[str, Any]] | None:
    """The running gateway's; None when there is none."""
    with suppress(NotRunning):
        return _bad(path)
    return None


def _told(
    domain: str,
    found: Resolved | ResolutionError,
    asked: Sequence[_Asked],
    seen: Sequence[Considered],
    policy: MXPolicy,
    marks: Sequence[Mapping[str, Any]] | None,
) -> dict[str, Any]:
    exchanges = found.exchanges if isinstance(found, Resolved) else ()
    return {
        "domain": domain,
        "reply": None if isinstance(found, Resolved) else str(found.reply),
        "ttl_s": _finite(found.ttl_s),
        "remembered_s": _remembered_s(found, policy),
        "gateway": marks is not None,
        "hosts": [*_in_order(exchanges, policy, marks or ()), *_left_out(seen)],
        "questions": [_question(one) for one in asked],
    }


def _remembered_s(found: Resolved | ResolutionError, policy: MXPolicy) -> float:
    if found.ttl_s is None:
        return policy.failure_ttl_s
    ttl_s = max(found.ttl_s, policy.ttl_min_s)
    if isinstance(found, ResolutionError):
        return min(ttl_s, policy.negative_ttl_max_s)
    return min(ttl_s, policy.ttl_min_s if found.partial else policy.ttl_max_s)


def _in_order(
    exchanges: Sequence[Exchange], policy: MXPolicy, marks: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """The addresses that one attempt tries, then those it has no room for."""

    def bad_until(candidate: Candidate) -> float:
        return max(
            (
                float(mark["until"])
                for mark in marks
                if mark["host"] in (candidate.exchange, candidate.address) and not mark["port"]
            ),
            default=0.0,
        )

    if not exchanges:
        return
    rng = random.Random()
    plan = make_plan(exchanges, bad_until, policy.max_hosts, policy.prefer_family, rng)
    everything = sum(len(exchange.addresses) for exchange in exchanges)
    rest = make_plan(exchanges, None, everything, policy.prefer_family, rng).candidates
    equals = [exchange.preference for exchange in exchanges]
    for place, candidate in enumerate(plan.candidates, 1):
        until = bad_until(candidate)
        why = _why(candidate, until, equals.count(candidate.preference), policy)
        yield _host(candidate, place, why, until)
    for candidate in rest:
        if candidate not in plan.candidates:
            until = bad_until(candidate)
            reason = "marked bad" if until else f"more than --mx-max-hosts {policy.max_hosts}"
            yield _host(candidate, None, reason, until)


def _why(candidate: Candidate, until: float, equals: int, policy: MXPolicy) -> str:
    reasons = [f"preference {candidate.preference}"]
    if equals > 1:
        reasons.append(f"one of {equals} equals in random order")
    if policy.prefer_family:
        reasons.append(f"IPv{policy.prefer_family} first")
    if until:
        reasons.append("marked bad, hence last")
    return ", ".join(reasons)


def _host(candidate: Candidate, place: int | None, why: str, until: float) -> dict[str, Any]:
    return {
        "place": place,
        "preference": candidate.preference,
        "exchange": candidate.exchange,
        "address": candidate.address,
        "why": why,
        "bad_until": until or None,
    }


def _left_out(seen: Sequence[Considered]) -> Iterator[dict[str, Any]]:
    for one in seen:
        if one.fate != "used":
            candidate = Candidate(one.name, one.address, preference=one.preference)
            yield _host(candidate, None, _FATES[one.fate], 0.0)


def _question(asked: _Asked) -> dict[str, Any]:
    answer = asked.answer
    told: dict[str, Any] = {"name": asked.question.name, "kind": asked.question.kind}
    told["took_ms"] = round(asked.took_s * 1000, 1)
    if isinstance(answer, LookupFailed):
        return {**told, "found": "failed", "ttl_s": None, "aliases": [], "records": []}
    records = [f"{preference} {name or '.'}" for preference, name in answer.mx]
    return {
        **told,
        "found": answer.found,
        "ttl_s": _finite(answer.ttl_s),
        "aliases": list(answer.aliases),
        "records": records or list(answer.addresses),
    }


def _plan_lines(told: Mapping[str, Any]) -> Iterator[str]:
    if told["reply"] is not None:
        yield f"{told['domain']}: {told['reply']}"
    else:
        tried = sum(host["place"] is not None for host in told["hosts"])
        yield f"{told['domain']}: an attempt tries {tried} addresses, at port {told['port']}"
    for host in told["hosts"]:
        place = "-" if host["place"] is None else host["place"]
        until = f", until {at(host['bad_until'])}" if host["bad_until"] else ""
        where = f"{host['exchange']}[{host['address']}]" if host["address"] else host["exchange"]
        yield f"{place:>4}  {host['preference']:>5}  {where}  {host['why']}{until}"
    for one in told["questions"]:
        ttl = "" if one["ttl_s"] is None else f", TTL {one['ttl_s']:g} s"
        aliases = "".join(f" -> {alias}" for alias in one["aliases"])
        records = f" ({len(one['records'])})" if one["records"] else ""
        yield (
            f"asked {one['kind']} {one['name']}{aliases}: {one['found']}{records}{ttl}, "
            f"{one['took_ms']:g} ms"
        )
    yield f"remembered for {told['remembered_s']:g} s"
    if told["smarthosts"]:
        yield f"but all mail goes to {', '.join(told['smarthosts'])}: --smarthost"
    if not told["gateway"]:
        yield "no gateway was asked for its bad-host marks"


# What a gateway knows.


def cache(path: str, domains: Sequence[str], *, as_json: bool) -> int:
    """Print what is remembered."""
    answers = fleet.ask_each(path, "mx cache", domains=list(domains))
    entries = together.entries(one for answer in answers for one in answer.items)
    print_told({"entries": entries}, map(_entry_line, entries), as_json=as_json)
    return 0


def bad(path: str, *, as_json: bool) -> int:
    """Print the running marks, the one that ends first at the top."""
    marks = sorted(_bad(path), key=lambda mark: float(mark["until"]))
    print_told({"marks": marks}, map(_mark_line, marks), as_json=as_json)
    return 0


def _bad(path: str) -> list[dict[str, Any]]:
    answers = fleet.ask_each(path, "mx bad")
    return together.marks(one for answer in answers for one in answer.items)


def flush(path: str, domains: Sequence[str], *, as_json: bool) -> int:
    """Forget these, or all."""
    if domains:
        unknown = [domain for domain in domains if not _flushed(path, domain)]
        if unknown:
            raise CommandFailed(1, f"nothing is remembered of {', '.join(unknown)}")
        flushed = len(domains)
    else:
        answers = fleet.ask_each(path, "mx flush", domains=[])
        flushed = sum(answer.result["flushed"] for answer in answers)
    print_told({"flushed": flushed}, [f"forgot {flushed} names"], as_json=as_json)
    return 0


def _flushed(path: str, domain: str) -> bool:
    """One at a time: each worker knows domains that another one does not."""
    try:
        fleet.ask_each(path, "mx flush", domains=[domain])
    except CommandFailed as refusal:
        if refusal.exit_status != 1:
            raise
        return False
    return True


def mark_bad(path: str, host: str, lasts: str | None, *, as_json: bool) -> int:
    """Leave `host` alone for as long as `lasts` says."""
    kind = TABLE["connect_timeout_s"].kind
    for_s = None
    if lasts is not None:
        try:
            for_s = kind.read(lasts)
        except ValueError as error:
            raise ConfigError(f"--for: {lasts!r} {error}; {kind.right}") from None
    answers = fleet.ask_each(path, "mx mark-bad", host=host, for_s=for_s)
    known = {address for answer in answers for address in answer.result["addresses"]}
    marked = answers[0].result | {"addresses": sorted(known)}
    where = f" ({', '.join(marked['addresses'])})" if marked["addresses"] else ""
    print_told(marked, [f"{host}{where} is left alone for {marked['for_s']:g} s"], as_json=as_json)
    return 0


def mark_good(path: str, host: str, *, as_json: bool) -> int:
    """Forget the marks of `host`."""
    marked = fleet.ask_each(path, "mx mark-good", host=host)[0].result
    print_told(marked, [f"{host} bears no mark any more"], as_json=as_json)
    return 0


def _entry_line(entry: Mapping[str, Any]) -> str:
    exchanges = " ".join(
        f"{one['preference']}:{one['name']}[{','.join(one['addresses'])}]"
        for one in entry["exchanges"]
    )
    kind = " (smart host)" if entry["smarthost"] else ""
    trouble = ", lookups fail" if entry["failing"] else ""
    again = f", asked again {at(entry['refresh_at'])}" if entry["refresh_at"] else ""
    return (
        f"{entry['name']}{kind}: {entry['reply'] or exchanges}; used {at(entry['used_at'])}"
        f"{again}, expires {at(entry['expires_at'])}{trouble}"
    )


def _mark_line(mark: Mapping[str, Any]) -> str:
    port = f" port {mark['port']}" if mark["port"] else ""
    source = f" from {mark['source']}" if mark["source"] else ""
    since = f", since {at(mark['set_at'])}" if mark["set_at"] else ""
    why = f": {plain(mark['why'])}" if mark["why"] else ""
    return f"{mark['host']}{port}{source} until {at(mark['until'])}{since}{why}"


def _finite(seconds: float | None) -> float | None:
    """JSON has no infinity, which is the TTL of an address literal."""
    return None if seconds is None or seconds == float("inf") else seconds
