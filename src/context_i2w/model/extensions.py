"""Mappers, objectives and benchmarks by name: ours by a short one, the user's own by path.

A path is `my_package.my_module:MyMapper`, or `my_file.py:MyMapper` for a file (from the working folder, or beside the
checkpoint that names it). What is named on the command line is imported; what a checkpoint names is the code of others
and is imported only with the user's consent.
"""

import functools
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from context_i2w.errors import UserError


def find_class(
    name: str, known: Mapping[str, Any], kind: str, trusted: bool = True, beside: Path | None = None
) -> type[Any]:
    """The class of that name.

    known: short name -> path of ours. kind: "mapper", …: what errors call it. trusted: whether a path may be imported.
    beside: a folder in which a file is looked for before the working folder.
    Raises UserError for an unknown name, without consent, and for whatever goes wrong with the import.
    """
    if name in known:
        return _load(known[name], kind)
    if ":" not in name:
        raise UserError(
            f"unknown {kind} {name!r}; known are {', '.join(known)}, or one of your own, my_file.py:MyClass"
        )
    module = name.rpartition(":")[0]
    path = _source(module, beside)
    path_of_class = f"{path or module}:{name.rpartition(':')[2]}"
    if not trusted and path_of_class not in _imported:
        raise UserError(
            f"the {kind} {name!r} is code of its own, {path or f'the module {module}'}, which would be imported; "
            "if you trust it, give --trust-code (trust_code=True)"
        )
    found = _load(path_of_class, kind)
    _imported.add(path_of_class)  # with consent, which needs no second asking
    return found


def source_of(kind: type) -> Path | None:
    """The user's own file that a class was loaded from by its path; None for a class of an installed module."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return Path(file) if file and kind.__module__.startswith(_PREFIX) else None


def name_of(kind: type, known: Mapping[str, str]) -> str:
    """What `find_class` finds the class by again: the reverse of it."""
    path = f"{kind.__module__}:{kind.__qualname__}"
    short = {path: name for name, path in known.items()}
    source = source_of(kind)
    return short.get(path) or (f"{source.name}:{kind.__qualname__}" if source else path)


_imported: set[str] = set()
_PREFIX = "context_i2w_extension_"


def _source(module: str, beside: Path | None) -> Path | None:
    """The file that is meant; None for a dotted module."""
    if not module.endswith(".py"):
        return None
    found = [path for path in ([beside / module] if beside else []) + [Path(module)] if path.is_file()]
    return found[0].resolve() if found else Path(module)


@functools.cache
def _load(path: str, kind: str) -> type[Any]:
    module, _, name = path.rpartition(":")
    try:
        found = _import_file(Path(module)) if module.endswith(".py") else _import_module(module)
        if not hasattr(found, name):
            own = [key for key, value in vars(found).items() if getattr(value, "__module__", None) == found.__name__]
            raise UserError(f"{kind} {path}: no {name} in it; there are {', '.join(own) or 'no classes'}")
        return getattr(found, name)
    except UserError:
        raise
    except Exception as error:  # of whatever kind: it is the user's code that runs
        raise UserError(f"{kind} {path}: can't be imported ({type(error).__name__}: {error})") from error


def _import_module(module: str):
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    return importlib.import_module(module)


def _import_file(path: Path):
    name = f"{_PREFIX}{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
