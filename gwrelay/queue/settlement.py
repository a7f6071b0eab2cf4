"""What becomes of a delivery after one attempt.  Pure: no disk, no clock, no greenlets."""

from collections.abc import Mapping
from typing import NamedTuple

from gwrelay.errors import AccountingError
from gwrelay.message.outcome import Kind, Outcome
from gwrelay.queue.delivery import Delivery
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.store import Open

#: RFC 3463 3.5: delivery time expired.
EXPIRED = "4.4.7"


class Settlement(NamedTuple):
    """`remaining` stays open, due again as it says; None when the delivery is over.

    `failed` are recipients, by index, that failed for good in this attempt; a DSN is owed
    about them unless the message is itself a bounce.  `expired` is the part of `failed`
    that was only deferred once too often.
    """

    remaining: Open | None
    failed: Mapping[int, Outcome]
    expired: frozenset[int]
    owes_dsn: bool


def settle(
    delivery: Delivery,
    outcomes: Mapping[int, Outcome],
    policy: RetryPolicy,
    now: float,
    chance: float,
) -> Settlement:
    """Decide what becomes of `delivery`.  `now` is Unix seconds, `chance` uniform in 0..1.

    Deferred recipients stay, due again when `policy` says; past the lifetime they fail
    instead (RFC 5321 4.5.4.1), with the last reply as the reason.  Failed ones share one
    DSN, owed only if the reverse-path is not null (RFC 5321 6.1).

    Raises AccountingError unless `outcomes` has exactly the delivery's recipients:
    losing one without a word is the bug this gateway may not have.
    """
    if outcomes.keys() != set(delivery.recipients):
        raise AccountingError(f"{delivery}: outcomes for {sorted(outcomes)}")
    deferred = tuple(n for n in delivery.recipients if outcomes[n].kind is Kind.DEFERRED)
    failed = {n: told for n, told in outcomes.items() if told.kind is Kind.FAILED}
    expires_at = policy.expires_at(delivery.arrived_at, delivery.is_bounce)
    if deferred and now >= expires_at:
        failed |= {n: outcomes[n]._replace(kind=Kind.FAILED) for n in deferred}
        expired, deferred = frozenset(deferred), ()
    else:
        expired = frozenset()
    remaining = None
    if deferred:
        attempts = delivery.attempts + 1
        due_at = policy.next_due(attempts, now, expires_at, chance)
        remaining = Open(delivery.destination, deferred, attempts, due_at)
    return Settlement(remaining, failed, expired, bool(failed) and not delivery.is_bounce)
