"""Values of a configuration held against the annotations of its fields."""

from __future__ import annotations

import types
from collections.abc import Hashable
from dataclasses import fields
from functools import cache
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from saekit_trainer.errors import ConfigError


def check_types(cfg: Any) -> None:
    """Refuse values of the wrong type in a dataclass: a TOML file or a caller may say anything.

    Raises:
        ConfigError: naming the field, the value seen and what was expected.
    """
    hints = _hints(cast(Hashable, type(cfg)))
    for field in fields(cfg):
        value, hint = getattr(cfg, field.name), hints[field.name]
        if not _fits(value, hint):
            raise ConfigError(
                f"{field.name}: {value!r}, expected {_expected(hint)}", field=field.name
            )


@cache
def _hints(cls: Hashable) -> dict[str, Any]:
    return get_type_hints(cls)


def _fits(value: object, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if origin is not None:
        return isinstance(value, origin)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _expected(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(part) for part in arguments if part is not type(None))
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin is tuple:
        return "a list of names" if arguments[0] is str else "a list of whole numbers"
    if origin is not None:
        return "a table"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[hint]
