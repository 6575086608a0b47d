"""Text, chat and ids to rows of tokens, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from .chat import ChatMessage, message_of_characters, render_chat
from .detokenizer import StreamingDetokenizer
from .errors import TokenizationError


@dataclass(frozen=True)
class Tokenized:
    """One row of n tokens, and where each came from."""

    ids: npt.NDArray[np.int64]
    """[n]."""
    byte_offsets: npt.NDArray[np.uint32]
    """[n, 2]: begin and end of each token in the UTF-8 bytes of `text`. A token that is only a
    part of a character has that character's range; one that stands for no text (a BOS that was
    put before it) an empty range. All zero for a row made from ids."""
    special: npt.NDArray[np.bool_]
    """[n]: BOS, EOS, role marks and the like, wherever they came from."""
    has_bos: bool
    """Whether the first token is the BOS."""
    message_index: npt.NDArray[np.int32] | None = None
    """[n], for chat: the message that a token belongs to, with its role marks; -1 for a BOS and
    for the generation prompt."""
    roles: tuple[str, ...] | None = None
    """For chat: the role of each message."""
    text: str = ""
    """What the offsets count in: the text sent, or the rendered chat."""

    def __len__(self) -> int:
        return len(self.ids)


class LMTokenizer:
    """A Hugging Face fast tokenizer under saekit's rules.

    - A BOS is put before text only, never before ids or a rendered chat, and never where the
      text already begins with one.
    - Nothing is truncated.
    - No other special tokens are added to text (no EOS).

    Args:
        hf: a fast tokenizer.
        d_vocab: the model's number of embeddings; ids from there on are refused.
        default_prepend_bos: what ``prepend_bos=None`` means.

    Attributes:
        bos_id: None where the tokenizer has no BOS.
        eos_ids: ids that end a text.
    """

    def __init__(
        self,
        hf: PreTrainedTokenizerBase,
        *,
        d_vocab: int,
        default_prepend_bos: bool = True,
        eos_ids: Sequence[int] = (),
    ) -> None:
        self.hf = hf
        self.d_vocab = d_vocab
        self.default_prepend_bos = default_prepend_bos
        self.bos_id: int | None = hf.bos_token_id
        own_eos = [hf.eos_token_id] if hf.eos_token_id is not None else []
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys([*own_eos, *eos_ids]))
        added = hf.added_tokens_decoder
        special = {i for i, token in added.items() if token.special} | set(hf.all_special_ids)
        self._special = np.zeros(max(special | {d_vocab}) + 1, np.bool_)
        self._special[sorted(special)] = True
        self._decode = _plain_decoder(hf)
        self._alone: dict[int, str] = {}
        self._bytes: dict[int, bool] = {}

    def encode_text(self, text: str, prepend_bos: bool | None = None) -> Tokenized:
        """Tokens of `text`.

        Args:
            text: special tokens written out in it (``<|endoftext|>``) are recognised.
            prepend_bos: None: the model's default, and no BOS where the tokenizer has none.

        Raises:
            TokenizationError: for text that is not UTF-8 or gives no token, and for an explicit
                ``prepend_bos`` where the tokenizer has no BOS.
        """
        if prepend_bos and self.bos_id is None:
            raise TokenizationError("this model's tokenizer has no BOS token", field="prepend_bos")
        if prepend_bos is None:
            prepend_bos = self.default_prepend_bos and self.bos_id is not None
        ids, characters = self._encode(text, field="text")
        if prepend_bos and (len(ids) == 0 or ids[0] != self.bos_id):
            assert self.bos_id is not None
            ids = np.concatenate([np.array([self.bos_id], np.int64), ids])
            characters = np.concatenate([np.zeros((1, 2), np.int64), characters])
        if len(ids) == 0:
            raise TokenizationError("the text gives no token", field="text")
        return self._tokenized(ids, byte_positions(text)[characters], text=text)

    def encode_many(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """Ids of each text, ``[n]``, as `encode_text` without a BOS; none for an empty text.

        Several times as fast as one text at a time, for those who need nothing but the ids.

        Args:
            texts: of valid UTF-8.
        """
        if not texts:
            return []
        encoding = self.hf(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            truncation=False,
            verbose=False,
        )
        return [np.array(ids, dtype=np.int64) for ids in encoding["input_ids"]]

    def encode_chat(
        self, messages: Sequence[ChatMessage], add_generation_prompt: bool = True
    ) -> Tokenized:
        """Tokens of `messages` as the model's chat template renders them, untouched.

        Raises:
            TokenizationError: without a template, without messages, for messages that the
                template refuses.
        """
        text = render_chat(self.hf, messages, add_generation_prompt)
        ids, characters = self._encode(text, field="chat")
        if len(ids) == 0:
            raise TokenizationError("the rendered chat gives no token", field="chat")
        owner = message_of_characters(self.hf, messages, text)
        first = np.minimum(characters[:, 0], len(owner) - 1)
        message_index = owner[first]
        if ids[0] == self.bos_id:
            message_index[0] = -1
        return self._tokenized(
            ids,
            byte_positions(text)[characters],
            text=text,
            message_index=message_index,
            roles=tuple(m.role for m in messages),
        )

    def from_ids(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> Tokenized:
        """A row of ids as they are.

        Raises:
            TokenizationError: for no ids, or naming the first one that is out of range.
        """
        row = np.asarray(ids)
        if row.ndim != 1 or row.size == 0 or not np.issubdtype(row.dtype, np.integer):
            raise TokenizationError(
                f"token ids of shape {row.shape} and type {row.dtype}; a row of integers is needed",
                field="tokens",
            )
        bad = np.flatnonzero((row < 0) | (row >= self.d_vocab))
        if bad.size:
            raise TokenizationError(
                f"token id {row[bad[0]]} is not in 0..{self.d_vocab - 1}", field=f"tokens[{bad[0]}]"
            )
        return self._tokenized(row.astype(np.int64), np.zeros((len(row), 2), np.uint32))

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of `ids`, special tokens written out."""
        if len(ids) != 1:
            return self._decode([int(i) for i in ids])
        # As many as there are tokens, and every stream asks for some of them at each step.
        token = int(ids[0])
        if token not in self._alone:
            self._alone[token] = self._decode([token])
        return self._alone[token]

    def new_detokenizer(self) -> StreamingDetokenizer:
        """Turns ids into text one by one."""
        return StreamingDetokenizer(self.decode, self._is_byte_token)

    def is_special(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """[n]: whether each id is a special token."""
        return self._special[ids]

    def _is_byte_token(self, token_id: int) -> bool:
        """Whether the id is one byte by itself (``<0xE4>``), as SentencePiece falls back to."""
        known = self._bytes.get(token_id)
        if known is None:
            token = self.hf.convert_ids_to_tokens(token_id)
            known = isinstance(token, str) and len(token) == 6 and token.startswith("<0x")
            self._bytes[token_id] = known
        return known

    def _encode(
        self, text: str, *, field: str
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Ids [n] and character offsets [n, 2]."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizationError(
                f"character {error.start} is half of a surrogate pair; text must be UTF-8",
                field=field,
            ) from error
        encoding = self.hf(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            truncation=False,
            verbose=False,
        )
        ids = np.array(encoding["input_ids"], dtype=np.int64)
        offsets = np.array(encoding["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        return ids, offsets

    def _tokenized(
        self,
        ids: npt.NDArray[np.int64],
        byte_offsets: npt.NDArray[np.uint32],
        *,
        text: str = "",
        message_index: npt.NDArray[np.int32] | None = None,
        roles: tuple[str, ...] | None = None,
    ) -> Tokenized:
        return Tokenized(
            ids=ids,
            byte_offsets=byte_offsets,
            special=self.is_special(ids),
            has_bos=bool(ids[0] == self.bos_id),
            message_index=message_index,
            roles=roles,
            text=text,
        )


def _plain_decoder(hf: PreTrainedTokenizerBase) -> Callable[[list[int]], str]:
    """ids -> text, special tokens written out, nothing cleaned up.

    By the tokenizer itself, unless its class has a way of its own: what transformers does around it
    takes several times as long as decoding a token or two.
    """
    own = type(hf)
    fast = PreTrainedTokenizerFast
    if isinstance(hf, fast) and own.decode is fast.decode and own._decode is fast._decode:
        decode = hf.backend_tokenizer.decode
        return lambda ids: str(decode(ids, skip_special_tokens=False))
    return lambda ids: str(
        hf.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )


def structural_token_ids(hf: PreTrainedTokenizerBase) -> list[int]:
    """Ids of BOS, EOS, padding and separator, as far as there are any.

    These are the special tokens of SAELens' `exclude_special_tokens`: marks of a chat template,
    which have features worth having, are not among them.
    """
    ids = (hf.bos_token_id, hf.eos_token_id, hf.pad_token_id, hf.sep_token_id)
    return sorted({int(token) for token in ids if token is not None})


def byte_positions(text: str) -> npt.NDArray[np.uint32]:
    """[len(text) + 1]: how many UTF-8 bytes come before each character."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    lengths = 1 + (codes > 0x7F).astype(np.uint32) + (codes > 0x7FF) + (codes > 0xFFFF)
    return np.concatenate([np.zeros(1, np.uint32), np.cumsum(lengths, dtype=np.uint32)])
