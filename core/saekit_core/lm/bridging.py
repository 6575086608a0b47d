"""A TransformerBridge beside a Hugging Face model, on the same parameters."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True)
class SharedBridge:
    """A bridge and what is needed to match its components with the plain model's modules."""

    bridge: Any
    """TransformerBridge."""
    paths: dict[nn.Module, str]
    """Modules of the copy as it was before the bridge took it -> path in the plain model."""


def build_bridge(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str
) -> SharedBridge:
    """A bridge over a structural copy of `hf` that shares all its parameters and buffers.

    The bridge takes its model apart and forces eager attention; the copy keeps `hf` as it is.
    (GPT-2's fused QKV gets split copies besides: that is the bridge's doing.)
    """
    from .resid_mid import join_resid_mid

    shared = {id(t): t for t in (*hf.parameters(), *hf.buffers())}
    twin = copy.deepcopy(hf, shared)
    paths = {module: path for path, module in twin.named_modules()}
    with torch.no_grad():
        bridge = boot_bridge(twin, tokenizer, name)
    join_resid_mid(bridge)
    return SharedBridge(bridge=bridge, paths=paths)


def boot_bridge(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str
) -> TransformerBridge:
    """A bridge that takes `hf` as its own: modules are replaced, attention becomes eager."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources import transformers as _  # noqa: F401 -- adds boot

    tokenizer = copy.deepcopy(tokenizer)
    # Without it the bridge loads the tokenizer again by its name, which may need a network.
    tokenizer.init_kwargs["add_bos_token"] = True
    tokenizer.init_kwargs.setdefault("name_or_path", name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TransformerBridge.boot_transformers(
            name, hf_model=hf, tokenizer=tokenizer, device=hf.device, dtype=hf.dtype
        )


def bridge_root(bridge: Any, tokens: Tensor, inputs: dict[str, Any]) -> PreTrainedModel:
    """The model inside `bridge`, called like the plain one; its hook points fire.

    Where positions are learned, gives `inputs` the positions row by row, so that
    ``hook_pos_embed`` is [R, P, d] as TransformerLens shows it.
    """
    if hasattr(bridge, "pos_embed") and "position_ids" not in inputs:
        positions = torch.arange(tokens.shape[1], device=bridge.original_model.device)
        inputs["position_ids"] = positions.expand(tokens.shape[0], -1)
    root = bridge.original_model
    assert isinstance(root, PreTrainedModel)
    return root
