"""Which recipients of a delivery still want an answer, in the same attempt.  Pure.

An attempt walks over hosts (RFC 5321 5.1); what each of them said decides whom the next is asked
about.
"""

from collections.abc import Mapping, Sequence

from gwrelay.message import outcome
from gwrelay.message.outcome import Kind, Outcome
from gwrelay.queue.store import Doubt


def may_ask_another(verdict: Outcome | None, doubt: Doubt | None) -> bool:
    """Whether a further host may be asked about this recipient in the same attempt.

    Not when it is in doubt: that host would surely deliver it a second time.  Unless it was in
    doubt before, and is again at the same host: then only another can help.  Nor when it is to
    be held: what is damaged is damaged for all of them.
    """
    if verdict is None or is_incapable(verdict):
        return True
    if verdict.hold:
        return False
    if verdict.in_doubt:
        return doubt is not None and doubt.host[:2] == (verdict.exchange, verdict.address)
    return verdict.kind is Kind.DEFERRED


def is_incapable(verdict: Outcome) -> bool:
    """Our own no, for want of an extension or of size: another host may have it.

    What is no address (RFC 3463 3.2) is none for any of them.
    """
    ours = verdict.kind is Kind.FAILED and not verdict.heard
    return ours and not verdict.reply.status.startswith("5.1.")


def left_for_the_next(batch: Sequence[int], told: Mapping[int, Outcome]) -> list[int]:
    """Those of whom this transaction said nothing but that it had enough: they go in the next one,
    at once, provided that it said something of the others."""
    left = [n for n in batch if _is_one_too_many(told[n]) or _is_cut_off(told[n])]
    return left if len(left) < len(batch) else []


def _is_one_too_many(verdict: Outcome) -> bool:
    """RFC 5321 4.5.3.1.10."""
    reply = verdict.reply
    return verdict.stage == outcome.RCPT and reply.code == 452 and reply.status in ("", "4.5.3")


def _is_cut_off(verdict: Outcome) -> bool:
    """By a server that hangs up on who has named too many that it does not know."""
    return verdict.stage == outcome.RCPT and verdict.heard and verdict.reply.code == 421
