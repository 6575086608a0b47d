"""Errors of calls, with what the server said about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc


@dataclass(frozen=True)
class FieldViolation:
    """A field of the request that the server refused."""

    field: str
    """Path in the request, e.g. `inputs[3].tokens`."""
    description: str
    """The value seen and what was expected."""


class SAEKitError(Exception):
    """A call, or one item of a stream, failed.

    Attributes:
        code: gRPC status code.
        message: what the server said.
        field_violations: the refused fields, for INVALID_ARGUMENT.
        retry_after: seconds after which the server suggests to try again; None if it said nothing.
    """

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        field_violations: tuple[FieldViolation, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.field_violations = field_violations
        self.retry_after = retry_after

    def __str__(self) -> str:
        if not self.field_violations:
            return self.message
        fields = "; ".join(f"{v.field}: {v.description}" for v in self.field_violations)
        # The message usually is the first violation again.
        return (
            fields
            if self.field_violations[0].description in self.message
            else (f"{self.message} ({fields})")
        )


class InvalidArgumentError(SAEKitError):
    """A value of the request is wrong; `field_violations` names it."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFoundError(SAEKitError):
    """No such SAE."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(SAEKitError):
    """An SAE of this sae_id is loaded, and `replace` was not set."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPreconditionError(SAEKitError):
    """The SAE does not fit the model, or another revision than asked for is loaded."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ResourceExhaustedError(SAEKitError):
    """Device memory, a quota, or a message over the size limit."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class UnavailableError(SAEKitError):
    """No server, or one that is full, loading or draining. Safe to try again later."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceededError(SAEKitError):
    """The call took longer than its timeout."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class UnauthenticatedError(SAEKitError):
    """No token, or a wrong one."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDeniedError(SAEKitError):
    """The token does not allow this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class CancelledError(SAEKitError):
    """The call was cancelled."""

    code = grpc.StatusCode.CANCELLED


_CLASSES = {cls.code: cls for cls in SAEKitError.__subclasses__()}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def from_rpc_error(error: grpc.RpcError) -> SAEKitError:
    """The error of a failed call, sync or aio."""
    from grpc_status import rpc_status

    call: Any = error  # every RpcError of a call is also a grpc.Call
    code, message = call.code(), call.details() or ""
    try:
        status = rpc_status.from_call(call)
    except ValueError:
        # Details that contradict the call's status are another layer's: the call's own words hold.
        status = None
    return _build(code, message, status.details if status else ())


def from_status(status: Any) -> SAEKitError:
    """The error of one item of a stream, from its google.rpc.Status."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return _build(code, status.message, status.details)


def _build(code: grpc.StatusCode, message: str, details: Any) -> SAEKitError:
    from google.rpc import error_details_pb2

    violations: list[FieldViolation] = []
    retry_after = None
    for detail in details:
        bad, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad):
            violations += [FieldViolation(v.field, v.description) for v in bad.field_violations]
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return _CLASSES.get(code, SAEKitError)(
        message or code.name.lower().replace("_", " "),
        code=code,
        field_violations=tuple(violations),
        retry_after=retry_after,
    )
