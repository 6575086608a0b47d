"""What an SAE is: its sizes, its architecture, and the place in a model where it belongs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from saekit_core.sae.architecture_keys import ALL_KEYS, TRANSCODERS, own_keys
from saekit_core.sae.dtypes import dtype_name
from saekit_core.sae.errors import SAEFormatError
from saekit_core.sae.json_values import is_json, wrong_type
from saekit_core.sae.legacy import upgrade_flat_config
from saekit_core.sae.metadata import METADATA_KEYS, SAEMetadata

NORMALIZATIONS: Final = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")
CONSTANT_SCALAR: Final = "constant_scalar_rescale"
"""A normalisation of temporal SAEs alone: all activations times one factor."""
RESHAPINGS: Final = ("none", "hook_z")

LAYOUT_VERSION: Final = "6.54.0"
"""The release of sae-lens whose ``cfg.json`` layout `SAEConfig.to_dict` writes."""

_LAYER = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
_MAX_DIM: Final = 2**31 - 1


@dataclass(frozen=True)
class SAEConfig:
    """The sizes and the arithmetic of one SAE.

    Field names are those of SAELens 6; the flat names of SAELens 3 to 5 (`hook_name`, `model_name`,
    `activation_fn_str`, …) are properties.

    Raises:
        SAEFormatError: a value of the wrong type or out of range, naming the field.
    """

    architecture: str
    """A name in `saekit_core.sae.architectures.ARCHITECTURES`."""
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
    d_out: int = 0
    """Width of the reconstruction. 0 stands for d_in, which it is for all but transcoders."""

    k: int | None = None
    """topk, abstopk: features that stay active per row."""
    rescale_acts_by_decoder_norm: bool = False
    """topk, abstopk: rank by p·‖W_dec‖ and decode with unit rows."""

    residual_threshold: float | None = None
    """matching_pursuit: a row is done when the norm of what is left of it is below this; 0: never.
    In units of what is encoded, that is behind the normalisation."""
    max_iterations: int | None = None
    """matching_pursuit: most features chosen per row, repetitions included; None: d_in."""
    stop_on_duplicate_support: bool | None = None
    """matching_pursuit: a row is done when a step has added no feature that was not active yet."""

    n_heads: int | None = None
    """temporal: attention heads of each layer."""
    n_attn_layers: int | None = None
    """temporal: attention layers, each of which predicts part of what the one before left."""
    bottleneck_factor: int | None = None
    """temporal: queries and keys are d_sae / bottleneck_factor wide."""
    sae_diff_type: str | None = None
    """temporal: ``topk`` or ``relu``, how the novel part is made sparse."""
    kval_topk: int | None = None
    """temporal: novel features that stay active per position; None: all that are positive."""
    tied_weights: bool | None = None
    """temporal: the encoder is the transpose of the decoder, and there is no W_enc."""
    activation_normalization_factor: float | None = None
    """temporal: the factor of ``constant_scalar_rescale``."""

    metadata: SAEMetadata = field(default_factory=SAEMetadata)

    def __post_init__(self) -> None:
        for name, kind in _CONFIG_TYPES.items():
            value = getattr(self, name)
            if not is_json(value, kind):
                raise wrong_type(name, value, kind.__name__)
        object.__setattr__(self, "dtype", dtype_name(self.dtype))
        for name in ("d_in", "d_sae"):
            if not 1 <= getattr(self, name) <= _MAX_DIM:
                raise SAEFormatError(
                    f"{name}: {getattr(self, name)} is not in 1..{_MAX_DIM}", field=name
                )
        temporal = self.architecture == "temporal"
        normalizations = (*NORMALIZATIONS, CONSTANT_SCALAR) if temporal else NORMALIZATIONS
        if self.normalize_activations not in normalizations:
            hint = (
                "; its whitening must be folded into the weights first"
                if self.normalize_activations == "covariance_whitening"
                else ""
            )
            raise SAEFormatError(
                f"normalize_activations: {self.normalize_activations!r} is none of "
                f"{', '.join(normalizations)}{hint}",
                field="normalize_activations",
            )
        if self.reshape_activations not in RESHAPINGS:
            raise SAEFormatError(
                f"reshape_activations: {self.reshape_activations!r} is none of "
                f"{', '.join(RESHAPINGS)}",
                field="reshape_activations",
            )
        self._check_own_keys()
        if self.architecture in TRANSCODERS:
            self._check_transcoder()

    def _check_own_keys(self) -> None:
        """Fill in and check the keys that only this architecture has; refuse those of others."""
        own = own_keys(self.architecture)
        for name in sorted(ALL_KEYS):
            value = getattr(self, name)
            if name == "d_out":
                value = value or self.d_in
                object.__setattr__(self, name, value)
                given = value != self.d_in
            else:
                given = value is not None and value is not False
            if name in own:
                if value is None:
                    object.__setattr__(self, name, own[name].default)
                else:
                    own[name].check(name, value)
            elif given:
                raise SAEFormatError(
                    f"{name}: {value!r:.80} has no meaning for {self.architecture}", field=name
                )

    def _check_transcoder(self) -> None:
        # b_dec is d_out wide, and heads are split at one of two hook points: neither is defined.
        if self.apply_b_dec_to_input:
            raise SAEFormatError(
                f"apply_b_dec_to_input: a {self.architecture} has no b_dec at its input",
                field="apply_b_dec_to_input",
            )
        if self.reshape_activations != "none":
            raise SAEFormatError(
                f"reshape_activations: {self.reshape_activations!r} has no meaning for a "
                f"{self.architecture}",
                field="reshape_activations",
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SAEConfig:
        """Read a ``cfg.json`` of SAELens 3 to 6.

        A configuration with a ``metadata`` block is v6; a flat one is older and is upgraded first.
        Top-level keys that no architecture here knows are kept in ``metadata.extra``.

        Raises:
            SAEFormatError: a key is missing, of the wrong type, or out of range.
        """
        if "metadata" not in values:
            values = upgrade_flat_config(values, metadata_keys=METADATA_KEYS)
        block = values["metadata"]
        if not isinstance(block, Mapping):
            raise wrong_type("metadata", block, "object")
        for key in ("architecture", "d_in", "d_sae"):
            if key not in values:
                raise SAEFormatError(f"{key}: missing from the configuration", field=key)
        own = {f.name for f in fields(cls)} - {"metadata"}
        # A stray k is a record of training (a batchtopk SAE saved as jumprelu), not arithmetic.
        own -= ALL_KEYS - own_keys(str(values["architecture"])).keys()
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
            if f.name != "metadata" and f.name not in ALL_KEYS
        }
        values |= {name: getattr(self, name) for name in own_keys(self.architecture)}
        # Readers choose the layout by this version, so it states the layout, not the origin.
        values["metadata"] = {**self.metadata.to_dict(), "sae_lens_version": LAYOUT_VERSION}
        return values

    def to_flat_dict(self) -> dict[str, Any]:
        """`to_dict` plus the flat keys of SAELens 3 to 5, for code that reads either."""
        flat = {name: getattr(self, name) for name in _FLAT_NAMES}
        return {**flat, **self.to_dict()}

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
        """The activation function as SAELens 3 to 5 named it: ``relu``, ``topk``, …"""
        if self.architecture == "abstopk":
            return "abstopk"
        return "topk" if self.k is not None else "relu"

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
    "d_out": int,
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
