"""Domain errors to google.rpc.Status."""

from google.rpc import code_pb2, error_details_pb2, status_pb2

from saekit_server.errors import DomainError


def status_message(error: DomainError) -> status_pb2.Status:
    """The status of an error: BadRequest names its field, RetryInfo says when to come back."""
    message = f"{error.field}: {error.message}" if error.field else error.message
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=message)
    if error.field:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=error.field, description=error.message)
        status.details.add().Pack(bad)
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(error.retry_after_s * 1000))
        status.details.add().Pack(retry)
    return status
