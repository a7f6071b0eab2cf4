"""Who counts as one sender, for those who let senders take turns.  Pure."""

from functools import lru_cache
from zlib import crc32

#: What `--fair-by` takes.
SENDER_DOMAIN, SENDER, NONE = "sender-domain", "sender", "none"

#: Numbers of senders, from 1: two bytes of each waiting message's state.  Two senders of one number
#: share a turn, and nothing else.
_NUMBERS = 32_767


# Most mail is from few senders.
@lru_cache(maxsize=1024)
def number_of(reverse_path: str, fair_by: str) -> int:
    """1.._NUMBERS; 0 for all there is when nobody takes turns, and for bounces, which are one."""
    if fair_by == NONE or not reverse_path:
        return 0
    who = reverse_path.rpartition("@")[2] if fair_by == SENDER_DOMAIN else reverse_path
    return 1 + crc32(who.lower().encode("utf-8", "surrogateescape")) % _NUMBERS
