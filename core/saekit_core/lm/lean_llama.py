"""Llama and what is built like it: RMS norms, rotary positions, grouped heads, a gated MLP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
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

LLAMA_LIKE = frozenset(
    {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
)
_STATIC_ROTARY = frozenset({"default", "linear", "llama3", "yarn"})
"""Kinds of rotary positions whose angles depend on nothing but the position."""


class LeanLlama:
    """The parts of a model of this family.

    Raises:
        TypeError, AttributeError: a part that is not what it is in Llama.
    """

    def __init__(self, hf: PreTrainedModel) -> None:
        root: Any = hf
        self._base = root.model
        kind = self._base.rotary_emb.rope_type
        if kind not in _STATIC_ROTARY:
            raise TypeError(f"rotary positions of kind {kind!r}")
        self._embedding = self._base.embed_tokens
        self._norm = _rms_norm(self._base.norm)
        self._unembed = Projection(root.lm_head)
        self._cos = self._sin = torch.empty(0)
        self._length = 0
        self.blocks: Sequence[LeanBlock] = [
            _block(f"model.layers.{index}", layer) for index, layer in enumerate(self._base.layers)
        ]

    def prepare(self, length: int) -> None:
        """Ask the model's own module for cosines and sines of all positions, once."""
        if length <= self._length:
            return
        weight = self._embedding.weight
        positions = torch.arange(length, device=weight.device)[None]
        cos, sin = self._base.rotary_emb.forward(weight[:1, None], positions)
        # The halves of a head turn into each other: one down, one up.
        cos, sin = (table[0].unflatten(-1, (1, 2, -1)).contiguous() for table in (cos, sin))
        sin[:, :, 0].neg_()
        self._cos, self._sin, self._length = cos, sin, length

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002 -- rotary
        """Rows of the embedding."""
        return functional.embedding(tokens, self._embedding.weight)

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """`[R·P, 1, 2, d_head / 2]` each."""
        return self._cos.index_select(0, positions), self._sin.index_select(0, positions)

    def unembed(self, h: Tensor) -> Tensor:
        """Final norm and output embedding."""
        return self._unembed(self._norm(h))


def _block(path: str, layer: Any) -> LeanBlock:
    mlp = layer.mlp
    norm, gate, up = _rms_norm(layer.post_attention_layernorm), *map(Projection, _gated(mlp))
    act: Callable[[Tensor], Tensor] = (
        functional.silu if isinstance(mlp.act_fn, nn.SiLU) else mlp.act_fn.forward
    )

    def inner(h: Tensor) -> Tensor:
        x = norm(h)
        return act(gate(x)) * up(x)

    return LeanBlock(
        mix=_attention(layer.self_attn, _rms_norm(layer.input_layernorm)),
        out=Projection(layer.self_attn.o_proj),
        inner=inner,
        down=Projection(mlp.down_proj),
        paths={
            (path, "in"): RESID_PRE,
            (f"{path}.self_attn", "out"): ATTN_OUT,
            (f"{path}.post_attention_layernorm", "in"): RESID_MID,
            (f"{path}.mlp", "out"): MLP_OUT,
            (path, "out"): RESID_POST,
        },
    )


def _gated(mlp: Any) -> tuple[nn.Module, nn.Module]:
    return mlp.gate_proj, mlp.up_proj


def _attention(
    attention: Any, norm: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, StepInputs, SlotLayer], Tensor]:
    query, key, value = map(Projection, (attention.q_proj, attention.k_proj, attention.v_proj))
    d_head = int(attention.head_dim)
    n_heads = attention.q_proj.out_features // d_head
    n_groups = attention.k_proj.out_features // d_head
    scaling = float(attention.scaling)
    q_norm, k_norm = (
        _rms_norm(getattr(attention, name)) if hasattr(attention, name) else None
        for name in ("q_norm", "k_norm")
    )

    def mix(h: Tensor, inputs: StepInputs, layer: SlotLayer) -> Tensor:
        x = norm(h)
        q, k = query(x), key(x)
        if q_norm is not None and k_norm is not None:
            q = q_norm(q.view(-1, n_heads, d_head)).flatten(1)
            k = k_norm(k.view(-1, n_groups, d_head)).flatten(1)
        assert inputs.rotary is not None
        cos, sin = inputs.rotary
        both = torch.cat((q, k), dim=1).view(-1, n_heads + n_groups, 2, d_head // 2)
        both = torch.addcmul(both * cos, both.flip(2), sin).flatten(2)
        width = inputs.plan.width
        if width > 1:
            q, k, v = (
                part.view(-1, width, *part.shape[1:]).transpose(1, 2)
                for part in (
                    both[:, :n_heads],
                    both[:, n_heads:],
                    value(x).view(-1, n_groups, d_head),
                )
            )
            mixed = inputs.attend(q, *layer.update(k, v), scaling)
            return mixed.transpose(1, 2).flatten(0, 1).flatten(1)
        q, k = both[:, :n_heads], both[:, n_heads:, None]
        keys, values = layer.update(k, value(x).view(-1, n_groups, 1, d_head))
        # Heads that share a key are its queries.
        mixed = functional.scaled_dot_product_attention(
            q.reshape(-1, n_groups, n_heads // n_groups, d_head),
            keys,
            values,
            attn_mask=inputs.mask,
            scale=scaling,
        )
        return mixed.flatten(1)

    return mix


def _rms_norm(module: Any) -> Callable[[Tensor], Tensor]:
    own, eps = module._parameters, float(module.variance_epsilon)
    offset = torch.full((1, 1, 1), eps)

    def norm(h: Tensor) -> Tensor:
        weight: Any = own["weight"]
        if h.dtype is not torch.float32 or h.device.type != "cpu" or h.dim() != 2:
            return functional.rms_norm(h, weight.shape, weight, eps)
        # On a CPU that function is seven operations; the mean square as a product makes it four.
        mean_square = torch.baddbmm(offset, h[:, None], h[..., None], alpha=1 / h.shape[1])
        normed: Tensor = h * mean_square.rsqrt_().squeeze(2) * weight
        return normed

    return norm
