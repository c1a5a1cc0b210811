"""Options from plain values and back: of a command line, a config file, a checkpoint."""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from context_i2w.command_line.fields import OptionError, alternatives, check, check_value, default_of, fields_of, leaves
from context_i2w.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
WRITTEN_BY_RUNS = {"about", "command", "torch"}  # keys of a run's config.json that are no options


def build(options: type[T], values: Mapping[str, Any]) -> T:
    """The (nested) options from a flat mapping of fields; defaults for the rest. Raises OptionError, UserError."""
    if unknown := values.keys() - {leaf.key for leaf in leaves(options)}:
        raise UserError(f"no options {', '.join(sorted(unknown))}")
    return _built(options, values)


def _built(options: type[T], values: Mapping[str, Any]) -> T:
    own = {}
    for spec, kind, key in fields_of(options):
        if isinstance(kind, type) and is_dataclass(kind):
            own[spec.name] = _built(kind, values)
        elif key in values:
            own[spec.name] = _of_kind(values[key], kind)
    try:
        return options(**own)
    except OptionError as error:
        keys = {spec.name: key for spec, _, key in fields_of(options)}
        raise OptionError(keys.get(error.name, error.name), error.value, error.reason) from None


def _of_kind(value: Any, kind: Any) -> Any:
    """Lists, and a value alone, as tuples, texts as paths: TOML, JSON and the command line have neither."""
    if typing.get_origin(kind) is tuple and value is not None:
        values = value if isinstance(value, list | tuple) else (value,)
        return tuple(_of_kind(one, typing.get_args(kind)[0]) for one in values)
    return Path(value) if isinstance(value, str) and Path in alternatives(kind) else value


def flat(options: Any) -> dict[str, Any]:
    """All values by key (a flag's name with underscores), nested ones too: what `build` and a config file take."""
    values: dict[str, Any] = {}
    for spec, kind, key in fields_of(type(options)):
        value = getattr(options, spec.name)
        values |= flat(value) if is_dataclass(kind) else {key: value}
    return values


def with_values(options: T, **values: Any) -> T:
    """The options with other values, wherever they are nested."""
    return build(type(options), flat(options) | values)


def read_config(path: Path, options: type) -> dict[str, Any]:
    """Values by field from a TOML file or a run's config.json. Raises UserError naming the key that does not fit."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--config {path}: can't be read as {path.suffix[1:].upper() or 'TOML'} ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {path}: keys and values are expected, it holds a {type(content).__name__}")
    known = {leaf.key: leaf for leaf in leaves(options)}
    values = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name in known:
            values[name] = _of_kind(value, known[name].kind)
            try:
                check_value(key, values[name], known[name].kind, known[name].spec.metadata)
            except OptionError as error:
                raise UserError(f"--config {path}: {error}") from None
        elif key not in WRITTEN_BY_RUNS:
            raise UserError(f"--config {path}: unknown key {key!r}; `--help` names the options")
    return values


def options_from(options: type[T], values: Any, origin: str) -> T:
    """A mapper's or an objective's own options from a plain mapping. Raises UserError that begins with `origin`."""
    if not isinstance(values, Mapping):
        raise UserError(f"{origin}: options are expected, not {values!r}")
    known = [spec.name for spec in fields(typing.cast(type, options))]
    if unknown := [str(name) for name in values if name not in known]:
        raise UserError(f"{origin} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
    try:
        made = options(**values)
        check(made)
        return made
    except OptionError as error:
        raise UserError(f"{origin} {error.name}={error.value}: {error.reason}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{origin}: {error}") from None


def describe(options: type) -> str:
    """One line for each option of a mapper or an objective, for --help."""
    lines = [f"  {spec.name}={default_of(spec)!r}: {spec.metadata.get('about', '')}" for spec in fields(options)]
    return "\n".join(line.rstrip(": ") for line in lines)
