"""How an SAE is meant to be used: the ``metadata`` block of a ``cfg.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from saekit_core.sae.json_values import is_json, wrong_type


@dataclass(frozen=True)
class SAEMetadata:
    """How an SAE is meant to be used: model, hook point, and the text that it was trained on.

    Every value is optional; None means that the folder does not say.
    """

    model_name: str | None = None
    """The model that the SAE was trained on, as TransformerLens or Hugging Face names it."""
    hook_name: str | None = None
    """Hook point whose activations are encoded, e.g. ``blocks.8.hook_resid_pre``."""
    hook_name_out: str | None = None
    """Hook point that a transcoder reconstructs; None for an autoencoder."""
    hook_layer: int | None = None
    """Layer as old folders state it; `SAEConfig.hook_layer` has it for every folder."""
    hook_head_index: int | None = None
    """The one attention head that the SAE reads, if it reads only one."""
    hook_layer_out: int | None = None
    """Layer of `hook_name_out`, where a folder states it."""
    model_class_name: str | None = None
    model_from_pretrained_kwargs: Mapping[str, Any] | None = field(default=None, hash=False)
    """How the weights of the model were processed, e.g. ``{"center_writing_weights": True}``."""
    context_size: int | None = None
    """Tokens per training context."""
    prepend_bos: bool | None = None
    """Whether contexts began with the beginning-of-sequence token."""
    exclude_special_tokens: bool | tuple[int, ...] | None = None
    """Token ids left out of training; True for all special ones."""
    seqpos_slice: tuple[int | None, ...] | None = None
    """The positions of a context that were trained on, as the arguments of ``slice``."""
    dataset_path: str | None = None
    neuronpedia_id: str | None = None
    training_architecture: str | None = None
    """Architecture during training, where it differs from the one saved (batchtopk → jumprelu)."""
    sae_lens_version: str | None = None
    sae_lens_training_version: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Keys that this version does not know; they are written back as they were read."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SAEMetadata:
        """Read the ``metadata`` block of a v6 ``cfg.json``.

        Raises:
            SAEFormatError: a known key has a value of the wrong type.
        """
        known: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for key, value in values.items():
            if key not in METADATA_KEYS:
                extra[key] = value
                continue
            kinds = METADATA_KEYS[key]
            if value is not None and not is_json(value, *kinds):
                raise wrong_type(f"metadata.{key}", value, " or ".join(k.__name__ for k in kinds))
            known[key] = tuple(value) if isinstance(value, list) else value
        return cls(**known, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The block as JSON values; keys without a value are left out."""
        known = {key: getattr(self, key) for key in METADATA_KEYS}
        values = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in known.items()
            if value is not None
        }
        return {**values, **self.extra}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a known or extra key, or `default` where the folder does not say."""
        value = getattr(self, key) if key in METADATA_KEYS else self.extra.get(key)
        return default if value is None else value

    def __getitem__(self, key: str) -> Any:
        return self.get(key)


METADATA_KEYS: Final[dict[str, tuple[type, ...]]] = {
    "model_name": (str,),
    "hook_name": (str,),
    "hook_name_out": (str,),
    "hook_layer": (int,),
    "hook_head_index": (int,),
    "hook_layer_out": (int,),
    "model_class_name": (str,),
    "model_from_pretrained_kwargs": (dict,),
    "context_size": (int,),
    "prepend_bos": (bool,),
    "exclude_special_tokens": (bool, list),
    "seqpos_slice": (list,),
    "dataset_path": (str,),
    "neuronpedia_id": (str,),
    "training_architecture": (str,),
    "sae_lens_version": (str,),
    "sae_lens_training_version": (str,),
}
"""The known keys and the types that a value of theirs may have."""
