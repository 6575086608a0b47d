"""Refuses what a request holds and this server does not know: fields and enum values."""

from collections.abc import Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from saekit_server.errors import invalid


def check_known(message: Message) -> None:
    """Raises INVALID_ARGUMENT at the first unknown field or enum value, naming its place.

    A field that is silently dropped would be an edit that silently does not happen.
    """
    for path, problem in _problems(message, ""):
        raise invalid(path, problem)


def _problems(message: Message, prefix: str) -> Iterator[tuple[str, str]]:
    unknown = UnknownFieldSet(message)
    for i in range(len(unknown)):
        number = unknown[i].field_number
        yield (
            f"{prefix}{number}",
            f"{message.DESCRIPTOR.full_name} has no field {number} in this server",
        )
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if not field.is_repeated:
                yield from _problems(value, f"{path}.")
            else:
                for i, item in enumerate(value):
                    yield from _problems(item, f"{path}[{i}].")
        elif field.type == FieldDescriptor.TYPE_ENUM:
            for number in value if field.is_repeated else (value,):
                if field.enum_type and number not in field.enum_type.values_by_number:
                    yield path, f"{field.enum_type.name} has no value {number} in this server"
