"""How many sessions a site may have at once.  Pure: no sockets, no clock.

limit       at the start
1           after every host of the site was out of reach: one probe, not a crowd
w + 1       after each success that follows, up to the limit
s           after a session was refused while `s` others went on: the site takes no more than
            these, and another one is tried only after PATIENCE successes
"""

#: Successes at a site that refused a session until it is asked for another one.
PATIENCE = 100


def after_success(window: int, limit: int) -> int:
    return min(window + 1, limit)


def after_no_connection(sessions: int) -> int:
    """`sessions` are those that go on."""
    return max(1, sessions)
