"""What can go wrong on our side of the wire.

A remote's refusal is never an exception here: it is a `Reply`, and becomes an outcome at
once (see message/outcome.py).  Exceptions mean our connection, our disk, our configuration.
"""


class GatewayError(Exception):
    """Everything this package raises on purpose."""

    #: What a command that ends with it exits with.
    exit_status = 1


class ConfigError(GatewayError):
    """A setting that cannot be used: says which, where it came from, and what would be right."""

    exit_status = 2


class ConnectionLost(GatewayError):
    """Our connection to a next hop broke, timed out, or spoke no SMTP.

    `stage` is the stage (message/outcome.py) it happened in; `reason` is for people.  `status`
    is its enhanced status code (RFC 3463), "" for the one that every lost connection has.
    `ours`: we lack something (descriptors, memory, ports, the source address), which says nothing
    about the host.
    """

    def __init__(self, stage: str, reason: str, status: str = "", *, ours: bool = False) -> None:
        super().__init__(f"{reason} (in {stage})")
        self.stage = stage
        self.reason = reason
        self.status = status
        self.ours = ours


class SessionRefused(ConnectionLost):
    """It is we who will not use this session: what it must have, TLS or AUTH, is not to be had."""


class AccountingError(GatewayError):
    """An attempt would have ended with a recipient that has no outcome.  Always a bug."""


class StoreFull(GatewayError):
    """No room for another message just now: 452 4.3.1, and the client tries again."""


class StoreFailed(GatewayError):
    """The message could not be made durable: 451 4.3.0, and nothing is delivered from it."""


class StoreDamaged(StoreFailed):
    """What is kept of a message is not what was written: it must never be sent."""


class CommandFailed(GatewayError):
    """A running gateway could not, or would not, do what a command asked.

    `exit_status` is 1 when nothing matches, 2 when it makes no sense, 3 when it is refused.
    """

    def __init__(self, exit_status: int, text: str) -> None:
        super().__init__(text)
        self.exit_status = exit_status


class StartFailed(GatewayError):
    """A worker could not start.  The text is its own, and so is the exit status."""

    def __init__(self, exit_status: int, text: str) -> None:
        super().__init__(text)
        self.exit_status = exit_status


class NotRunning(GatewayError):
    """No gateway answers at the control socket."""

    exit_status = 4
