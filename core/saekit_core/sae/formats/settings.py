"""Configurations of other libraries: JSON or YAML, read key by key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import yaml

from saekit_core.sae.errors import SAEFormatError
from saekit_core.sae.json_values import is_json, wrong_type

T = TypeVar("T")

_REQUIRED: Final[Any] = object()


class Settings:
    """The content of a configuration file."""

    def __init__(self, file: str, values: Mapping[str, Any]) -> None:
        self.file = file
        self.values = values

    @classmethod
    def parse(cls, file: str, text: bytes) -> Settings:
        """Read JSON, or YAML where the file's name says so.

        Raises:
            SAEFormatError: it is neither, or no object.
        """
        try:
            if file.endswith((".yaml", ".yml")):
                values = yaml.safe_load(text)
            else:
                values = json.loads(text)
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            kind = "YAML" if isinstance(error, yaml.YAMLError) else "JSON"
            reason = " ".join(str(error).split())
            raise SAEFormatError(f"{file}: no {kind}: {reason:.200}") from None
        if not isinstance(values, Mapping):
            raise SAEFormatError(f"{file}: expected an object, got {type(values).__name__}")
        return cls(file, values)

    def get(self, key: str, kind: type[T], default: T | None = _REQUIRED) -> T:
        """The value at a dotted key.

        Args:
            kind: its type; float takes integers too, object anything.
            default: for a key that is absent or null. Without one, the key must be there.

        Raises:
            SAEFormatError: it is missing, or of another type.
        """
        value: Any = self.values
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None:
            if default is _REQUIRED:
                raise self.error(key, "missing")
            return default  # type: ignore[return-value]
        kinds = (int, float) if kind is float else (kind,)
        if kind is not object and not is_json(value, *kinds):
            raise wrong_type(f"{self.file}: {key}", value, kind.__name__)
        return float(value) if kind is float else value  # type: ignore[return-value]

    def expect(self, key: str, *values: Any) -> None:
        """Refuse a setting that is there and has none of these values."""
        value = self.get(key, object, None)
        if value is not None and value not in values:
            among = ", ".join(repr(known) for known in values)
            raise self.error(key, f"{value!r:.80} is not supported, only {among}")

    def error(self, key: str, problem: str) -> SAEFormatError:
        """What is wrong with a key."""
        return SAEFormatError(f"{self.file}: {key}: {problem}", field=key)
