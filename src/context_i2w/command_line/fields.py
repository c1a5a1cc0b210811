"""What an option is: a field of a frozen dataclass, with its default, its bounds, and the check of its value."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from context_i2w.errors import UserError

LARGEST = 1 << 62  # of whole numbers: beyond it torch's and the system's overflow


class OptionError(UserError):
    """A value that an option refuses; `parse` says it with the flag's name."""

    def __init__(self, name: str, value: Any, reason: str):
        super().__init__(f"{name} {value!r}: {reason}")
        self.name, self.value, self.reason = name, value, reason


def option(
    default: Any,
    about: str,
    *,
    flag: str | None = None,
    also: tuple[str, ...] = (),
    metavar: str | None = None,
    choices: Collection[Any] | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    count: int | None = None,
    commas: bool = False,
    required: bool = False,
    positional: bool = False,
) -> Any:
    """A dataclass field that is an option. flag: its name if not the field's; also: further names of it.

    Types: int, float, str, bool, Path, each of them or None; tuple[int, ...] and so on (several values, each in bounds,
    or the flag several times; count: so many or none; commas: texts may stand in one word); Mapping (NAME=VALUE,
    several times). positional: goes by its place.
    """
    metadata = {name: value for name, value in locals().items() if name != "default"}
    made = {"default_factory": lambda: dict(default)} if isinstance(default, Mapping) else {"default": default}
    return field(metadata=metadata, **made)


def nested(options: Any, title: str | None = None) -> Any:
    """A dataclass field that holds further options, a class of them; title: of their part of --help."""
    return field(default_factory=options, metadata={"title": title})


@dataclass(frozen=True)
class Options:
    """Base of option classes: every value is checked as it is set. Raises OptionError."""

    def __post_init__(self):
        check(self)


def check(options: Any) -> None:
    """Raises OptionError for a field of a dataclass whose value is of another type, or out of its bounds."""
    for spec, kind, _ in fields_of(type(options)):
        if not is_dataclass(kind):
            check_value(spec.name, getattr(options, spec.name), kind, spec.metadata)


def check_value(name: str, value: Any, kind: Any, bounds: Mapping[str, Any]) -> None:
    """Raises OptionError if the value is not of the kind, not finite, or out of bounds."""
    allowed = alternatives(kind)
    if value is None and type(None) in allowed:
        return
    if not any(_is_of(value, one) for one in allowed):
        raise OptionError(name, value, f"{_named(kind)} is expected")
    if isinstance(value, float) and not math.isfinite(value):
        raise OptionError(name, value, "a finite number is expected")
    values = value if isinstance(value, tuple) else (value,)
    if bounds.get("count") and len(values) not in (0, bounds["count"]):
        raise OptionError(name, value, f"{bounds['count']} values are expected")
    for one in values:
        if (choices := bounds.get("choices")) and one not in choices:
            raise OptionError(name, one, f"one of {', '.join(map(str, choices))} is expected")
        if (low := bounds.get("at_least")) is not None and one < low:
            raise OptionError(name, one, f"at least {low} is needed")
        if (low := bounds.get("above")) is not None and one <= low:
            raise OptionError(name, one, f"more than {low} is needed")
        if (high := bounds.get("at_most")) is not None and one > high:
            raise OptionError(name, one, f"at most {high} is possible")
        if isinstance(one, int) and abs(one) > LARGEST:
            raise OptionError(name, one, f"at most {LARGEST} is possible")


class Leaf(typing.NamedTuple):
    """An option: its field and type, its key, the title of its part of the help."""

    spec: dataclasses.Field
    kind: Any
    key: str
    title: str | None

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")


def leaves(options: type, title: str | None = None) -> Iterator[Leaf]:
    for spec, kind, key in fields_of(options):
        if isinstance(kind, type) and is_dataclass(kind):
            yield from leaves(kind, spec.metadata.get("title") or title)
        else:
            yield Leaf(spec, kind, key, title)


def fields_of(options: type) -> list[tuple[dataclasses.Field, Any, str]]:
    """(field, type, key) of an options class's own fields."""
    kinds = typing.get_type_hints(options)
    return [(spec, kinds[spec.name], key_of(spec)) for spec in fields(options)]


def key_of(spec: dataclasses.Field) -> str:
    """An option's key: its flag with underscores."""
    return (spec.metadata.get("flag") or spec.name).replace("-", "_")


def default_of(spec: dataclasses.Field) -> Any:
    return spec.default if spec.default_factory is dataclasses.MISSING else spec.default_factory()


def alternatives(kind: Any) -> tuple[Any, ...]:
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)


def _is_of(value: Any, kind: Any) -> bool:
    if kind in (int, float) and isinstance(value, int):
        return not isinstance(value, bool)
    return kind is Any or isinstance(value, typing.get_origin(kind) or kind)


def _named(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", Path: "a path"}
    kinds = [one for one in alternatives(kind) if one is not type(None)]
    return " or ".join(names.get(one, str(one).replace("typing.", "")) for one in kinds)
