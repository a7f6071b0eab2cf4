"""Where the process begins: the only place that names gevent.monkey.

The patch must come before any other import of ours, or modules would keep hold of the
blocking socket and time.  Commands that only print or check run unpatched, and never pay
for loading gevent.
"""

import sys
from collections.abc import Sequence

#: Commands that run greenlets in this process.
PATCHED = ("serve", "demo", "bench")


def main() -> None:
    """Entry of `gwrelay` and of `python -m gwrelay`."""
    if _command(sys.argv[1:]) in PATCHED:
        from gevent import monkey

        monkey.patch_all()
    from gwrelay.cli import run

    sys.exit(run())


def _command(arguments: Sequence[str]) -> str | None:
    """The first word that is not a flag: none of the flags before it takes a value."""
    return next((word for word in arguments if not word.startswith("-")), None)


if __name__ == "__main__":
    main()
