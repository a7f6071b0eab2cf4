"""Settings as `check-config --effective` prints them: a TOML file, or JSON."""

from typing import Any

import msgspec

from gwrelay.config import SECTIONS, TABLE, Setting
from gwrelay.given import DESTINATION, Given, Loaded


def as_file(loaded: Loaded) -> str:
    """The settings as a TOML file that --config reads back, each with its origin."""
    blocks = []
    for section in SECTIONS:
        lines = [f"# {section}"]
        for setting in TABLE.values():
            if setting.section == section:
                given = loaded.given[setting.flag]
                lines.append(f"{setting.flag} = {_as_written(setting, given)}  # {given.origin}")
        blocks.append("\n".join(lines) + "\n")
    for destination, particular in loaded.destinations.items():
        lines = [f"[{DESTINATION}.{to_json(destination)}]"]
        for setting in TABLE.values():
            if setting.flag in particular:
                given = particular[setting.flag]
                lines.append(f"{setting.flag} = {_as_written(setting, given)}  # {given.origin}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _as_written(setting: Setting, given: Given) -> str:
    """The value in TOML.  A JSON string is a TOML one, so long as DEL is escaped too."""
    parts = [to_json(part).replace("\x7f", "\\u007f") for part in given.parts]
    return f"[{', '.join(parts)}]" if setting.kind.repeatable else "".join(parts) or '""'


def as_record(loaded: Loaded) -> dict[str, Any]:
    return {"settings": _records(loaded), "destinations": _destinations(loaded)}


def _records(loaded: Loaded) -> dict[str, dict[str, Any]]:
    """By flag."""
    return {
        setting.flag: _record(setting, getattr(loaded.settings, field), loaded.given[setting.flag])
        for field, setting in TABLE.items()
    }


def _destinations(loaded: Loaded) -> dict[str, dict[str, dict[str, Any]]]:
    """By destination, then by flag: what is particular to it."""
    return {
        destination: {
            setting.flag: _record(
                setting, values[field], loaded.destinations[destination][setting.flag]
            )
            for field, setting in TABLE.items()
            if field in values
        }
        for destination, values in loaded.settings.destinations.items()
    }


def _record(setting: Setting, value: object, given: Given) -> dict[str, Any]:
    """The value as read, with its unit if it has one, as written, and its origin."""
    return {
        "value": value,
        "unit": setting.kind.unit,
        "written": ",".join(given.parts),
        "origin": given.origin,
    }


def to_json(value: object) -> str:
    """`value` as JSON; networks, which JSON has no form for, as people write them."""
    return msgspec.json.encode(value, enc_hook=str).decode()
