"""Types of the values in a ``cfg.json``."""

from __future__ import annotations

from saekit_core.sae.errors import SAEFormatError


def is_json(value: object, *kinds: type) -> bool:
    # JSON's true is no number, though Python's bool is an int.
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds)


def wrong_type(key: str, value: object, expected: str) -> SAEFormatError:
    return SAEFormatError(
        f"{key}: expected {expected}, got {type(value).__name__} {value!r:.80}", field=key
    )
