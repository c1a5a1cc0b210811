"""Options of the commands: fields of frozen dataclasses become flags, keys of a config file and lines of --help.

    @dataclass(frozen=True)
    class Recipe(Options):
        epochs: int = option(30, "passes over the data", at_least=1)
        lr: float = option(1e-5, "peak learning rate", above=0)

    recipe = parse(Recipe, argv, prog="python src/main.py", description="Trains.")

A field whose type is another such class nests it; its options are flags of the same command. Every option stands once,
with its default, its bounds and what it means. tyro and jsonargparse were considered: neither keeps flat flags with
two spellings over nested classes, nor an error of one line. Imports nothing that takes time.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from context_i2w.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
WRITTEN_BY_RUNS = {"about", "command", "torch"}  # keys of a run's config.json that are no options


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
    commas: bool = False,
    required: bool = False,
    positional: bool = False,
) -> Any:
    """A dataclass field that is an option. flag: its name if not the field's; also: further names of it.

    Types: int, float, str, bool, Path, each of them or None; tuple[int, ...] and so on (several values, each in bounds,
    or the flag several times; commas: texts may stand in one word); Mapping (NAME=VALUE, several times).
    positional: goes by its place.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most}
    metadata = {"about": about, "flag": flag, "also": also, "metavar": metavar, "choices": choices, **bounds}
    metadata |= {"commas": commas, "required": required, "positional": positional}
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
    for name, kind in typing.get_type_hints(type(options)).items():
        spec = type(options).__dataclass_fields__.get(name)
        if spec is not None and not is_dataclass(kind) and typing.get_origin(kind) is not typing.ClassVar:
            check_value(name, getattr(options, name), kind, spec.metadata)


def check_value(name: str, value: Any, kind: Any, bounds: Mapping[str, Any]) -> None:
    """Raises OptionError if the value is not of the kind, not finite, or out of bounds."""
    allowed = _alternatives(kind)
    if value is None and type(None) in allowed:
        return
    if not any(_is_of(value, one) for one in allowed):
        raise OptionError(name, value, f"{_named(kind)} is expected")
    if isinstance(value, float) and not math.isfinite(value):
        raise OptionError(name, value, "a finite number is expected")
    choices = bounds.get("choices")
    values = value if isinstance(value, tuple) else (value,)
    if choices and not all(one in choices for one in values):
        raise OptionError(name, value, f"one of {', '.join(map(str, choices))} is expected")
    if (low := bounds.get("at_least")) is not None and any(one < low for one in values):
        raise OptionError(name, value, f"at least {low} is needed")
    if (low := bounds.get("above")) is not None and any(one <= low for one in values):
        raise OptionError(name, value, f"more than {low} is needed")
    if (high := bounds.get("at_most")) is not None and any(one > high for one in values):
        raise OptionError(name, value, f"at most {high} is possible")


def parse(
    options: type[T],
    argv: Sequence[str] | None,
    *,
    prog: str,
    description: str,
    recipe: typing.Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda given: {},
    checked: typing.Callable[[Mapping[str, Any]], None] = lambda given: None,
    shown: Mapping[str, Mapping[str, Any]] | None = None,
    more_help: typing.Callable[[Sequence[str]], str] = lambda argv: "",
) -> T:
    """The command's options: flags, else a config file's values (--config FILE), else the recipe's, else the defaults.

    recipe: from what was given to other defaults, by key. checked: looks at what was given as a whole.
    shown: name -> defaults of a recipe, for --help. more_help: from the arguments to what follows the options there.
    An error is one line and exit status 2.
    """
    argv = [_hyphens(word) for word in (sys.argv[1:] if argv is None else argv)]
    epilog = more_help(argv) if {"-h", "--help"} & set(argv) else None
    parser = Parser(prog=prog, description=description, epilog=epilog, allow_abbrev=False)
    _add_flags(parser, options, shown or {})
    given = vars(parser.parse_args(argv))
    config = given.pop("config", None)
    try:
        values = (read_config(Path(config), options) if config else {}) | given
        checked(values)
        return build(options, {**recipe(values), **values})
    except OptionError as error:
        parser.error(f"--{error.name.replace('_', '-')} {error.value}: {error.reason}")
    except UserError as error:
        parser.error(str(error))


def build(options: type[T], values: Mapping[str, Any]) -> T:
    """The (nested) options from a flat mapping of fields; defaults for the rest. Raises OptionError."""
    own = {}
    for spec, kind, key in _fields(options):
        if _is_nested(kind):
            own[spec.name] = build(kind, values)
        elif key in values:
            own[spec.name] = _of_kind(values[key], kind)
    try:
        return options(**own)
    except OptionError as error:
        keys = {spec.name: key for spec, _, key in _fields(options)}
        raise OptionError(keys.get(error.name, error.name), error.value, error.reason) from None


def _of_kind(value: Any, kind: Any) -> Any:
    """Lists of the command line as tuples, texts as paths."""
    if isinstance(value, list) and typing.get_origin(kind) is tuple:
        value = tuple(value)
    if isinstance(value, str) and Path in _alternatives(kind):
        return Path(value)
    if isinstance(value, tuple) and typing.get_args(kind)[:1] == (Path,):
        return tuple(map(Path, value))
    return value


def flat(options: Any) -> dict[str, Any]:
    """All values by key (a flag's name with underscores), nested ones too: what `build` and a config file take."""
    values: dict[str, Any] = {}
    for spec, kind, key in _fields(type(options)):
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
    known = {leaf.key: leaf for leaf in _leaves(options)}
    values = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name in known:
            spec, kind = known[name].spec, known[name].kind
            values[name] = tuple(_tuples(value)) if typing.get_origin(kind) is tuple and value is not None else value
            try:
                check_value(key, values[name], kind, spec.metadata)
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
    lines = [f"  {spec.name}={_default(spec)!r}: {spec.metadata.get('about', '')}" for spec in fields(options)]
    return "\n".join(line.rstrip(": ") for line in lines)


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose help shows defaults and whose errors are one line and exit status 2."""

    def __init__(self, **settings):
        super().__init__(formatter_class=_Formatter, **settings)

    def error(self, message: str) -> NoReturn:
        print(f"error: {_short(message)}; `{self.prog} --help` explains the options", file=sys.stderr)
        sys.exit(2)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Adds "(default: …)" only where there is one to speak of."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default in (None, argparse.SUPPRESS) or action.default is False or action.default == []:
            return action.help or ""
        return f"{action.help} (default: %(default)r)"


class _Pairs(argparse.Action):
    """NAME=VALUE into a dict, the value as Python reads it."""

    def __call__(self, parser, namespace, value, option_string=None):
        name, equals, text = value.partition("=")
        try:
            found = {name: ast.literal_eval(text)}
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found, equals = {name: text}, equals if text.replace("-", "").isalnum() else ""
        if not name or not equals:
            parser.error(f"{option_string} {value}: write it as name=value, for instance queries=8")
        setattr(namespace, self.dest, (getattr(namespace, self.dest, None) or {}) | found)


class _Several(argparse.Action):
    """Several values, or the flag several times."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, (*getattr(namespace, self.dest, ()), *values))


class _Commas(_Several):
    """Values with commas between them."""

    def __call__(self, parser, namespace, values, option_string=None):
        words = [word for value in values for word in value.split(",") if word]
        super().__call__(parser, namespace, words, option_string)


def _add_flags(parser: Parser, options: type, shown: Mapping[str, Mapping[str, Any]]) -> None:
    groups: dict[str | None, Any] = {None: parser}
    for leaf in _leaves(options):
        if "about" not in leaf.spec.metadata:
            continue  # set by the program alone
        if leaf.title not in groups:
            groups[leaf.title] = parser.add_argument_group(leaf.title)
        settings = _flag_settings(leaf.spec, leaf.kind) | {"default": argparse.SUPPRESS, "dest": leaf.key}
        settings |= {"help": _help(leaf, shown).replace("%", "%%"), "required": leaf.spec.metadata["required"]}
        if leaf.spec.metadata["positional"]:
            _add_positional(groups[leaf.title], leaf, settings)
        else:
            groups[leaf.title].add_argument(leaf.flag, *leaf.spec.metadata["also"], **settings)
    parser.add_argument(
        "--config", metavar="FILE", default=argparse.SUPPRESS, help="TOML, or a run's config.json; flags win over it"
    )


def _add_positional(group: Any, leaf: _Leaf, settings: dict[str, Any]) -> None:
    """Argparse wants neither dest nor required of an argument that goes by its place."""
    settings = {name: value for name, value in settings.items() if name not in ("dest", "required", "action")}
    count = {"nargs": "+" if leaf.spec.metadata["required"] else "*"} if "nargs" in settings else {}
    if not leaf.spec.metadata["required"] and not count:
        count = {"nargs": "?"}
    group.add_argument(leaf.key, **settings | count)


def _flag_settings(spec: dataclasses.Field, kind: Any) -> dict[str, Any]:
    kinds = [one for one in _alternatives(kind) if one is not type(None)]
    metavar = {"metavar": spec.metadata["metavar"]} if spec.metadata["metavar"] else {}
    if kinds == [bool]:
        return {"action": argparse.BooleanOptionalAction if spec.default is True else "store_true"}
    if typing.get_origin(kinds[0]) is tuple:
        element = typing.get_args(kinds[0])[0]
        return {"action": _Commas if spec.metadata["commas"] else _Several, "nargs": "+", "type": element, **metavar}
    if typing.get_origin(kinds[0]) or kinds[0] is Mapping:
        return {"action": _Pairs, "metavar": "NAME=VALUE"}
    return {"type": kinds[0], "choices": list(spec.metadata["choices"] or ()) or None, **metavar}


def _help(leaf: _Leaf, shown: Mapping[str, Mapping[str, Any]]) -> str:
    default = _default(leaf.spec)
    shown_default = ",".join(map(str, default)) if isinstance(default, tuple) else repr(default)
    told = [] if default in (None, (), {}) or default is False else [shown_default]
    told += [f"{name}: {of[leaf.key]!r}" for name, of in shown.items() if leaf.key in of]
    choices = leaf.spec.metadata["choices"]
    meanings = [f"{name}: {text}" for name, text in choices.items()] if isinstance(choices, Mapping) else []
    about = "; ".join([leaf.spec.metadata["about"], *meanings])
    return about + (f" (default: {'; '.join(told)})" if told else "")


class _Leaf(typing.NamedTuple):
    """An option: its field and type, its key, the title of its part of the help."""

    spec: dataclasses.Field
    kind: Any
    key: str
    title: str | None

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")


def _leaves(options: type, title: str | None = None) -> Iterator[_Leaf]:
    for spec, kind, key in _fields(options):
        if _is_nested(kind):
            yield from _leaves(kind, spec.metadata.get("title") or title)
        else:
            yield _Leaf(spec, kind, key, title)


def _is_nested(kind: Any) -> bool:
    return is_dataclass(kind)


def _fields(options: type) -> list[tuple[dataclasses.Field, Any, str]]:
    """(field, type, key) of an options class's own fields."""
    kinds = typing.get_type_hints(options)
    return [(spec, kinds[spec.name], key_of(spec)) for spec in fields(options)]


def key_of(spec: dataclasses.Field) -> str:
    """An option's key: its flag with underscores."""
    return (spec.metadata.get("flag") or spec.name).replace("-", "_")


def _default(spec: dataclasses.Field) -> Any:
    return spec.default if spec.default_factory is dataclasses.MISSING else spec.default_factory()


def _hyphens(word: str) -> str:
    """`--eval_mode` is the same as `--eval-mode`."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _alternatives(kind: Any) -> tuple[Any, ...]:
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if union else (kind,)


def _is_of(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return kind is Any or isinstance(value, typing.get_origin(kind) or kind)


def _named(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", Path: "a path"}
    return " or ".join(
        names.get(one, str(one).replace("typing.", "")) for one in _alternatives(kind) if one is not type(None)
    )


def _tuples(values: Any) -> Iterator[Any]:
    """JSON and TOML have no tuples."""
    for value in values if isinstance(values, list | tuple) else (values,):
        yield tuple(_tuples(value)) if isinstance(value, list) else value


def _short(message: str) -> str:
    return message if len(message) <= 600 else f"{message[:500]} … ({len(message)} characters)"
