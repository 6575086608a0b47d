"""Writes the reference of docs/api.md from the comments of the .proto files.

usage: api_reference.py DESCRIPTORS DOCUMENT [--check]
"""

import sys
from pathlib import Path

from google.protobuf import descriptor_pb2 as d

MARKER = "<!-- The reference below is written by `make protos` from the .proto files. -->\n"
PACKAGE = ".saekit.v1."
SERVICE, MESSAGE, ENUM = 6, 4, 5
_TYPES = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in d.FieldDescriptorProto.Type.items()
}

Path_ = tuple[int, ...]


class Comments:
    """The comment that leads each declaration of a file."""

    def __init__(self, file: d.FileDescriptorProto) -> None:
        self._of = {
            tuple(place.path): place.leading_comments for place in file.source_code_info.location
        }

    def at(self, *path: int) -> str:
        """On one line."""
        return " ".join(self._of.get(path, "").split())


def type_of(field: d.FieldDescriptorProto) -> str:
    """As one would say it in the .proto file."""
    name = field.type_name.removeprefix(PACKAGE).lstrip(".") or _TYPES[field.type]
    if name.endswith("LabelsEntry"):
        return "map of string"
    if field.label == field.LABEL_REPEATED:
        return f"{name}[]"
    return f"{name}?" if field.proto3_optional else name


def table(message: d.DescriptorProto, comments: Comments, path: Path_) -> list[str]:
    """The fields of a message."""
    lines = []
    if message.field:
        lines = ["| field | type | meaning |", "|---|---|---|"]
    for i, field in enumerate(message.field):
        meaning = comments.at(*path, 2, i).replace("|", "\\|")
        if field.HasField("oneof_index") and not field.proto3_optional:
            meaning = f"*{message.oneof_decl[field.oneof_index].name}:* {meaning}"
        lines.append(f"| `{field.name}` | {type_of(field)} | {meaning} |")
    return lines


def enum_table(enum: d.EnumDescriptorProto, comments: Comments, path: Path_) -> list[str]:
    """The values of an enum."""
    lines = ["| value | meaning |", "|---|---|"]
    for i, value in enumerate(enum.value):
        lines.append(f"| `{value.name}` | {comments.at(*path, 2, i)} |")
    return lines


def reference(files: list[d.FileDescriptorProto]) -> str:
    """All services, then all messages and enums, file by file."""
    lines: list[str] = ["## RPCs"]
    for file in files:
        comments = Comments(file)
        for i, service in enumerate(file.service):
            lines += ["", f"### {service.name}", "", comments.at(SERVICE, i), ""]
            lines += ["| RPC | request | response | |", "|---|---|---|---|"]
            for j, method in enumerate(service.method):
                request = "stream of " * method.client_streaming + _link(method.input_type)
                response = "stream of " * method.server_streaming + _link(method.output_type)
                meaning = comments.at(SERVICE, i, 2, j)
                lines.append(f"| `{method.name}` | {request} | {response} | {meaning} |")
    lines += ["", "## Messages"]
    for file in files:
        comments = Comments(file)
        for i, message in enumerate(file.message_type):
            path = (MESSAGE, i)
            lines += ["", f"### {message.name}", "", comments.at(*path), ""]
            lines += table(message, comments, path)
            for j, nested in enumerate(message.enum_type):
                lines += ["", f"**{message.name}.{nested.name}**: {comments.at(*path, 4, j)}", ""]
                lines += enum_table(nested, comments, (*path, 4, j))
        for i, enum in enumerate(file.enum_type):
            lines += ["", f"### {enum.name}", "", comments.at(ENUM, i), ""]
            lines += enum_table(enum, comments, (ENUM, i))
    return "\n".join(lines) + "\n"


def _link(type_name: str) -> str:
    name = type_name.removeprefix(PACKAGE)
    return f"[{name}](#{name.lower()})"


def _order(file: d.FileDescriptorProto) -> tuple[bool, bool]:
    """The data plane, the control plane, then what they share."""
    return not file.service, not file.name.endswith("sae_service.proto")


def main(descriptors: Path, document: Path, *, check: bool) -> int:
    """Exit status: 1 if the document was stale and only checked."""
    files = d.FileDescriptorSet.FromString(descriptors.read_bytes()).file
    own = sorted((f for f in files if f.package == "saekit.v1"), key=_order)
    written = document.read_text(encoding="utf-8")
    guide = written.split(MARKER)[0]
    fresh = guide + MARKER + "\n" + reference(own)
    if check and fresh != written:
        print(f"{document} is stale: run 'make protos'", file=sys.stderr)
        return 1
    if not check:
        document.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if a != "--check"]
    sys.exit(main(Path(arguments[0]), Path(arguments[1]), check="--check" in sys.argv))
