"""What an SMTP server said, or what we would have said in its place (RFC 5321 4.2, RFC 3463).

The only judge of 2, 4 and 5: nobody else compares reply codes.
"""

from typing import NamedTuple


class Reply(NamedTuple):
    """`code` is 100..599, or 0 for what was no reply at all; `status` "x.y.z" or ""."""

    code: int
    status: str
    text: str

    @property
    def is_positive(self) -> bool:
        return 200 <= self.code < 300

    @property
    def is_permanent(self) -> bool:
        """A definite no.  Anything that is neither this nor positive is worth another try."""
        return 500 <= self.code < 600

    @property
    def is_temporary(self) -> bool:
        return not self.is_positive and not self.is_permanent

    def __str__(self) -> str:
        code, status, text = self
        if status and text:
            # By far the most frequent, as in the event of each delivery.
            return f"{code} {status} {text}"
        return " ".join(part for part in (str(code), status, text) if part)

    def encode(self) -> bytes:
        """The reply as bytes for the wire, one line for each line of `text`."""
        code, status, text = self
        status = f"{status} " if status else ""
        if "\n" not in text:
            return f"{code} {status}{text}\r\n".encode()
        lines = text.split("\n")
        last = len(lines) - 1
        return b"".join(
            f"{code}{' ' if n == last else '-'}{status}{line}\r\n".encode()
            for n, line in enumerate(lines)
        )
