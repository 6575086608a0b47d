"""The standard gRPC health check, without the package that only servers need."""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

CHECK = "/grpc.health.v1.Health/Check"
Health = Literal["unknown", "serving", "not_serving", "service_unknown"]
_STATES: tuple[Health, ...] = ("unknown", "serving", "not_serving", "service_unknown")


@cache
def _messages() -> tuple[type[Message], type[Message]]:
    # A pool of its own: a host program may have the full health package in the default one.
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="health.proto", package="grpc.health.v1")
    request = file.message_type.add(name="HealthCheckRequest")
    request.field.add(name="service", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    response = file.message_type.add(name="HealthCheckResponse")
    # An enum on the wire; read as the number it is.
    response.field.add(name="status", number=1, type=field.TYPE_INT32, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    find = pool.FindMessageTypeByName
    return (
        message_factory.GetMessageClass(find("grpc.health.v1.HealthCheckRequest")),
        message_factory.GetMessageClass(find("grpc.health.v1.HealthCheckResponse")),
    )


def request_bytes(service: str) -> bytes:
    """A serialized HealthCheckRequest."""
    make: Any = _messages()[0]
    data: bytes = make(service=service).SerializeToString()
    return data


def state_of(response: bytes) -> Health:
    """The state that a serialized HealthCheckResponse tells."""
    message: Any = _messages()[1].FromString(response)
    return _STATES[message.status] if message.status < len(_STATES) else "unknown"
