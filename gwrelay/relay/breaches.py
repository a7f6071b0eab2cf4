"""When the postmaster is told that a host broke the protocol.  Pure.

At most once in an hour for each host, by its name and by its address: what is wrong with it now
will be wrong with it for each message.  And at most MOST_AN_HOUR times for all hosts together: when
a provider of many updates its software, or somebody plays many, the postmaster has seen enough,
and mail is not made by the rate at which others misbehave.
"""

from collections.abc import Sequence
from typing import NamedTuple

from gwrelay.message.notice import Breach

AN_HOUR_S = 3600.0
#: More is not read; and it is less than 500 a day, which no mailbox minds.
MOST_AN_HOUR = 20


class Told(NamedTuple):
    """A notice there was."""

    exchange: str
    address: str
    #: Unix seconds.
    at: float


def after_telling(told: Sequence[Told], breach: Breach, now: float) -> list[Told] | None:
    """What to remember once the postmaster is told of `breach`, `told` being what is remembered;
    None: he is not to be told.

    A time that is still to come is no reason to be silent for years: the clock was wrong.
    """
    recent = [one for one in told if now - AN_HOUR_S < one.at <= now]
    is_known = any(
        one.exchange == breach.exchange or one.address == breach.address for one in recent
    )
    if is_known or len(recent) >= MOST_AN_HOUR:
        return None
    return [*recent, Told(breach.exchange, breach.address, now)]
