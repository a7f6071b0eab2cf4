"""Which value each setting has, and where it was given.

A flag beats a variable beats the file beats the default.  No I/O here: the caller brings the flags,
the environment and the bytes of the file.
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gwrelay.config import TABLE, Setting, Settings
from gwrelay.errors import ConfigError
from gwrelay.kinds import Kind
from gwrelay.notation import read_destination

#: Variables of these names belong to the tests and the benches, not to the gateway.
RESERVED_VARIABLES = ("GWRELAY_TEST_", "GWRELAY_BENCH_")
CONFIG_VARIABLE = "GWRELAY_CONFIG"
#: Origin of a value that only stands in.
NOT_GIVEN = "not given"
_FLAGS = {setting.flag: setting for setting in TABLE.values()}
_VARIABLES = {setting.variable: setting.flag for setting in TABLE.values()}
#: The key of the file whose tables hold what is particular to a destination.
DESTINATION = "destination"
_PER_DESTINATION = {s.flag: field for field, s in TABLE.items() if s.per_destination}


class Given(NamedTuple):
    """A value as written, in parts when it is a list, and where it was written."""

    parts: tuple[str, ...]
    origin: str


class Loaded(NamedTuple):
    """`given` is by flag, in the table's order; `destinations` by destination, then by flag."""

    settings: Settings
    given: dict[str, Given]
    destinations: dict[str, dict[str, Given]]


def load(
    flags: Mapping[str, Sequence[str]],
    environ: Mapping[str, str],
    file: tuple[str, bytes] | None,
    machine_name: str,
    *,
    spool: str = "",
) -> Loaded:
    """Choose and check every setting.

    `flags` holds what was given, by flag, without dashes; `file` is the TOML file's name and
    bytes; `machine_name` and `spool` stand in for --hostname and --spool.  Raises ConfigError
    with one line for each problem, naming its source and what would be right.
    """
    problems: list[str] = []
    document = _parse(*file) if file else {}
    name = file[0] if file and file[0].isprintable() else repr(file and file[0])
    tables = document.pop(DESTINATION, {})
    chosen = _defaults(machine_name)
    if spool:
        chosen["spool"] = Given((spool,), NOT_GIVEN)
    chosen |= _from_file(name, document, problems)
    chosen |= _from_environment(environ, problems)
    chosen |= {flag: Given(tuple(texts), f"--{flag}") for flag, texts in flags.items()}
    given: dict[str, Given] = {}
    values = _read_all(TABLE, chosen, given, problems)
    destinations: dict[str, dict[str, Given]] = {}
    values["destinations"] = _read_destinations(name, tables, destinations, problems)
    if not problems:
        settings = Settings(**values)
        problems = _contradictions(settings, given)
    if problems:
        raise ConfigError("\n".join(problems))
    return Loaded(settings, given, destinations)


def _read_all(
    table: Mapping[str, Setting],
    chosen: Mapping[str, Given],
    given: dict[str, Given],
    problems: list[str],
) -> dict[str, Any]:
    """The values by field; fills `given`."""
    values = {}
    for field, setting in table.items():
        try:
            given[setting.flag] = _split(setting, chosen.get(setting.flag))
            values[field] = _read(setting, given[setting.flag])
        except ConfigError as error:
            problems.append(str(error))
    return values


def _defaults(machine_name: str) -> dict[str, Given]:
    defaults = {
        flag: Given((setting.default,), "default")
        for flag, setting in _FLAGS.items()
        if setting.default is not None
    }
    return defaults | {"hostname": Given((machine_name,), "the machine's own name")}


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, Given]:
    found = {}
    for name in sorted(environ):
        if not name.startswith("GWRELAY_") or name.startswith(RESERVED_VARIABLES):
            continue
        if name in _VARIABLES:
            found[_VARIABLES[name]] = Given((environ[name],), name)
        elif name != CONFIG_VARIABLE:
            known = (*_VARIABLES, CONFIG_VARIABLE)
            problems.append(f"{name!r}: unknown variable{_nearest(name, known)}")
    return found


def _parse(name: str, content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        name = name if name.isprintable() else repr(name)
        raise ConfigError(
            f"{name}: not a TOML file: {error}; write lines like max-hops = 100"
        ) from None


def _from_file(name: str, document: Mapping[str, Any], problems: list[str]) -> dict[str, Given]:
    found = {}
    for key, value in document.items():
        if key not in _FLAGS:
            nearest = _nearest(key, (*_FLAGS, DESTINATION))
            problems.append(f"{name}: unknown key {key!r}{nearest}")
            continue
        texts = _as_texts(_FLAGS[key].kind, value, f"{name}: {key}", problems)
        if texts is not None:
            found[key] = Given(texts, f"{name}: {key}")
    return found


def _as_texts(kind: Kind, value: Any, origin: str, problems: list[str]) -> tuple[str, ...] | None:
    """What a key of the file has, as people would write it in a flag."""
    values = value if isinstance(value, list) and kind.repeatable else [value]
    if any(isinstance(one, bool) or not isinstance(one, str | int | float) for one in values):
        problems.append(f"{origin}: neither text nor a number; {kind.right}, in quotes")
        return None
    return tuple(str(one) for one in values)


_RIGHT_TABLE = 'write a table like [destination."example.com"]'


def _read_destinations(
    name: str, tables: Any, given: dict[str, dict[str, Given]], problems: list[str]
) -> dict[str, dict[str, Any]]:
    """What the tables [destination."..."] have, by destination and field; fills `given`."""
    if not isinstance(tables, dict):
        problems.append(f"{name}: {DESTINATION}: is not a table; {_RIGHT_TABLE}")
        return {}
    found: dict[str, dict[str, Any]] = {}
    for key, table in tables.items():
        origin = f'{name}: [{DESTINATION}."{key}"]' if key.isprintable() else f"{name}: {key!r}"
        try:
            destination = read_destination(key)
        except ValueError as error:
            problems.append(f"{origin}: {key!r} {error}; {_RIGHT_TABLE}")
            continue
        if not isinstance(table, dict):
            problems.append(f"{origin}: is not a table; {_RIGHT_TABLE}, with its keys below")
        elif destination in found:
            problems.append(f"{origin}: {destination} has a table already; write one of them")
        else:
            given[destination] = {}
            found[destination] = _read_table(origin, table, given[destination], problems)
    return found


def _read_table(
    origin: str, table: Mapping[str, Any], given: dict[str, Given], problems: list[str]
) -> dict[str, Any]:
    chosen = {}
    for key, value in table.items():
        if key in _PER_DESTINATION:
            texts = _as_texts(_FLAGS[key].kind, value, f"{origin} {key}", problems)
            if texts is not None:
                chosen[key] = Given(texts, f"{origin} {key}")
        elif key in _FLAGS:
            allowed = ", ".join(_PER_DESTINATION)
            problems.append(f"{origin}: {key} is for all destinations; one may have {allowed}")
        else:
            nearest = _nearest(key, tuple(_PER_DESTINATION))
            problems.append(f"{origin}: unknown key {key!r}{nearest}")
    rows = {field: TABLE[field] for flag, field in _PER_DESTINATION.items() if flag in chosen}
    return _read_all(rows, chosen, given, problems)


def _nearest(name: str, names: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _split(setting: Setting, given: Given | None) -> Given:
    """Cut a list at its commas.  Raises ConfigError for what must be given and is not."""
    if given is None:
        flag, metavar = setting.flag, setting.kind.metavar
        ways = f'--{flag} {metavar}, {setting.variable}={metavar}, or {flag} = "{metavar}"'
        raise ConfigError(f"--{flag}: not given; write {ways} in the --config file")
    if setting.default == "" and all(not part for part in given.parts):
        return Given((), given.origin)
    if not setting.kind.repeatable:
        return given
    parts = (part.strip() for text in given.parts for part in text.split(","))
    return Given(tuple(parts), given.origin)


def _read(setting: Setting, given: Given) -> Any:
    if not given.parts and setting.default != "":
        raise ConfigError(f"{given.origin}: the list is empty; {setting.kind.right}")
    values = []
    for part in given.parts:
        try:
            if not part:
                raise ValueError("is empty")
            values.append(setting.kind.read(part))
        except ValueError as error:
            right = setting.kind.right
            raise ConfigError(f"{given.origin}: {part!r} {error}; {right}") from None
    if setting.kind.repeatable:
        return tuple(value for several in values for value in several)
    return values[0] if values else ""


def _contradictions(settings: Settings, given: Mapping[str, Given]) -> list[str]:
    """What is wrong though each value alone is right."""
    found = []
    fixed = [endpoint for endpoint in settings.endpoints if endpoint.port]
    for endpoint in sorted(set(fixed)):
        if fixed.count(endpoint) > 1:
            found.append(f"{given['listen'].origin}: {endpoint} is there twice; give it once")
        if any(endpoint == hop[:2] for hop in settings.smarthost):
            found.append(
                f"{given['smarthost'].origin}: {endpoint} is where this gateway listens; "
                "name another next hop, or mail would go round in circles"
            )
    for field, other in (("tls-cert", "tls-key"), ("tls-key", "tls-cert")):
        if given[field].parts and not given[other].parts:
            found.append(f"{given[field].origin}: is nothing without --{other}; give both, or none")
    for address in settings.listen:
        if address.implicit_tls and not settings.tls_cert:
            found.append(
                f"{given['listen'].origin}: {address} is for TLS alone, and there is no "
                "certificate; name it with --tls-cert and --tls-key"
            )
    if settings.mx_ttl_min_s > settings.mx_ttl_max_s:
        low, high = given["mx-ttl-min"], given["mx-ttl-max"]
        found.append(
            f"{low.origin}: {low.parts[0]!r} is more than the mx-ttl-max of {high.parts[0]!r} "
            f"({high.origin}); write a smaller mx-ttl-min or a larger mx-ttl-max"
        )
    if settings.delay_warning_s and settings.delay_warning_s >= settings.lifetime_s:
        warning, end = given["delay-warning"], given["lifetime"]
        found.append(
            f"{warning.origin}: {warning.parts[0]!r} is not less than the lifetime of "
            f"{end.parts[0]!r} ({end.origin}); write a shorter delay-warning, or 0 for none"
        )
    if settings.smarthost_auth and not settings.smarthost:
        found.append(
            f"{given['smarthost-auth'].origin}: there is no smart host to log in to; name it with "
            "--smarthost, or leave this out"
        )
    if settings.events and settings.events == settings.log:
        found.append(f"{given['events'].origin}: the log goes to the same file; name another one")
    return found
