"""Options that several groups of commands share, and what they mean."""

import click

from gwrelay.config import TABLE, admin_path
from gwrelay.errors import ConfigError

spool_option = click.option(
    "--spool",
    "directory",
    metavar="DIR",
    envvar="GWRELAY_SPOOL",
    help="The directory that serve was given.  Also GWRELAY_SPOOL.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
admin_option = click.option(
    "--admin",
    metavar="unix:PATH",
    envvar="GWRELAY_ADMIN",
    help="The control socket, where serve was given one.  Also GWRELAY_ADMIN.",
)


def given_admin(directory: str | None, admin: str | None) -> str:
    """Path of the control socket of the gateway that is meant."""
    setting = TABLE["admin"]
    try:
        socket_path = str(setting.kind.read(admin or str(setting.default)))
    except ValueError as error:
        raise ConfigError(f"--admin: {admin!r} {error}; {setting.kind.right}") from None
    if not directory and socket_path.startswith("SPOOL/"):
        raise ConfigError(
            "--spool: not given; write --spool DIR or GWRELAY_SPOOL=DIR, or --admin unix:PATH"
        )
    return admin_path(socket_path, directory or "")


def given_spool(directory: str | None) -> str:
    if not directory:
        raise ConfigError("--spool: not given; write --spool DIR or GWRELAY_SPOOL=DIR")
    return directory
