"""The one kind of error that a user can mend, and how scripts show it."""

import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """Wrong input, said in one clear line: the file, the value, the remedy."""


def one_line(error: Exception, most: int = 1000) -> str:
    """An error's message without line breaks, cut in the middle when long: its end is the remedy."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 300]} ... {text[-300:]}"


def exit_on_user_error(main: Callable[..., None]) -> Callable[..., None]:
    """Wraps a `main`: a UserError, or what the system refuses, is one line on stderr and status 2; Ctrl-C 130."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except (UserError, OSError) as error:
            print(f"error: {one_line(error)}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            sys.exit(130)

    return wrapped
