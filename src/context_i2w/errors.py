"""The one kind of error that a user can mend, and how scripts show it."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Our commands as pip installs them; in a clone of the repository they are scripts.
INSTALLED = {
    "python src/main.py": "context-i2w-train",
    "python src/eval_retrieval.py": "context-i2w-evaluate",
    "python src/demo.py": "context-i2w-search",
}
IN_CLONE = Path(__file__).parents[1].name == "src"


class UserError(Exception):
    """Wrong input, said in one clear line: the file, the value, the remedy."""


class MissingExtra(UserError, ImportError):
    """A package that comes with an extra is not installed."""


def one_line(error: Exception, most: int = 1000) -> str:
    """An error's message without line breaks, cut in the middle when long: its end is the remedy."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 300]} ... {text[-300:]}"


def as_typed(text: str) -> str:
    """A text that names our commands, as they are typed here: by the names that pip gives them outside of a clone."""
    for script, installed in ({} if IN_CLONE else INSTALLED).items():
        text = text.replace(script, installed)
    return text


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Around imports of what only `pip install "context-i2w[name]"` brings. Raises MissingExtra where it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        remedy = f'`pip install "context-i2w[{name}]"`, in a clone `pip install -e ".[{name}]"`'
        raise MissingExtra(f"{error.name} is not installed; the extra {name!r} brings it: {remedy}") from None


@contextlib.contextmanager
def naming_dead_readers() -> Iterator[None]:
    """Raises UserError in place of what DataLoader raises, anywhere, when one of its processes dies."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        died = f"a reading process died ({str(error).splitlines()[0].strip()})"
        raise UserError(f"{died}; if nobody ended it, memory ran out: lower --workers") from None


def exit_on_user_error(main: Callable[..., None]) -> Callable[..., None]:
    """Wraps a `main`: a UserError, or what the system refuses, is one line on stderr and status 2; Ctrl-C 130."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except (UserError, OSError) as error:
            print(f"error: {as_typed(one_line(error))}", file=sys.stderr)
            sys.exit(2)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("context_i2w"):
                raise
            remedy = "`source setenv.sh` in this terminal brings what is needed, outside of a clone `pip install .`"
            print(f"error: {error.name} is not installed for {sys.executable}; {remedy}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            sys.exit(130)

    return wrapped
