"""Flat ``cfg.json`` files of SAELens 3 to 5, brought to the layout of SAELens 6."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, Final

from saekit_core.sae.errors import SAEFormatError

_RENAMED: Final = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
    "activation_fn": "activation_fn_str",
}
_TOP_LEVEL: Final = (
    "architecture",
    "d_in",
    "d_sae",
    "dtype",
    "device",
    "apply_b_dec_to_input",
    "normalize_activations",
    "reshape_activations",
    "k",
)
_ABSORBED: Final = ("activation_fn_str", "activation_fn_kwargs", "finetuning_scaling_factor")
"""Keys whose meaning lies elsewhere in the new layout: in the architecture, k, or the weights."""


def upgrade_flat_config(
    flat: Mapping[str, Any], *, metadata_keys: Container[str]
) -> dict[str, Any]:
    """Turn a flat configuration into a v6 one.

    What those releases assumed when a key was absent is filled in: ``standard``, ReLU, float32,
    `b_dec` subtracted from the input, a BOS token, and heads flattened at a ``hook_z``.

    Args:
        metadata_keys: keys that go to the metadata block by name; unknown ones go there too.

    Raises:
        SAEFormatError: an activation function that no architecture here has, or topk without k.
    """
    old = {_RENAMED.get(key, key): value for key, value in flat.items()}
    old.setdefault("prepend_bos", True)
    old.setdefault("dtype", "float32")
    if old.get("d_sae") is None and isinstance(old.get("expansion_factor"), int):
        old["d_sae"] = old.get("d_in", 0) * old["expansion_factor"]
    normalization = old.get("normalize_activations")
    if normalization is None or normalization is False:
        old["normalize_activations"] = "none"
    elif normalization is True:
        old["normalize_activations"] = "expected_average_only_in"
    hook_name, layer = old.get("hook_name"), old.get("hook_layer")
    if isinstance(hook_name, str) and type(layer) is int:
        # The first folders name the hook points of all layers at once.
        old["hook_name"] = hook_name.replace("{layer}", str(layer))
    if old.get("reshape_activations") is None:
        at_z = "hook_z" in str(old.get("hook_name", ""))
        old["reshape_activations"] = "hook_z" if at_z else "none"
    old["architecture"], k = _architecture(old)
    if k is not None:
        old["k"] = k

    upgraded: dict[str, Any] = {key: old[key] for key in _TOP_LEVEL if key in old}
    upgraded["metadata"] = {
        key: value
        for key, value in old.items()
        if key in metadata_keys or not (key in _TOP_LEVEL or key in _ABSORBED)
    }
    return upgraded


def _architecture(old: Mapping[str, Any]) -> tuple[Any, Any]:
    architecture = old.get("architecture") or "standard"
    activation = old.get("activation_fn_str") or "relu"
    kwargs = old.get("activation_fn_kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise SAEFormatError(
            f"activation_fn_kwargs: expected object, got {type(kwargs).__name__} {kwargs!r:.80}",
            field="activation_fn_kwargs",
        )
    if activation == "topk" or architecture == "topk":
        if architecture not in ("standard", "topk"):
            raise SAEFormatError(
                f"activation_fn: topk does not go with the architecture {architecture!r}",
                field="activation_fn",
            )
        k = kwargs.get("k", old.get("k"))
        if k is None:
            raise SAEFormatError(
                "activation_fn_kwargs.k: missing, though the activation function is topk",
                field="activation_fn_kwargs.k",
            )
        return "topk", k
    if activation not in ("relu", "jumprelu"):
        raise SAEFormatError(
            f"activation_fn: {activation!r} is none of relu, jumprelu, topk", field="activation_fn"
        )
    return architecture, None
