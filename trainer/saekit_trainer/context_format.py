"""What a context of tokens looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from saekit_core.lm.tokenizer import LMTokenizer
from saekit_trainer.errors import DatasetError
from saekit_trainer.packing import CuttingPacker, JoiningPacker, Packer

Separator = int | Literal["default", "bos", "eos", "sep"] | None
"""What stands between documents: a token id, the special token of that name if the tokenizer has
one, or nothing. By default the BOS where contexts begin with it, else the EOS."""


@dataclass(frozen=True)
class ContextFormat:
    """What a context looks like."""

    size: int
    """Tokens, BOS included."""
    prepend_bos: bool
    separator: Separator = "default"
    """Between the documents that share a context; of text only, as the rest is separated."""
    concatenate: bool = True
    """Whether documents of text are packed; else each that is long enough gives one context."""

    def packer(self, tokenizer: LMTokenizer) -> Packer:
        """What makes contexts of documents of text.

        Raises:
            DatasetError: the tokenizer has no BOS, or no token of the separator's id.
        """
        bos = self.bos(tokenizer)
        if not self.concatenate:
            return CuttingPacker(context_size=self.size, bos=bos)
        separator = _separator(tokenizer, self)
        return JoiningPacker(context_size=self.size, bos=bos, separator=separator)

    def bos(self, tokenizer: LMTokenizer) -> int | None:
        """The token that contexts begin with, if they do.

        Raises:
            DatasetError: the tokenizer has none.
        """
        if not self.prepend_bos:
            return None
        if tokenizer.bos_id is None:
            raise DatasetError("prepend_bos: the model's tokenizer has no BOS", field="prepend_bos")
        return tokenizer.bos_id


def _separator(tokenizer: LMTokenizer, format_: ContextFormat) -> int | None:
    asked = format_.separator
    if isinstance(asked, int):
        if not 0 <= asked < tokenizer.d_vocab:
            raise DatasetError(
                f"sequence_separator_token: {asked} is not in 0..{tokenizer.d_vocab - 1}",
                field="sequence_separator_token",
            )
        return asked
    if asked == "bos" or (asked == "default" and format_.prepend_bos):
        return tokenizer.bos_id
    if asked in ("eos", "default"):
        return tokenizer.eos_ids[0] if tokenizer.eos_ids else None
    if asked == "sep":
        sep: int | None = tokenizer.hf.sep_token_id
        return sep
    if asked is None:
        return None
    raise DatasetError(
        f"sequence_separator_token: {asked!r}; expected a token id, bos, eos, sep or None",
        field="sequence_separator_token",
    )
