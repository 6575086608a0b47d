"""What can go wrong, by the names of gRPC's status codes; transports translate them at the edge."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

_log = logging.getLogger(__name__)

Code = Literal[
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
    "RESOURCE_EXHAUSTED",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "CANCELLED",
    "ABORTED",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "UNIMPLEMENTED",
    "INTERNAL",
]


class DomainError(Exception):
    """A request that cannot be answered, and what its caller may be told.

    Attributes:
        code: name of the gRPC status code.
        message: what is wrong, without the field's name.
        field: path of the request's field that is at fault, e.g. ``inputs[3].tokens``; None where
            no single one is.
        retry_after_s: seconds after which the same request may succeed; None: it will not.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message

    def within(self, parent: str) -> DomainError:
        """The same error told from one level up: field ``tokens`` within ``inputs[3]``."""
        parent = parent.removesuffix(".")
        if not parent:
            return self
        if not self.field:
            return self.at(parent)
        joint = "" if self.field.startswith("[") else "."
        return self.at(f"{parent}{joint}{self.field}")

    def at(self, field: str | None) -> DomainError:
        """The same error, of another field."""
        return DomainError(self.code, self.message, field=field, retry_after_s=self.retry_after_s)


def invalid(field: str | None, message: str) -> DomainError:
    """The request is wrong in itself."""
    return DomainError("INVALID_ARGUMENT", message, field=field)


def not_found(message: str, *, field: str | None = None) -> DomainError:
    """What is named does not exist."""
    return DomainError("NOT_FOUND", message, field=field)


def already_exists(message: str, *, field: str | None = None) -> DomainError:
    """What would be made is there."""
    return DomainError("ALREADY_EXISTS", message, field=field)


def precondition(message: str, *, field: str | None = None) -> DomainError:
    """The request is sound, but what is loaded or on disk does not allow it."""
    return DomainError("FAILED_PRECONDITION", message, field=field)


def exhausted(
    message: str, *, field: str | None = None, retry_after_s: float | None = None
) -> DomainError:
    """Memory, a size limit or a quota is used up."""
    return DomainError("RESOURCE_EXHAUSTED", message, field=field, retry_after_s=retry_after_s)


def unavailable(message: str, *, retry_after_s: float) -> DomainError:
    """Not now: the queue is full, something is loading, the server drains."""
    return DomainError("UNAVAILABLE", message, retry_after_s=retry_after_s)


def deadline_exceeded(message: str) -> DomainError:
    """The caller's deadline has passed."""
    return DomainError("DEADLINE_EXCEEDED", message)


@contextmanager
def at_field(parent: str) -> Iterator[None]:
    """Tell the errors of the block from one level up, those of the core as domain errors.

    What no caller may be told about passes through as it is.
    """
    try:
        yield
    except DomainError as error:
        raise error.within(parent) from error.__cause__
    except Exception as error:
        mapped = from_core(error)
        if mapped.code == "INTERNAL":
            raise
        raise mapped.within(parent) from error


def told(error: Exception) -> DomainError:
    """What the caller of a failed call is told; what must not be told goes to the log."""
    mapped = from_core(error)
    if mapped.code == "INTERNAL":
        _log.error("a call failed", exc_info=error)
    return mapped


def from_core(error: Exception) -> DomainError:
    """The domain error of an exception of the core or of the wire's codec.

    An exception of any other kind becomes INTERNAL, without its text, which is for the log.
    """
    import torch

    from saekit.codec import CodecError
    from saekit_core.lm import errors as lm
    from saekit_core.lm.interventions import InterventionPreconditionError
    from saekit_core.sae import errors as sae

    match error:
        case DomainError():
            return error
        case sae.SAENotFoundError() | lm.ModelNotFoundError():
            return not_found(str(error), field=error.field)
        case sae.SAEFormatError() | lm.UnsupportedModelError() | InterventionPreconditionError():
            return precondition(str(error), field=error.field)
        case sae.SAEError() | lm.LMError() | CodecError():
            return invalid(error.field, str(error))
        case torch.OutOfMemoryError() | MemoryError():
            return exhausted("out of memory", retry_after_s=1.0)
        case _:
            return DomainError("INTERNAL", "internal error")
