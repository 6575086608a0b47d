"""From a name or a folder to a running language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from .errors import UnsupportedModelError
from .fused_activations import fuse_activations
from .loading import load_model, unsupported
from .model import LanguageModel, embedding_rows
from .revision import model_revision
from .tokenizer import LMTokenizer

_RECURRENT_LAYERS = ("linear_attention", "mamba", "conv", "recurrent", "hybrid", "hybrid_sliding")


def boot_model(
    name_or_dir: str | Path | None = None,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
) -> LanguageModel:
    """Load a causal language model and find its hook points.

    Args:
        name_or_dir: a local Hugging Face folder, or a name on the hub (its local cache serves
            without a network). None: the small model that saekit brings along.
        revision: commit, branch or tag of a hub model. For a folder: the 12 digits that it must
            have.
        device: ``auto`` (CUDA, else MPS, else CPU), ``cpu``, ``cuda``, ``mps``.
        dtype: ``float32``, ``bfloat16`` or ``float16``, of the weights and activations.

    Raises:
        ModelNotFoundError: no such folder, or no such name within reach.
        UnsupportedModelError: encoder-decoder, masked, recurrent and hybrid models, and whatever
            TransformerLens has no adapter for.
        LMError: for a device that is not there, or an unknown dtype.
    """
    loaded = load_model(
        name_or_dir, revision=revision, device=device, dtype=dtype, accept=_refuse_unsupported
    )
    hf = loaded.hf.requires_grad_(False)
    fuse_activations(hf)
    if getattr(hf, "_is_stateful", False):
        raise unsupported(loaded.source, "is recurrent")
    tokenizer = loaded.load_tokenizer()
    if not tokenizer.is_fast:
        raise UnsupportedModelError(
            f"model {loaded.source!r} has no fast tokenizer (tokenizer.json), which byte offsets "
            "need",
            field="model",
        )
    return LanguageModel(
        hf,
        LMTokenizer(
            tokenizer,
            d_vocab=embedding_rows(hf),
            eos_ids=_eos_ids(hf),
        ),
        name=loaded.name,
        revision=model_revision(loaded.folder) if loaded.folder else str(loaded.commit),
        ref=None if loaded.folder else revision or "main",
    )


def _refuse_unsupported(config: Any, source: str) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise unsupported(source, "is an encoder-decoder")
    layers = getattr(config.get_text_config(decoder=True), "layer_types", None) or ()
    if recurrent := sorted({t for t in layers if t in _RECURRENT_LAYERS}):
        raise unsupported(source, f"has {', '.join(recurrent)} layers")


def _eos_ids(hf: PreTrainedModel) -> tuple[int, ...]:
    """Ids that the model's own configuration ends a text with."""
    eos = getattr(hf.generation_config, "eos_token_id", None)
    if eos is None:
        return ()
    return (eos,) if isinstance(eos, int) else tuple(int(i) for i in eos)
