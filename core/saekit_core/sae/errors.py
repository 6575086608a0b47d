"""What can go wrong with an SAE, as exceptions that name the field at fault."""

from __future__ import annotations


class SAEError(Exception):
    """An SAE cannot do what was asked of it.

    Attributes:
        field: the name of the offending key, tensor or argument; None where there is no single one.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class SAEFormatError(SAEError):
    """A folder, file or configuration is broken, self-contradictory or unsupported."""


class SAENotFoundError(SAEError):
    """There is no SAE under that name or at that place."""


class SAEUploadError(SAEError):
    """The Hub cannot be reached, or does not take what was sent; says what to do."""
