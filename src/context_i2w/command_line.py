"""What the command lines of all scripts share."""

import argparse
import sys
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose help shows defaults and whose errors are one line and exit status 2."""

    def __init__(self, **options):
        super().__init__(formatter_class=_Formatter, **options)

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; `{self.prog} --help` explains the options", file=sys.stderr)
        sys.exit(2)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds "(default: …)" only where there is one to speak of."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default in (None, False, argparse.SUPPRESS) or action.default == []:
            return action.help or ""
        return f"{action.help} (default: %(default)r)"
