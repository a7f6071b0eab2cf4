"""`gwrelay bench plot`: draws what benches printed with --json.

throughput-CASE   messages/s over sessions: the gateway, Postfix, straight into the sink
latency-CASE      percentiles from final dot to 250, and from there to the sink
cost              CPU seconds per 1,000 messages by revision
"""

from collections.abc import Callable
from pathlib import Path

import click

from gwrelay.errors import ConfigError
from gwrelay_bench.drawing import draw_all, new_figure, save
from gwrelay_bench.points import NotALine, Point, read_points
from gwrelay_bench.scenario import as_module

_WHAT = "plot"
_RIGHT = "give what benches like relay_one_site print with --json"


@click.command("plot")
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)  # fmt: skip
@click.option(
    "--out", default=".", metavar="DIR", type=click.Path(file_okay=False, path_type=Path),
    help="Where the pictures go; made when missing.  [here]",
)  # fmt: skip
@click.option(
    "--format", "kind", type=click.Choice(["png", "svg", "pdf"]), default="png",
    show_default=True, help="Their kind.",
)  # fmt: skip
def command(files: tuple[Path, ...], out: Path, kind: str) -> Callable[[], int]:
    """Draw FILEs of JSON lines: throughput over sessions, latencies, cost by revision.

    The first two are of the revision that comes last.  Prints the names of the pictures.
    """
    return lambda: _plot(files, out, kind)


def _plot(files: tuple[Path, ...], out: Path, kind: str) -> int:
    new_figure(_WHAT, 1, 1)
    points = [point for file in files for point in _read(file)]
    if not points:
        raise ConfigError(f"{_WHAT}: nothing to draw in {', '.join(map(str, files))}; {_RIGHT}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out: cannot make {str(out)!r}: {error.strerror}") from None
    for name, figure in draw_all(points, _WHAT).items():
        path = out / f"{name}.{kind}"
        save(figure, path, "--out")
        click.echo(path)
    return 0


def _read(file: Path) -> list[Point]:
    try:
        return read_points(str(file), file.read_text().splitlines())
    except (NotALine, UnicodeDecodeError) as error:
        where = error if isinstance(error, NotALine) else file
        raise ConfigError(f"{_WHAT}: {where} is no line of JSON of a bench; {_RIGHT}") from None
    except OSError as error:
        raise ConfigError(f"{_WHAT}: cannot read {str(file)!r}: {error.strerror}") from None


if __name__ == "__main__":
    as_module(__spec__.name)
