"""Figures of a run: percentiles, and the like.  Values in, values out."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of `ordered` (ascending, not empty) that `share` of them do not exceed."""
    rank = -(-len(ordered) * share // 1)
    return ordered[max(0, min(len(ordered), int(rank)) - 1)]


def latency(seconds: Sequence[float]) -> dict[str, float] | None:
    """p50, p99 and the longest of `seconds`, in milliseconds; None when there are none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return {
        "p50": round(percentile(ordered, 0.50) * 1000, 3),
        "p99": round(percentile(ordered, 0.99) * 1000, 3),
        "max": round(ordered[-1] * 1000, 3),
    }


def medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over `rounds`, which all have the same, to two decimals."""
    return {name: round(median(one[name] for one in rounds), 2) for name in rounds[0]}


def middle(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The median of each figure over `rounds`, of figures within figures too; what all of them
    have, and for what is no number the first one's."""
    found: dict[str, Any] = {}
    for name, first in rounds[0].items():
        values = [one[name] for one in rounds if name in one]
        if len(values) < len(rounds):
            continue
        if isinstance(first, Mapping):
            found[name] = middle(values)
        elif all(isinstance(value, (int, float)) for value in values):
            found[name] = round(median(values), 4)
        else:
            found[name] = first
    return found


def latency_from(
    accepted: Mapping[str, float], arrived_at: Mapping[str, float]
) -> dict[str, float]:
    """From each 250 to the arrival, in milliseconds.  0 where the sink was faster than the
    sender was to read its 250.  Both by recipient, in Unix seconds; who has not arrived does not
    count."""
    return (
        latency(
            [
                max(0.0, arrived_at[recipient] - answered_at)
                for recipient, answered_at in accepted.items()
                if recipient in arrived_at
            ]
        )
        or {}
    )
