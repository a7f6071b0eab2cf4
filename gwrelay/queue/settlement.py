"""What becomes of a delivery after one attempt.  Pure: no disk, no clock, no greenlets."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from gwrelay.errors import AccountingError, ConnectionLost
from gwrelay.message.outcome import DOT, Kind, Outcome, of_loss
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.retry import HOLD, RetryPolicy, hint_s
from gwrelay.queue.store import Doubt, Host, Open

#: A NamedTuple from all its fields.  Calling the class is Python of its own.
_new = tuple.__new__


class Settlement(NamedTuple):
    """`remaining` stays open: due again, or on hold, as each part says.  Several parts when
    recipients fared differently; none when the delivery is over.

    `failed` are recipients, by index, that failed for good in this attempt; a DSN is owed
    about them unless the message is itself a bounce.  `expired` is the part of `failed`
    that was only deferred once too often.  `relayed` were delivered to a host that will not
    report about them, though they asked for it: so we do (RFC 3461 5.2.2).
    """

    remaining: tuple[Open, ...]
    failed: Mapping[int, Outcome]
    expired: frozenset[int]
    owes_dsn: bool
    relayed: Mapping[int, Outcome] = MappingProxyType({})


#: No recipient failed, and of none there is a report to send.
NOTHING_ENDED = Settlement((), {}, frozenset(), False)


class _Stays(NamedTuple):
    """How a recipient stays; those that stay alike stay together."""

    held: str
    doubt: Doubt | None
    in_doubt: bool = False
    #: When to come again, as the next hop said; 0.0: it did not.
    hint_s: float = 0.0


def settle(
    delivery: Delivery,
    outcomes: Mapping[int, Outcome],
    policy: RetryPolicy,
    now: float,
    chance: float,
) -> Settlement:
    """Decide what becomes of `delivery`.  `now` is Unix seconds, `chance` uniform in 0..1.

    Deferred recipients stay, due again when `policy` says; past the lifetime they fail
    instead (RFC 5321 4.5.4.1), with the last reply as the reason, unless they are held.
    Failed and relayed ones share one DSN, owed only if the reverse-path is not null (RFC 5321
    6.1).

    Raises AccountingError unless `outcomes` has exactly the delivery's recipients:
    losing one without a word is the bug this gateway may not have.
    """
    if outcomes.keys() != set(delivery.recipients):
        raise AccountingError(f"{delivery}: outcomes for {sorted(outcomes)}")
    for told in outcomes.values():
        if told.kind is not Kind.DELIVERED or told.relayed:
            break
    else:
        return NOTHING_ENDED
    is_over = now >= policy.expires_at(delivery.arrived_at, delivery.is_bounce)
    staying: dict[_Stays, list[int]] = {}
    failed: dict[int, Outcome] = {}
    expired = []
    for n in delivery.recipients:
        told = outcomes[n]
        if told.kind is Kind.FAILED:
            failed[n] = told
        elif told.kind is Kind.DEFERRED:
            stays = _stays(delivery, told, policy, now)
            if is_over and not stays.held:
                failed[n] = told._replace(kind=Kind.FAILED)
                expired.append(n)
            else:
                staying.setdefault(stays, []).append(n)
    remaining = tuple(
        [_part(delivery, tuple(who), stays, policy, now, chance) for stays, who in staying.items()]
    )
    relayed = {n: told for n, told in outcomes.items() if told.relayed}
    owes_dsn = bool(failed or relayed) and not delivery.is_bounce
    return Settlement(remaining, failed, frozenset(expired), owes_dsn, relayed)


def without_answer(
    delivery: Delivery, host: Host, policy: RetryPolicy, now: float, chance: float
) -> Open:
    """What stays of `delivery` if no answer to the final dot, about to be sent to `host`, ever
    comes: the same as after an attempt that ended in doubt, but that nobody was told."""
    doubt = _new(Doubt, (host, now, False))
    held = _doubtful(doubt) if policy.in_doubt == HOLD else ""
    attempts = delivery.attempts + 1
    expires_at = policy.expires_at(delivery.arrived_at, delivery.is_bounce)
    due_at = policy.due_in_doubt(attempts, now, expires_at, chance)
    left = delivery.destination, delivery.recipients, attempts, due_at, held, doubt, False
    return _new(Open, left)


def left_in_doubt(part: Open, doubt: Doubt) -> tuple[Settlement, dict[int, Outcome]]:
    """How the attempt ended that a crash kept from ending, and what its recipients are told:
    `part` is what stays, as without_answer() has noted it."""
    lost = ConnectionLost(DOT, "the gateway ended before an answer came")
    told = of_loss(lost, doubt.host.exchange, doubt.host.address)
    return Settlement((part,), {}, frozenset(), False), dict.fromkeys(part.recipients, told)


def _stays(delivery: Delivery, told: Outcome, policy: RetryPolicy, now: float) -> _Stays:
    if told.in_doubt:
        doubt = _doubt_at(delivery.doubt, told, now)
        held = told.hold or (_doubtful(doubt) if policy.in_doubt == HOLD else "")
        return _Stays(held, doubt, in_doubt=True)
    # Who was to be asked again and could not be reached was asked: the attempt went on to
    # others.  When nobody was tried at all, he is still the first to ask.
    hinted = policy.honors_hints and told.heard and told.reply.is_temporary
    return _Stays(
        told.hold,
        None if told.exchange else delivery.doubt,
        hint_s=hint_s(told.reply.text) if hinted else 0.0,
    )


def _doubt_at(noted: Doubt | None, told: Outcome, now: float) -> Doubt:
    """As it was noted before the final dot, if it was: that knows the port too."""
    if noted is not None and noted.host[:2] == (told.exchange, told.address):
        return noted._replace(told=True)
    return Doubt(Host(told.exchange, told.address), now)


def _doubtful(doubt: Doubt) -> str:
    return f"in doubt: {doubt.host.exchange}[{doubt.host.address}] may have taken it"


def _part(
    delivery: Delivery,
    recipients: tuple[int, ...],
    stays: _Stays,
    policy: RetryPolicy,
    now: float,
    chance: float,
) -> Open:
    attempts = delivery.attempts + 1
    expires_at = policy.expires_at(delivery.arrived_at, delivery.is_bounce)
    if stays.in_doubt:
        due_at = policy.due_in_doubt(attempts, now, expires_at, chance)
    else:
        due_at = policy.next_due(attempts, now, expires_at, chance, stays.hint_s)
    return Open(delivery.destination, recipients, attempts, due_at, stays.held, stays.doubt)
