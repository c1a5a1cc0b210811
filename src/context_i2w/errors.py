"""The one kind of error that a user can mend, and how scripts show it."""

import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """Wrong input, said in one clear line: the file, the value, the remedy."""


def exit_on_user_error(main: Callable[..., None]) -> Callable[..., None]:
    """Wraps a script's `main`: a UserError becomes one line on stderr and exit status 2, without a traceback."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return wrapped
