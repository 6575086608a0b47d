"""Ids to text, one by one, without half characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class StreamingDetokenizer:
    """Text deltas whose concatenation, flush included, is the decoded text of all ids.

    A delta is held back while its last character may still change: while it ends in the middle
    of a UTF-8 character, and inside a run of single-byte tokens, which decode as one.

    Args:
        decode: ids -> text, without clean-up.
        is_byte_token: whether an id is a single byte of a byte fallback.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], is_byte_token: Callable[[int], bool]
    ) -> None:
        self._decode = decode
        self._is_byte_token = is_byte_token
        self._ids: list[int] = []
        # Decoding starts one finished piece early: some tokenizers decode a token differently
        # at the very beginning of a text (SentencePiece drops its space there).
        self._finished = 0
        self._shown = 0

    def push(self, token_id: int) -> str:
        """Take the next id; return the text that is now certain, often empty or one token's."""
        self._ids.append(token_id)
        if self._is_byte_token(token_id):
            return ""
        text = self._decode(self._ids)
        if text.endswith(_REPLACEMENT):
            return self._show(text[:-1])
        delta = self._show(text)
        del self._ids[: self._finished]
        self._finished = len(self._ids)
        self._shown = len(self._decode(self._ids))
        return delta

    def flush(self) -> str:
        """The end: return what was held back, as it is."""
        return self._show(self._decode(self._ids)) if self._ids else ""

    def _show(self, text: str) -> str:
        delta = text[self._shown :]
        self._shown = max(self._shown, len(text))
        return delta
