"""What the control socket says of how a gateway fares: all of it, one message, one destination.

explaintools.py prints what these return.  Times are Unix seconds.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gwrelay import __version__
from gwrelay.admin.lastwords import LastWords
from gwrelay.admin.queueadmin import readable, the_parts
from gwrelay.admin.queueitems import Record, Tally, full_record, message_record
from gwrelay.admin.queuewalk import paced, walk
from gwrelay.admin.selection import Selection
from gwrelay.admin.server import Handler
from gwrelay.listener import Listener
from gwrelay.queue.mailqueue import Queue
from gwrelay.queue.standing import HELD, Part
from gwrelay.relay.explained import DEAD, RETRY, Blocker, Explainer, Route
from gwrelay.relay.manager import SmartHostSMTPRelayingManager
from gwrelay.relay.site import Site
from gwrelay.relay.watch import Watch


def explain_handlers(
    queue: Queue,
    manager: SmartHostSMTPRelayingManager,
    explainer: Explainer,
    watch: Watch,
    last_words: LastWords,
    listeners: Sequence[Listener],
    worker: int,
    gateway_pid: int,
    clock: Callable[[], float] = time.time,
) -> Mapping[str, Handler]:
    """The commands by name.  `gateway_pid` is the process to send signals to."""
    started_at = clock()

    def status() -> dict[str, Any]:
        """How it fares, at a glance."""
        counts = queue.counts
        sites, dead_sites = explainer.sites()
        return {
            "running": True,
            "version": __version__,
            "pid": gateway_pid,
            "worker": worker,
            "worker_pid": os.getpid(),
            "started_at": started_at,
            "uptime_s": clock() - started_at,
            "listening": [str(listener.endpoint) for listener in listeners],
            "connections": sum(listener.connections for listener in listeners),
            "loaded": queue.is_loaded,
            **counts._asdict(),
            "next_due_at": queue.next_due_at if counts.waiting else None,
            "messages_done": queue.get_relayed(),
            "in_doubt": manager.in_doubt,
            "violations": queue.violations.count,
            "stuck": watch.count,
            "relayers": len(manager.managed),
            "concurrency": manager.max_connections,
            "sites": sites,
            "dead_sites": dead_sites,
        }

    def explain_message(message: str) -> Iterator[Record | None]:
        """The message, then each of its parts."""
        parts = the_parts(queue, message)
        whole = readable(queue, parts[0].message_id)
        yield message_record(parts[0].message_id, parts, whole)
        for part in paced(parts):
            if part is not None:
                last = last_words.of(part.message_id, part.open.recipients[0])
                record = full_record(part, whole.envelope if whole else None, last)
                blocker = explainer.blocker(part)
                if blocker.kind == DEAD:
                    blocker = blocker._replace(since=explainer.dead_since(part.open.destination))
                elif blocker.kind == RETRY and last is not None:
                    blocker = blocker._replace(since=last.ended_at)
                yield record | _explained(part, blocker)

    def explain_domain(domain: str) -> Iterator[Record | None]:
        """The destination; how many wait for it needs a walk through all that waits."""
        destination = domain.lower().rstrip(".")
        tally = Tally()
        for found in walk(queue, Selection(domain=destination)):
            if found is None:
                yield None
                continue
            for part in found.parts:
                tally.add(part)
        yield {
            "destination": destination,
            "queue": tally.of(destination),
            "site": _site(explainer.site(destination)),
            "plan": _plan(explainer.route(destination, asks=True)),
            **_relayers(),
        }

    def _explained(part: Part, blocker: Blocker) -> Record:
        destination = part.open.destination
        record: Record = {"blocker": blocker._asdict(), "why": blocker.text, "stuck_since": None}
        if part.word != HELD:
            site = explainer.site(destination)
            if part.delivery is not None:
                for_s = watch.stuck_for_s(part.delivery, site)
                record["stuck_since"] = None if for_s is None else clock() - for_s
            record["site"] = _site(site)
            record["plan"] = _plan(explainer.route(destination))
        return record | _relayers()

    def _relayers() -> Record:
        return {"relayers": len(manager.managed), "concurrency": manager.max_connections}

    return {
        "status": status,
        "explain message": explain_message,
        "explain domain": explain_domain,
    }


def _site(site: Site | None) -> Record | None:
    """None: no mail of it is under way."""
    if site is None:
        return None
    return {
        "name": site.name,
        "relayers": site.relayers,
        "window": site.window,
        "limits": site.limits._asdict(),
        "ready": len(site.ready),
        "parked": len(site.parked),
        "dead_until": site.dead_until or None,
        "last_failure": None if site.last_failure is None else str(site.last_failure.reply),
    }


def _plan(route: Route) -> Record:
    hosts = [
        {
            "place": one.place,
            **one.candidate._asdict(),
            "bad_since": one.bad_since,
            "bad_until": one.bad_until,
            "why": one.why,
        }
        for one in route.hosts
    ]
    return {"known": route.is_known, "reply": route.reply or None, "hosts": hosts}
