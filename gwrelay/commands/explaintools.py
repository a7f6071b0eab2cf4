"""`gwrelay status` and `gwrelay explain`: how a gateway fares, and why mail is where it is.

A running gateway's workers are asked (fleet.py); their answers are explainadmin.py's.  Where none
runs, the spool tells what waits in it, and nothing else.  Each command prints and returns its exit
status.
"""

import time
from collections.abc import Iterator
from typing import Any

from gwrelay.admin.queueitems import Record, Tally
from gwrelay.admin.selection import Selection
from gwrelay.commands import fleet, together
from gwrelay.commands.printing import at, count, plain, print_told, span
from gwrelay.commands.queuetools import Where, message_lines, part_lines, shown_at_rest
from gwrelay.errors import NotRunning
from gwrelay.message.envelope import message_id
from gwrelay.queue.standing import HELD, RELAYING, WAITING

_NOT_TRIED = "no gateway runs: nothing is tried until one does"


def status(where: Where, *, as_json: bool) -> int:
    """Print how it fares; NotRunning's status where none runs, after what the spool holds."""
    try:
        told = together.status([one.result for one in fleet.ask_each(where.socket, "status")])
    except NotRunning as error:
        told = _status_at_rest(where, error)
        print_told(told, _rest_lines(told), as_json=as_json)
        return error.exit_status
    print_told(told, _status_lines(told), as_json=as_json)
    return 0


def _status_at_rest(where: Where, error: NotRunning) -> Record:
    told: Record = {"running": False, "messages": 0, WAITING: 0, HELD: 0}
    with where.at_rest(error) as queue:
        for found in queue.walk(Selection()):
            told["messages"] += 1
            for part in found.parts:
                told[part.word] += 1
    return told


def _rest_lines(told: Record) -> Iterator[str]:
    yield f"not running; {count(told['messages'], 'message')} in the spool"
    yield f"deliveries: {told[WAITING]} waiting, {told[HELD]} held"


def _status_lines(told: Record) -> Iterator[str]:
    clients = count(told["connections"], "client")
    yield f"gwrelay {told['version']}, process {told['pid']}"
    yield f"up         {span(told['uptime_s'])}, since {at(told['started_at'])}"
    yield f"listening  {', '.join(told['listening'])}; {clients} now"
    yield f"spool      {'loaded' if told['loaded'] else 'still being loaded: the rest is not here'}"
    yield f"waiting    {count(told[WAITING], 'delivery')}{_next_due(told['next_due_at'])}"
    yield f"relaying   {count(told[RELAYING], 'delivery')}"
    yield f"held       {count(told[HELD], 'delivery')}"
    yield f"done       {count(told['messages_done'], 'message')} since the start"
    yield f"in doubt   {count(told['in_doubt'], 'recipient')} since the start"
    yield f"self-check {count(told['violations'], 'violation')}{_named(told['violations'])}"
    yield f"stuck      {count(told['stuck'], 'thing')}{_named(told['stuck'])}"
    yield f"relayers   {told['relayers']} at work, of --concurrency {told['concurrency']}"
    workers = told["workers"] if len(told["workers"]) > 1 else []
    sites = f"{'at least ' if workers else ''}{told['sites']}"
    yield f"sites      {sites} with mail; {told['dead_sites']} of them out of reach"
    yield from map(_worker_line, workers)


def _named(alarms: int) -> str:
    return ", named in the log" if alarms else ""


def _worker_line(told: Record) -> str:
    clients = count(told["connections"], "client")
    deliveries = ", ".join(f"{told[state]} {state}" for state in (WAITING, RELAYING, HELD))
    draining = "" if told["listening"] else "; empties its directory"
    return (
        f"worker {told['worker']:<3} process {told['worker_pid']}, up {span(told['uptime_s'])}, "
        f"{clients}; {deliveries}{draining}"
    )


def _next_due(due_at: float | None) -> str:
    if due_at is None:
        return ""
    left = due_at - time.time()
    return ", the next due now" if left <= 0 else f", the next due in {span(left)}"


def explain(where: Where, name: str, *, as_json: bool) -> int:
    """Print why a message, or mail for a domain, is where it is."""
    if _is_id(name):
        return _explain_message(where, name, as_json=as_json)
    return _explain_domain(where, name, as_json=as_json)


def _is_id(name: str) -> bool:
    """13 letters and digits without a dot are hardly a domain."""
    try:
        message_id(name)
    except ValueError:
        return False
    return True


def _explain_message(where: Where, name: str, *, as_json: bool) -> int:
    try:
        message, *parts = fleet.ask_one(where.socket, "explain message", name).items
        told = message | {"running": True, "parts": parts}
    except NotRunning as error:
        with where.at_rest(error) as queue:
            told = shown_at_rest(queue, name) | {"running": False}
    print_told(told, _message_lines(told), as_json=as_json)
    return 0


def _message_lines(told: Record) -> Iterator[str]:
    yield from message_lines(told)
    for part in told["parts"]:
        yield from part_lines(part)
        if not told["running"]:
            continue
        blocker = part["blocker"]
        since = f" since {at(blocker['since'])}" if blocker["since"] else ""
        until = f" until {at(blocker['until'])}" if blocker["until"] else ""
        yield f"  blocked by: {blocker['kind']}{since}{until}"
        if part["stuck_since"]:
            yield f"  stuck: nothing has moved since {at(part['stuck_since'])}"
        if part["state"] != HELD:
            yield from _site_lines(part["site"], part)
            yield from _plan_lines(part["plan"])
    if not told["running"]:
        yield _NOT_TRIED


def _explain_domain(where: Where, domain: str, *, as_json: bool) -> int:
    try:
        answers = fleet.ask_each(where.socket, "explain domain", domain=domain)
        told = together.domain([one for answer in answers for one in answer.items])
        told["running"] = True
    except NotRunning as error:
        told = _domain_at_rest(where, domain, error)
    print_told(told, _domain_lines(told), as_json=as_json)
    return 0


def _domain_at_rest(where: Where, domain: str, error: NotRunning) -> Record:
    destination = domain.lower().rstrip(".")
    tally = Tally()
    with where.at_rest(error) as queue:
        for found in queue.walk(Selection(domain=destination)):
            for part in found.parts:
                tally.add(part)
    return {"destination": destination, "queue": tally.of(destination), "running": False}


def _domain_lines(told: dict[str, Any]) -> Iterator[str]:
    queue = told["queue"]
    name = plain(told["destination"])
    if queue is None:
        yield f"{name}: nothing waits for it"
    else:
        states = ", ".join(f"{queue[state]} {state}" for state in (WAITING, RELAYING, HELD))
        oldest = span(time.time() - queue["oldest_at"])
        yield f"{name}: {count(queue['deliveries'], 'delivery')}: {states}; the oldest {oldest} old"
    if told["running"]:
        yield from _site_lines(told["site"], told)
        yield from _plan_lines(told["plan"])
    else:
        yield f"{_NOT_TRIED}; gwrelay mx lookup says where it would go"


def _limits(limits: Record) -> str:
    """What a site may have at most; a rate in the largest unit that makes it 1 or more."""
    words = [count(limits["concurrency"], "session")]
    for name, what in (("messages_per_s", "message"), ("connections_per_s", "connection")):
        if per_s := limits[name]:
            seconds, unit = next((u for u in _PER if per_s * u[0] >= 1), _PER[-1])
            words.append(f"{per_s * seconds:g} {what}s per {unit}")
    return ", ".join(words)


#: Seconds, and what they are called.
_PER = ((1, "second"), (60, "minute"), (3600, "hour"), (86400, "day"))


def _site_lines(site: Record | None, told: Record) -> Iterator[str]:
    yield f"  relayers: {told['relayers']} at work, of --concurrency {told['concurrency']}"
    if site is None:
        yield "  site: none; no mail for its exchanges is under way"
        return
    parked = f", {site['parked']} more parked" if site["parked"] else ""
    yield (
        f"  site {plain(site['name'])}: {site['relayers']} of {site['window']} sessions, "
        f"{site['ready']} ready{parked}"
    )
    yield f"  limits: {_limits(site['limits'])}"
    if site["dead_until"]:
        failure = f": {plain(site['last_failure'])}" if site["last_failure"] else ""
        yield f"  out of reach until {at(site['dead_until'])}{failure}"


def _plan_lines(plan: Record) -> Iterator[str]:
    if not plan["known"]:
        yield "  plan: not known; the destination is looked up when its mail is due"
    elif plan["reply"]:
        yield f"  plan: none: {plain(plan['reply'])}"
    for host in plan["hosts"]:
        place = "-" if host["place"] is None else host["place"]
        port = f" port {host['port']}" if host["port"] else ""
        since = f" since {at(host['bad_since'])}" if host["bad_since"] else ""
        why = f": {plain(host['why'])}" if host["why"] else ""
        bad = f"  marked bad{since} until {at(host['bad_until'])}{why}" if host["bad_until"] else ""
        where = f"{host['exchange']}[{host['address']}]{port}"
        yield f"  {place:>4}  {host['preference']:>5}  {plain(where)}{bad}"
