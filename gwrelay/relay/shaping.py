"""How many sessions a site may have at once.  Pure: no sockets, no clock.

limit       at the start
1           after every host of the site was out of reach: one probe, not a crowd
w + 1       after each success that follows, up to the limit
"""


def after_success(window: int, limit: int) -> int:
    return min(window + 1, limit)


def after_no_connection() -> int:
    return 1
