"""Documents in plain text files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from saekit_trainer.samples.files import FileSet, LineCursor
from saekit_trainer.samples.reading import BrokenSampleError, Position

DOCUMENT_SEPARATOR: Final = "<|endoftext|>"
PIECE_BYTES: Final = 2**18
"""A document that is longer comes in pieces, so that a file of any size can be read."""


class Piece(NamedTuple):
    """A document, or a part of a long one."""

    text: str
    begins: bool = True
    """Whether a document begins here."""


@dataclass(frozen=True)
class TextFiles(FileSet):
    """UTF-8 files; documents are separated by lines `<|endoftext|>`, if there are any.

    Documents longer than `PIECE_BYTES` come in pieces that end with a line, or with a space.
    """

    def read(self, start: Position | None = None) -> _PieceReader:
        return _PieceReader(LineCursor(self.paths, start), bool(start and start["inside"]))


class _PieceReader:
    def __init__(self, lines: LineCursor, inside: bool) -> None:
        self._lines = lines
        self._inside = inside
        self.where = ""

    def position(self) -> Position:
        return {**self._lines.position(), "inside": self._inside}

    def __next__(self) -> Piece:
        while not self._lines.at_end:
            piece = self._piece()
            if piece.text:
                return piece
        raise StopIteration

    def _piece(self) -> Piece:
        name, first = self._lines.path.name, self._lines.line + 1
        parts: list[bytes] = []
        size, ends = 0, False
        while size < PIECE_BYTES and not ends:
            part = self._lines.read(PIECE_BYTES)
            if not part:
                self._lines.next_file()
                ends = True
            elif part.strip() == DOCUMENT_SEPARATOR.encode():
                ends = True
            else:
                if len(part) == PIECE_BYTES and not part.endswith(b"\n"):
                    kept = _whole_words(part)
                    self._lines.push_back(len(part) - len(kept))
                    part = kept
                parts.append(part)
                size += len(part)
        data, begins = b"".join(parts), not self._inside
        try:
            text = data.decode().replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError as error:
            self._inside = not ends
            line = first + data.count(b"\n", 0, error.start)
            self.where = f"{name}, line {line}"
            raise BrokenSampleError(f"byte 0x{data[error.start]:02x} is not UTF-8") from None
        text = text.lstrip() if begins else text
        text = text.rstrip() if ends else text
        self._inside = not ends and bool(self._inside or text)
        return Piece(text, begins)


def _whole_words(part: bytes) -> bytes:
    """`part` up to its last space, or at least up to its last whole character."""
    space = part.rfind(b" ")
    if space > 0:
        return part[:space]  # a word keeps the space before it, as tokenizers have it
    end = len(part)
    while end > 1 and part[end - 1] & 0xC0 == 0x80:
        end -= 1
    complete = part[end - 1] < 0x80
    return part if complete or end == 1 else part[: end - 1]
