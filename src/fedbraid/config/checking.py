"""Checking: nested values become a configuration, or an error that names key, fault and the nearest key there is."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedbraid import plugins
from fedbraid.config.sections import Config
from fedbraid.errors import UserError
from fedbraid.methods import METHODS, find
from fedbraid.naming import printable


def parse(values: Mapping[str, Any], where: str = "configuration") -> Config:
    """A configuration from nested values; `UserError` names the key, the fault, and the nearest key there is."""
    values = {**values, "method": _method(values.get("method", "lorm"), where)}
    try:
        return _written(Config.model_validate(values), where)
    except ValidationError as error:
        raise UserError("\n".join(_fault(fault, where) for fault in error.errors())) from None


def _written(config: Config, where: str) -> Config:
    """The configuration, where it can be written to a file; `UserError` names a value that is no text."""
    for section, table in config.model_dump().items():
        for key, value in table.items():
            if re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False, default=str)):
                raise UserError(
                    f"{where}: {section}.{key} = {printable(value, 200)} holds bytes that are no text in UTF-8; rename "
                    "the file or the class"
                )
    return config


def options_of(name: object, where: str) -> Any:
    """The options class of a method; `UserError` with the nearest name where there is none."""
    kind = find(str(name))
    if kind is None:
        raise UserError(f"{where}: unknown method {name!r}{near(str(name), METHODS)}; methods: {', '.join(METHODS)}")
    return kind


def near(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, or nothing.

    >>> near("lrom", ["lorm", "fedit"])
    " (did you mean 'lorm'?)"
    """
    found = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _method(value: object, where: str) -> dict[str, Any]:
    """The method's name and all of its options, validated by the method's own dataclass."""
    values = {"name": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else {}
    name = values.pop("name", "lorm")
    kind = options_of(name, where)
    fields = [field.name for field in dataclasses.fields(kind)]
    for key in values:
        if key not in fields:
            known = f"; it has {', '.join(fields)}" if fields else "; it has none"
            raise UserError(f"{where}: method {name!r} has no option {key!r}{near(key, fields)}{known}")
    try:
        checked = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise UserError("\n".join(_fault(fault, f"{where}: method") for fault in error.errors())) from None
    plain = plugins.absolute(name) if plugins.is_reference(name) else name
    return {"name": plain} | {key: _plain(getattr(checked, key)) for key in fields}


def _plain(value: Any) -> Any:
    """A value as TOML has it."""
    return list(value) if isinstance(value, tuple) else value


def _fault(fault: Mapping[str, Any], where: str) -> str:
    """One validation error in words."""
    place = [str(part) for part in fault["loc"]]
    key = ".".join(place)
    if fault["type"] == "extra_forbidden":
        section: Any = Config
        for part in place[:-1]:
            section = section.model_fields[part].annotation
        return f"{where}: unknown key {key!r}{near(place[-1], section.model_fields)}"
    return f"{where}: {key} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
