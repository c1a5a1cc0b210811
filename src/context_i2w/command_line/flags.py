"""Options as a command's flags: what is typed, what --help shows, how an error is said."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from context_i2w.command_line.fields import Leaf, OptionError, alternatives, default_of, leaves
from context_i2w.command_line.values import build, read_config
from context_i2w.errors import UserError, as_typed

T = TypeVar("T")


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
    raw = argparse.RawDescriptionHelpFormatter
    prog, description = as_typed(prog), as_typed(description)
    parser = Parser(prog=prog, description=description, epilog=epilog, allow_abbrev=False, formatter_class=raw)
    _add_flags(parser, options, shown or {})
    given = vars(parser.parse_args(argv))
    config = given.pop("config", None)
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    try:
        values = (read_config(Path(config), options) if config else {}) | given
        checked(values)
        return build(options, {**recipe(values), **values})
    except OptionError as error:
        parser.error(f"--{error.name.replace('_', '-')} {error.value}: {error.reason}")
    except UserError as error:
        parser.error(str(error))


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line and exit status 2."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {_short(message)}; `{self.prog} --help` explains the options", file=sys.stderr)
        sys.exit(2)


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


class _Commas(argparse.Action):
    """As "extend", of values with commas between them."""

    def __call__(self, parser, namespace, values, option_string=None):
        words = [word for value in values for word in value.split(",") if word]
        setattr(namespace, self.dest, [*getattr(namespace, self.dest, ()), *words])


def _add_flags(parser: Parser, options: type, shown: Mapping[str, Mapping[str, Any]]) -> None:
    groups: dict[str | None, Any] = {None: parser}
    for leaf in leaves(options):
        if "about" not in leaf.spec.metadata:
            continue  # set by the program alone
        if leaf.title not in groups:
            groups[leaf.title] = parser.add_argument_group(leaf.title)
        settings = {"default": argparse.SUPPRESS, "help": _help(leaf, shown).replace("%", "%%")}
        names, settings = _names(leaf, settings | _flag_settings(leaf.spec, leaf.kind))
        groups[leaf.title].add_argument(*names, **settings)
    parser.add_argument(
        "--config", metavar="FILE", default=argparse.SUPPRESS, help="TOML, or a run's config.json; flags win over it"
    )


def _names(leaf: Leaf, settings: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """What argparse calls the option; it wants neither dest nor required of one that goes by its place."""
    required = leaf.spec.metadata["required"]
    if not leaf.spec.metadata["positional"]:
        return [leaf.flag, *leaf.spec.metadata["also"]], settings | {"dest": leaf.key, "required": required}
    settings.pop("action", None)
    optional = {"nargs": "*" if "nargs" in settings else "?"}
    return [leaf.key], settings if required else settings | optional


def _flag_settings(spec: dataclasses.Field, kind: Any) -> dict[str, Any]:
    kinds = [one for one in alternatives(kind) if one is not type(None)]
    metavar = {"metavar": spec.metadata["metavar"]} if spec.metadata["metavar"] else {}
    if kinds == [bool]:
        return {"action": argparse.BooleanOptionalAction if spec.default is True else "store_true"}
    if typing.get_origin(kinds[0]) is tuple:
        several = {"nargs": spec.metadata["count"] or "+", "type": typing.get_args(kinds[0])[0], **metavar}
        return {"action": _Commas if spec.metadata["commas"] else "extend", **several}
    if typing.get_origin(kinds[0]) or kinds[0] is Mapping:
        return {"action": _Pairs, "metavar": "NAME=VALUE"}
    return {"type": kinds[0], "choices": list(spec.metadata["choices"] or ()) or None, **metavar}


def _help(leaf: Leaf, shown: Mapping[str, Mapping[str, Any]]) -> str:
    default = default_of(leaf.spec)
    words = [
        str(word) if str(word).isprintable() else repr(word)
        for word in (default if isinstance(default, tuple) else (default,))
    ]
    told = [] if default in (None, (), {}, "") or default is False else [",".join(words)]
    told += [f"{name}: {of[leaf.key]}" for name, of in shown.items() if leaf.key in of]
    choices = leaf.spec.metadata["choices"]
    meanings = [f"{name}: {text}" for name, text in choices.items()] if isinstance(choices, Mapping) else []
    about = "; ".join([leaf.spec.metadata["about"], *meanings])
    return about + (f" (default: {'; '.join(told)})" if told else "")


def _hyphens(word: str) -> str:
    """`--eval_mode` is the same as `--eval-mode`."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _short(message: str) -> str:
    """One printable line."""
    line = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in message[:600])
    return line if len(message) <= 600 else f"{line} … ({len(message)} characters)"
