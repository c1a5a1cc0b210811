"""How the preparation scripts end."""

import functools
import sys
from collections.abc import Callable

from context_i2w.errors import exit_on_user_error


def resumable(main: Callable[[], None]) -> Callable[[], None]:
    """Wraps a script's `main`: Ctrl-C ends it with a line on how to go on, a UserError as everywhere."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on where it was", file=sys.stderr)
            sys.exit(130)

    return exit_on_user_error(wrapped)
