"""What an SAE is: its sizes, its architecture, and the place in a model where it belongs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from saekit_core.sae.dtypes import dtype_name
from saekit_core.sae.errors import SAEFormatError
from saekit_core.sae.legacy import upgrade_flat_config

NORMALIZATIONS: Final = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")
RESHAPINGS: Final = ("none", "hook_z")

LAYOUT_VERSION: Final = "6.54.0"
"""The release of sae-lens whose ``cfg.json`` layout `SAEConfig.to_dict` writes."""

_LAYER = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
_MAX_DIM: Final = 2**31 - 1


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
            if key not in _METADATA_TYPES:
                extra[key] = value
                continue
            kinds = _METADATA_TYPES[key]
            if value is not None and not _is(value, *kinds):
                raise _wrong_type(f"metadata.{key}", value, " or ".join(k.__name__ for k in kinds))
            known[key] = tuple(value) if isinstance(value, list) else value
        return cls(**known, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """The block as JSON values; keys without a value are left out."""
        known = {key: getattr(self, key) for key in _METADATA_TYPES}
        values = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in known.items()
            if value is not None
        }
        return {**values, **self.extra}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a known or extra key, or `default` where the folder does not say."""
        value = getattr(self, key) if key in _METADATA_TYPES else self.extra.get(key)
        return default if value is None else value

    def __getitem__(self, key: str) -> Any:
        return self.get(key)


_METADATA_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "model_name": (str,),
    "hook_name": (str,),
    "hook_name_out": (str,),
    "hook_layer": (int,),
    "hook_head_index": (int,),
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


@dataclass(frozen=True)
class SAEConfig:
    """The sizes and the arithmetic of one SAE.

    Field names are those of SAELens 6; the flat names of SAELens 3 to 5 (`hook_name`, `model_name`,
    `activation_fn_str`, …) are properties.

    Raises:
        SAEFormatError: a value of the wrong type or out of range, naming the field.
    """

    architecture: str
    """``standard``, ``gated``, ``jumprelu`` or ``topk``."""
    d_in: int
    """Width of the activations that are encoded."""
    d_sae: int
    """Number of features."""
    dtype: str = "float32"
    """Number type of the weights and of the arithmetic: float32, float16, bfloat16 (or float64)."""
    device: str = "cpu"
    """Where the weights are; on disk it is always ``cpu``."""
    apply_b_dec_to_input: bool = True
    """Whether `b_dec` is subtracted before encoding."""
    normalize_activations: str = "none"
    """One of `NORMALIZATIONS`; see `saekit_core.sae.normalization`."""
    reshape_activations: str = "none"
    """``hook_z`` flattens heads: ``[..., heads, d_head]`` → ``[..., d_in]``."""
    k: int | None = None
    """Features that stay active per row; topk only."""
    rescale_acts_by_decoder_norm: bool = False
    """topk only: rank by p·‖W_dec‖ and decode with unit rows."""
    metadata: SAEMetadata = field(default_factory=SAEMetadata)

    def __post_init__(self) -> None:
        for name, kind in _CONFIG_TYPES.items():
            value = getattr(self, name)
            if not _is(value, kind):
                raise _wrong_type(name, value, kind.__name__)
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        for name in ("d_in", "d_sae"):
            if not 1 <= getattr(self, name) <= _MAX_DIM:
                raise SAEFormatError(
                    f"{name}: {getattr(self, name)} is not in 1..{_MAX_DIM}", field=name
                )
        if self.normalize_activations not in NORMALIZATIONS:
            hint = (
                "; its whitening must be folded into the weights first"
                if self.normalize_activations == "covariance_whitening"
                else ""
            )
            raise SAEFormatError(
                f"normalize_activations: {self.normalize_activations!r} is none of "
                f"{', '.join(NORMALIZATIONS)}{hint}",
                field="normalize_activations",
            )
        if self.reshape_activations not in RESHAPINGS:
            raise SAEFormatError(
                f"reshape_activations: {self.reshape_activations!r} is none of "
                f"{', '.join(RESHAPINGS)}",
                field="reshape_activations",
            )
        if self.k is not None and not _is(self.k, int):
            raise _wrong_type("k", self.k, "int")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SAEConfig:
        """Read a ``cfg.json`` of SAELens 3 to 6.

        A configuration with a ``metadata`` block is v6; a flat one is older and is upgraded first.
        Top-level keys that no architecture here knows are kept in ``metadata.extra``.

        Raises:
            SAEFormatError: a key is missing, of the wrong type, or out of range.
        """
        if "metadata" not in values:
            values = upgrade_flat_config(values, metadata_keys=_METADATA_TYPES)
        block = values["metadata"]
        if not isinstance(block, Mapping):
            raise _wrong_type("metadata", block, "object")
        for key in ("architecture", "d_in", "d_sae"):
            if key not in values:
                raise SAEFormatError(f"{key}: missing from the configuration", field=key)
        own = {f.name for f in fields(cls)} - {"metadata"}
        if values["architecture"] != "topk":
            # A stray k is a record of training (a batchtopk SAE saved as jumprelu), not arithmetic.
            own -= {"k", "rescale_acts_by_decoder_norm"}
        known = {key: value for key, value in values.items() if key in own}
        if known.get("normalize_activations", "none") is None:
            known["normalize_activations"] = "none"
        unknown = {k: v for k, v in values.items() if k not in own and k != "metadata"}
        return cls(**known, metadata=SAEMetadata.from_dict({**unknown, **block}))

    def to_dict(self) -> dict[str, Any]:
        """The v6 layout, as ``cfg.json`` holds it (the device apart, which disk writes as cpu)."""
        values: dict[str, Any] = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in {"metadata", "k", "rescale_acts_by_decoder_norm"}
        }
        if self.k is not None:
            values["k"] = self.k
            values["rescale_acts_by_decoder_norm"] = self.rescale_acts_by_decoder_norm
        # Readers choose the layout by this version, so it states the layout, not the origin.
        values["metadata"] = {**self.metadata.to_dict(), "sae_lens_version": LAYOUT_VERSION}
        return values

    def to_flat_dict(self) -> dict[str, Any]:
        """`to_dict` plus the flat keys of SAELens 3 to 5, for code that reads either."""
        flat = {name: getattr(self, name) for name in _FLAT_NAMES}
        return {**flat, **self.to_dict()}

    @property
    def d_out(self) -> int:
        """Width of the reconstruction."""
        return self.d_in

    @property
    def model_name(self) -> str | None:
        return self.metadata.model_name

    @property
    def hook_name(self) -> str | None:
        return self.metadata.hook_name

    @property
    def hook_layer(self) -> int | None:
        """Layer of the hook point, stated or read off its name; None outside the blocks."""
        if self.metadata.hook_layer is not None:
            return self.metadata.hook_layer
        found = _LAYER.search(self.metadata.hook_name or "")
        return int(found.group(1)) if found else None

    @property
    def hook_head_index(self) -> int | None:
        return self.metadata.hook_head_index

    @property
    def activation_fn_str(self) -> str:
        """The activation function as SAELens 3 to 5 named it: ``relu`` or ``topk``."""
        return "topk" if self.architecture == "topk" else "relu"

    @property
    def activation_fn_kwargs(self) -> dict[str, Any]:
        return {} if self.k is None else {"k": self.k}

    @property
    def context_size(self) -> int | None:
        return self.metadata.context_size

    @property
    def prepend_bos(self) -> bool | None:
        return self.metadata.prepend_bos

    @property
    def dataset_path(self) -> str | None:
        return self.metadata.dataset_path

    @property
    def neuronpedia_id(self) -> str | None:
        return self.metadata.neuronpedia_id

    @property
    def model_from_pretrained_kwargs(self) -> dict[str, Any]:
        return dict(self.metadata.model_from_pretrained_kwargs or {})


_CONFIG_TYPES: Final[dict[str, type]] = {
    "architecture": str,
    "d_in": int,
    "d_sae": int,
    "dtype": str,
    "device": str,
    "apply_b_dec_to_input": bool,
    "normalize_activations": str,
    "reshape_activations": str,
    "rescale_acts_by_decoder_norm": bool,
    "metadata": SAEMetadata,
}

_FLAT_NAMES: Final = (
    "model_name",
    "hook_name",
    "hook_layer",
    "hook_head_index",
    "activation_fn_str",
    "activation_fn_kwargs",
    "context_size",
    "prepend_bos",
    "dataset_path",
    "neuronpedia_id",
    "model_from_pretrained_kwargs",
)


def _is(value: object, *kinds: type) -> bool:
    # JSON's true is no number, though Python's bool is an int.
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds)


def _wrong_type(key: str, value: object, expected: str) -> SAEFormatError:
    return SAEFormatError(
        f"{key}: expected {expected}, got {type(value).__name__} {value!r:.80}", field=key
    )
