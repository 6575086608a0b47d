"""Results larger than a message: a header and parts of its large fields."""

import re
from collections.abc import Iterator
from typing import Any, TypeVar

from google.protobuf.message import Message

from saekit.codec.errors import CodecError
from saekit.v1.sae_service_pb2 import Part

PART_BYTES = 1 << 20

M = TypeVar("M", bound=Message)


def split_message(message: M, limit: int = PART_BYTES) -> tuple[M, list[Part]]:
    """A header and the parts that were taken out of it.

    A message within `limit` bytes comes back as it is, without parts. The message is changed: its
    largest fields are taken out until the rest is within `limit`.
    """
    size = message.ByteSize()
    if size <= limit:
        return message, []
    parts: list[Part] = []
    fields = [
        (getattr(owner, name), owner, name, path)
        for owner, name, path in _bytes_fields(message, "")
    ]
    for data, owner, name, path in sorted(fields, key=lambda field: -len(field[0])):
        if size <= limit:
            break
        size -= len(data)
        view = memoryview(data)
        parts += [
            Part(field=path, data=bytes(view[i : i + limit])) for i in range(0, len(data), limit)
        ]
        owner.ClearField(name)
    return message, parts


class FrameJoiner:
    """Puts one header and its parts together again."""

    def __init__(self, header: Message) -> None:
        self.header = header
        self._parts: dict[str, list[bytes]] = {}

    def add(self, part: Part) -> None:
        """The next piece."""
        self._parts.setdefault(part.field, []).append(part.data)

    def join(self) -> Message:
        """The whole message.

        Raises:
            CodecError: a part names no bytes field of the header.
        """
        for path, pieces in self._parts.items():
            owner, name = _owner(self.header, path)
            setattr(owner, name, b"".join(pieces))
        self._parts.clear()
        return self.header


def _bytes_fields(message: Message, prefix: str) -> Iterator[tuple[Message, str, str]]:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.type == field.TYPE_BYTES and not field.is_repeated:
            yield message, field.name, path
        elif field.type == field.TYPE_MESSAGE:
            if field.is_repeated:
                for i, item in enumerate(value):
                    yield from _bytes_fields(item, f"{path}[{i}].")
            else:
                yield from _bytes_fields(value, f"{path}.")


_STEP = re.compile(r"(\w+)(?:\[(\d+)\])?\Z")


def _owner(message: Message, path: str) -> tuple[Any, str]:
    *steps, last = path.split(".")
    here: Any = message
    try:
        for step in steps:
            match = _STEP.match(step)
            if match is None:
                raise AttributeError(step)
            here = getattr(here, match[1])
            if match[2] is not None:
                here = here[int(match[2])]
        if not isinstance(getattr(here, last), bytes):
            raise AttributeError(last)
    except (AttributeError, IndexError) as error:
        raise CodecError("field", f"no bytes field {path!r} in the header") from error
    return here, last
