"""Tokens whose activations do not count."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saekit_core.lm.tokenizer import LMTokenizer, structural_token_ids


def left_out(tokenizer: LMTokenizer, tokens: Tensor, which: bool | Sequence[int] = True) -> Tensor:
    """Which of `tokens` are left out, bool of their shape and on their device.

    Args:
        tokenizer: knows the special tokens.
        tokens: int64 of any shape.
        which: True: BOS, EOS, padding and separator, the special tokens of SAELens; False: none;
            ids: these, and no others.
    """
    ids = structural_token_ids(tokenizer.hf) if which is True else list(which or ())
    return torch.isin(tokens, torch.tensor(ids, dtype=tokens.dtype, device=tokens.device))
