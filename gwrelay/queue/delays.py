"""Whose sender is told that his mail waits still, when, and why it does (RFC 3461 5.2.5).

Pure.

Once for a message: when the turn of one of its parts has come to nothing, policy.delay_warning_s
after its arrival or later.  Then of all that is open of it, whatever it is doing just now.  What is
on hold is left out, for nobody can say until when it will be tried; released, and with another turn
come to nothing, it has a warning of its own.  What may have been delivered is said to be in doubt.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from gwrelay.errors import ConnectionLost
from gwrelay.message.outcome import DNS, DOT, Outcome, of_loss, of_ours
from gwrelay.message.reply import Reply
from gwrelay.queue.retry import RetryPolicy
from gwrelay.queue.store import Doubt, State

#: Of what was not tried just now, or for reasons that are not known any more.
_WAITS = of_ours(DNS, Reply(451, "4.0.0", "not delivered yet; will be tried again"))


class Delay(NamedTuple):
    """Why a recipient waits."""

    outcome: Outcome
    #: It was told so in the attempt that has just ended.
    tried: bool


def warn(
    state: State,
    told: Mapping[int, Outcome | None],
    policy: RetryPolicy,
    now: float,
    *,
    tried: bool = True,
    recall: Callable[[int], Outcome | None] = lambda number: None,
) -> tuple[State, dict[int, Delay]]:
    """`state` after its sender is told of the delay, and why each recipient waits that he is told
    of, by index; as it is, and nobody, while it is not time for that.

    `told` is why those of them wait whose turn has come to nothing, as far as that is known: they
    were `tried` and told so, or are put off for what others were told.  `recall` gives what all of
    another part was told the last time, by its number (its first recipient), if anybody remembers.
    """
    if state.is_bounce or not policy.is_late(state.arrived_at, now):
        return state, {}
    if now >= policy.expires_at(state.arrived_at, is_bounce=False):
        return state, {}  # its end is near, and will be told
    late = [part for part in state.open if not (part.held or part.warned)]
    if not any(part.recipients[0] in told for part in late):
        return state, {}
    parts = tuple(part if part.held else part._replace(warned=True) for part in state.open)
    delayed = {}
    for part in late:
        before = recall(part.recipients[0])
        for n in part.recipients:
            why = _reason(part.doubt, told.get(n) or before or _WAITS)
            delayed[n] = Delay(why, tried and n in told)
    return state._replace(open=parts), delayed


def _reason(doubt: Doubt | None, told: Outcome) -> Outcome:
    if doubt is None or told.in_doubt:
        return told
    # Whatever it waits for: that it may be there already matters more.
    lost = ConnectionLost(DOT, "no answer came")
    return of_loss(lost, doubt.host.exchange, doubt.host.address)
