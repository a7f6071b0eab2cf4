"""Every setting of config.TABLE as an option, and what was given as settings."""

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from gwrelay.config import SECTIONS, TABLE, Setting
from gwrelay.errors import ConfigError
from gwrelay.given import CONFIG_VARIABLE, Loaded, load

_SOURCES = (
    "Every setting is also a variable (--max-hops: GWRELAY_MAX_HOPS) and a key of the TOML file "
    'named with --config (max-hops = 100, client-timeout = "5m").  A flag beats a variable, a '
    "variable the file, the file the default.  Lists are written with commas, or by repeating "
    "the flag."
)


class SettingOption(click.Option):
    """One row of config.TABLE as an option: plain text, which config.load reads."""

    def __init__(self, field: str, setting: Setting) -> None:
        shown = "none" if setting.default == "" else setting.default
        super().__init__(
            [f"--{setting.flag}", field],
            metavar=setting.kind.metavar,
            multiple=setting.kind.repeatable,
            help=setting.help + (f"  [{shown}]" if shown else ""),
        )
        self.section = setting.section


class SettingsCommand(click.Command):
    """A command that takes settings, all or these, its --help in the table's sections."""

    def __init__(
        self,
        name: str | None,
        *,
        params: Sequence[click.Parameter],
        fields: Sequence[str] = tuple(TABLE),
        **others: Any,
    ) -> None:
        settings = [SettingOption(field, TABLE[field]) for field in fields]
        super().__init__(name, params=[*params, *settings], epilog=_SOURCES, **others)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in ("Options", *SECTIONS):
            records = [
                record
                for option in self.get_params(ctx)
                if getattr(option, "section", "Options") == section
                and (record := option.get_help_record(ctx))
            ]
            if records:
                with formatter.section(section):
                    formatter.write_dl(records)


config_option = click.option(
    "--config",
    metavar="FILE",
    envvar=CONFIG_VARIABLE,
    help=f"Read settings from this TOML file.  Also {CONFIG_VARIABLE}.",
)


def load_settings(
    config: str | None,
    given: Mapping[str, str | Sequence[str] | None],
    *,
    content: bytes | None = None,
    spool: str = "",
) -> Loaded:
    """What was given on the command line, in the environment and in the file, as settings.

    `content` is the file's where that was read already; `spool` stands in for one that was not
    given.
    """
    content = read_settings_file(config) if content is None else content
    file = None if config is None or content is None else (config, content)
    return load(as_flags(given), os.environ, file, socket.gethostname(), spool=spool)


def as_flags(given: Mapping[str, str | Sequence[str] | None]) -> dict[str, Sequence[str]]:
    """What was given on the command line, by flag."""
    return {
        TABLE[field].flag: [value] if isinstance(value, str) else value
        for field, value in given.items()
        if value is not None and value != ()
    }


def read_settings_file(config: str | None) -> bytes | None:
    if config is None:
        return None
    try:
        return Path(config).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        origin = f"--config or {CONFIG_VARIABLE}"
        raise ConfigError(f"{origin}: cannot read {config!r}: {reason}; name a file") from None
