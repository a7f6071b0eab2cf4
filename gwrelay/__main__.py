"""Where the process begins: the only place that names gevent.monkey.

The patch must come before any other import of ours, or modules would keep hold of the
blocking socket and time.  Commands that only print or check run unpatched, and never pay
for loading gevent; nor does `serve`, which supervises workers, each of them a
`serve --worker K`.
"""

import sys
from collections.abc import Sequence

#: Commands that run greenlets in this process.
PATCHED = ("demo", "bench", "tune")


def main() -> None:
    """Entry of `gwrelay` and of `python -m gwrelay`."""
    if _runs_greenlets(sys.argv[1:]):
        from gevent import monkey

        monkey.patch_all()
    from gwrelay.cli import run

    sys.exit(run())


def _runs_greenlets(arguments: Sequence[str]) -> bool:
    # The first word that is not a flag: none of the flags before it takes a value.
    command = next((word for word in arguments if not word.startswith("-")), None)
    return command in PATCHED or (command == "serve" and "--worker" in arguments)


if __name__ == "__main__":
    main()
