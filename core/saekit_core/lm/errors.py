"""What can go wrong around a language model: plain exceptions, which a server maps to codes."""

from __future__ import annotations


class LMError(Exception):
    """Base of every error of `saekit_core.lm`.

    `field` names the argument or request field that is wrong (``tokens[3]``), or None when the
    error is not about one.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ModelNotFoundError(LMError):
    """Neither a local folder nor a model that can be fetched."""


class UnsupportedModelError(LMError):
    """The model exists, but what was asked of it cannot be done rightly."""


class UnknownHookPointError(LMError):
    """No such hook point. `near` lists the most similar names that exist."""

    def __init__(self, message: str, *, near: tuple[str, ...] = ()) -> None:
        super().__init__(message, field="hook_name")
        self.near = near


class TokenizationError(LMError):
    """Text, chat or token ids that cannot become a row of tokens."""
