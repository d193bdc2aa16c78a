"""Objects from outside the package, named by the user: `file.py:Name` or `package.module:Name`.

Loading one runs its file, as `python file.py` would: a reference is written by the user into a configuration of his
own, never taken from data or from another party's message.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from fedbraid.errors import UserError


def is_reference(name: str) -> bool:
    """Whether the name has the form of a reference.

    >>> is_reference("mine.py:Method"), is_reference("lorm"), is_reference("timm:deit_tiny")
    (True, False, False)
    """
    place, colon, attribute = name.rpartition(":")
    return bool(colon) and attribute.isidentifier() and (place.endswith(".py") or "." in place)


def load_object(reference: str) -> object:
    """The object of a reference; `UserError` where there is no such file, module or name, or loading it fails."""
    place, _, attribute = reference.rpartition(":")
    module = _of_file(Path(place).expanduser()) if place.endswith(".py") else _of_name(place)
    if not hasattr(module, attribute):
        raise UserError(f"{place} has no {attribute!r}; write the name of what it defines after the colon")
    return getattr(module, attribute)


def absolute(reference: str) -> str:
    """The reference with its file's absolute path, so that it holds in any working directory."""
    place, _, attribute = reference.rpartition(":")
    return f"{Path(place).expanduser().resolve()}:{attribute}" if place.endswith(".py") else reference


def _of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"there is no file {path}; a reference is written file.py:Name")
    # One module a file, however often and by whichever path it is named: its classes are the same objects then.
    name = f"fedbraid_plugin_{path.stem}_{abs(hash(str(path.resolve())))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be loaded as a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises, told with its place
        del sys.modules[name]
        raise UserError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def _of_name(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"there is no module {name!r} ({error}); a reference is written package.module:Name") from error
    except Exception as error:  # whatever the user's module raises, told with its name
        raise UserError(f"{name} cannot be loaded: {type(error).__name__}: {error}") from error
