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

from context_i2w.command_line.fields import OptionError, Options, key_of, nested, option
from context_i2w.command_line.flags import parse
from context_i2w.command_line.values import build, describe, flat, options_from, read_config, with_values

__all__ = [
    "OptionError",
    "Options",
    "build",
    "describe",
    "flat",
    "key_of",
    "nested",
    "option",
    "options_from",
    "parse",
    "read_config",
    "with_values",
]
