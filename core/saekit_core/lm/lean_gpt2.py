"""GPT-2: layer norms, learned positions, a fused QKV projection, a plain MLP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from .kv_slots import SlotLayer
from .lean_step import (
    ATTN_OUT,
    MLP_OUT,
    RESID_MID,
    RESID_POST,
    RESID_PRE,
    LeanBlock,
    Projection,
    StepInputs,
)

GPT2_LIKE = frozenset({"GPT2LMHeadModel"})


class LeanGPT2:
    """The parts of a model of this family.

    Raises:
        TypeError, AttributeError: a part that is not what it is in GPT-2.
    """

    def __init__(self, hf: PreTrainedModel) -> None:
        root: Any = hf
        base = root.transformer
        self._tokens, self._positions = base.wte, base.wpe
        self._norm = _layer_norm(base.ln_f)
        self._unembed = Projection(root.lm_head)
        self.blocks: Sequence[LeanBlock] = [
            _block(f"transformer.h.{index}", layer) for index, layer in enumerate(base.h)
        ]

    def prepare(self, length: int) -> None:
        """Nothing to do: positions are learned."""

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Of tokens and of positions."""
        return functional.embedding(tokens, self._tokens.weight) + functional.embedding(
            positions, self._positions.weight
        )

    def rotary(self, positions: Tensor) -> None:
        """None."""

    def unembed(self, h: Tensor) -> Tensor:
        """Final norm and output embedding."""
        return self._unembed(self._norm(h))


def _block(path: str, layer: Any) -> LeanBlock:
    if hasattr(layer, "crossattention"):
        raise TypeError("a block with cross-attention")
    norm, up = _layer_norm(layer.ln_2), Projection(layer.mlp.c_fc)
    act: Callable[[Tensor], Tensor] = layer.mlp.act.forward

    def inner(h: Tensor) -> Tensor:
        return act(up(norm(h)))

    return LeanBlock(
        mix=_attention(layer.attn, _layer_norm(layer.ln_1)),
        out=Projection(layer.attn.c_proj),
        inner=inner,
        down=Projection(layer.mlp.c_proj),
        paths={
            (path, "in"): RESID_PRE,
            (f"{path}.attn", "out"): ATTN_OUT,
            (f"{path}.ln_2", "in"): RESID_MID,
            (f"{path}.mlp", "out"): MLP_OUT,
            (path, "out"): RESID_POST,
        },
    )


def _attention(
    attention: Any, norm: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, StepInputs, SlotLayer], Tensor]:
    fused = Projection(attention.c_attn)
    n_heads, d_head = int(attention.num_heads), int(attention.head_dim)
    scaling = float(attention.scaling)

    def mix(h: Tensor, inputs: StepInputs, layer: SlotLayer) -> Tensor:
        width = inputs.plan.width
        if width > 1:
            q, k, v = fused(norm(h)).view(-1, width, 3, n_heads, d_head).transpose(1, 3).unbind(2)
            mixed = inputs.attend(q, *layer.update(k, v), scaling)
            return mixed.transpose(1, 2).flatten(0, 1).flatten(1)
        q, k, v = fused(norm(h)).view(-1, 3, n_heads, 1, d_head).unbind(1)
        keys, values = layer.update(k, v)
        mixed = functional.scaled_dot_product_attention(
            q, keys, values, attn_mask=inputs.mask, scale=scaling
        )
        return mixed.flatten(1)

    return mix


def _layer_norm(module: Any) -> Callable[[Tensor], Tensor]:
    own, eps = module._parameters, float(module.eps)

    def norm(h: Tensor) -> Tensor:
        return functional.layer_norm(h, own["weight"].shape, own["weight"], own["bias"], eps)

    return norm
