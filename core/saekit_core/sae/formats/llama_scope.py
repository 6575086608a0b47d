"""SAEs of OpenMOSS' lm-saes: Llama Scope (He et al. 2024) and its successor on DeepSeek-R1.

Both encode x̃ = s·x, with s = √d/(mean norm of the training activations), which is folded into the
weights. A feature is active where p·‖W_dec‖ is above its threshold if the configuration says
``sparsity_include_decoder_norm``, as theirs do, else where p is; in SAELens it is always p. In
lm-saes (``sae.py``, ``initializer.py``) the one threshold of Llama Scope is measured after the
decoder was brought to the scale of the raw activations, so that in terms of p it is
threshold·s_out/‖W_dec‖, or threshold·s_in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from saekit_core.sae.dtypes import dtype_name
from saekit_core.sae.formats.files import Files
from saekit_core.sae.formats.format import FolderFormat, Reading
from saekit_core.sae.formats.settings import Settings
from saekit_core.sae.formats.tensor_file import TensorFile, row_major, widened
from saekit_core.sae.layout import WEIGHTS_FILE
from saekit_core.sae.weights import decoder_norms

HYPERPARAMS_FILE: Final = "hyperparams.json"
FINAL_FILE: Final = "checkpoints/final.safetensors"
CONFIG_FILE: Final = "config.json"

_COMMON: Final = {
    "model_name": "meta-llama/Llama-3.1-8B",
    "apply_b_dec_to_input": False,
    "dataset_path": "cerebras/SlimPajama-627B",
    "context_size": 1024,
    "normalize_activations": "expected_average_only_in",
}
_NEVER: Final = 6e4
"""A threshold that nothing reaches, and that float16 still holds: for a decoder row of zeros."""


@dataclass(frozen=True)
class LlamaScope(FolderFormat):
    """``hyperparams.json`` and ``checkpoints/final.safetensors``: JumpReLU with one threshold."""

    name: str = "llama_scope"
    required: tuple[str, ...] = (HYPERPARAMS_FILE, FINAL_FILE)
    mark: str = HYPERPARAMS_FILE

    def read(self, files: Files) -> Reading:
        settings = files.settings(HYPERPARAMS_FILE)
        _expect_jumprelu(settings)
        _expect_size(files, settings, "d_in", "d_model")
        _expect_size(files, settings, "d_sae", "d_sae")
        root = files.sizes["d_in"] ** 0.5
        norms = "dataset_average_activation_norm"
        s_in = root / _positive(settings, f"{norms}.in")
        hook, hook_out = _hooks(settings)
        s_out = root / _positive(settings, f"{norms}.out") if hook_out else s_in
        weights = files.tensors(FINAL_FILE)
        tensors = _take(weights, transcodes=hook_out is not None)
        weights.finish()
        threshold = settings.get("jump_relu_threshold", float)
        # One number per feature, also where it is the same for all.
        per_feature = torch.full((files.sizes["d_sae"],), threshold * s_in)
        if settings.get("sparsity_include_decoder_norm", bool, False):
            per_feature = _over_norms(torch.full_like(per_feature, threshold * s_out), tensors)
        if hook_out:
            # The fold divides by s_in what has to be divided by s_out.
            for name in ("W_dec", "b_dec"):
                tensors[name] = widened(tensors[name]) * (s_in / s_out)
        tensors["threshold"] = per_feature
        values = {
            **_COMMON,
            "architecture": "jumprelu_transcoder" if hook_out else "jumprelu",
            **files.sizes,
            "dtype": dtype_name(tensors["W_enc"].dtype),
            "hook_name": hook,
            "hook_name_out": hook_out,
        }
        return Reading(values, tensors, FINAL_FILE, HYPERPARAMS_FILE, norm_scaling_factor=s_in)


@dataclass(frozen=True)
class LlamaScopeR1Distill(FolderFormat):
    """``config.json`` and ``sae_weights.safetensors``: JumpReLU, a threshold for each feature."""

    name: str = "llama_scope_r1_distill"
    required: tuple[str, ...] = (CONFIG_FILE, WEIGHTS_FILE)

    def read(self, files: Files) -> Reading:
        settings = files.settings(CONFIG_FILE)
        _expect_jumprelu(settings)
        _expect_size(files, settings, "d_in", "d_model")
        d_in = files.sizes["d_in"]
        files.sizes["d_sae"] = d_in * settings.get("expansion_factor", int)
        hook, hook_out = _hooks(settings)
        if hook_out is not None:
            raise settings.error("hook_point_out", "differs from hook_point_in: not supported")
        weights = files.tensors(WEIGHTS_FILE)
        tensors = _take(weights, transcodes=False)
        threshold = widened(weights.take("log_jumprelu_threshold", "d_sae")).exp()
        if settings.get("sparsity_include_decoder_norm", bool, False):
            threshold = _over_norms(threshold, tensors)
        tensors["threshold"] = threshold
        factor = _stored_factor(weights, settings, d_in, hook)
        weights.finish()
        if factor is None and files.facts.get("norm_scaling_factor") is None:
            raise settings.error(
                "dataset_average_activation_norm",
                "missing, so that the scale of the activations is not known; give "
                "norm_scaling_factor in the Origin, as the directory of releases does",
            )
        values = {
            **_COMMON,
            "architecture": "jumprelu",
            **files.sizes,
            "dtype": "float32",
            "hook_name": hook,
        }
        return Reading(values, tensors, WEIGHTS_FILE, CONFIG_FILE, norm_scaling_factor=factor)


def _expect_jumprelu(settings: Settings) -> None:
    settings.expect("act_fn", "jumprelu")
    settings.expect("norm_activation", "dataset-wise")
    settings.expect("use_glu_encoder", False)
    settings.expect("use_decoder_bias", True)
    settings.expect("apply_decoder_bias_to_pre_encoder", False)


def _expect_size(files: Files, settings: Settings, name: str, key: str) -> None:
    files.sizes[name] = settings.get(key, int)


def _positive(settings: Settings, key: str) -> float:
    value = settings.get(key, float)
    if not 0 < value < float("inf"):
        raise settings.error(key, f"{value} is no norm")
    return value


def _hooks(settings: Settings) -> tuple[str, str | None]:
    """The hook point read, and the one written where that is another."""
    hook = settings.get("hook_point_in", str)
    hook_out = settings.get("hook_point_out", str, None)
    return hook, None if hook_out == hook else hook_out


def _take(weights: TensorFile, *, transcodes: bool) -> dict[str, Tensor]:
    d_out = "d_out" if transcodes else "d_in"
    return {
        "W_enc": weights.take("encoder.weight", "d_sae", "d_in").mT,
        "W_dec": row_major(weights.take("decoder.weight", d_out, "d_sae")),
        "b_enc": weights.take("encoder.bias", "d_sae"),
        "b_dec": weights.take("decoder.bias", d_out),
    }


def _over_norms(threshold: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    return (threshold / decoder_norms({"W_dec": widened(tensors["W_dec"])})).clamp(max=_NEVER)


def _stored_factor(weights: TensorFile, settings: Settings, d_in: int, hook: str) -> float | None:
    """s, where the weights or the configuration record the mean norm of the activations."""
    prefix = "dataset_average_activation_norm"
    norm = None
    for key in weights.names():
        if key.startswith(f"{prefix}."):
            value = weights.take_value(key, float)
            norm = value if key == f"{prefix}.{hook}" else norm
    recorded = settings.get(prefix, object, None)
    if norm is None and isinstance(recorded, Mapping):
        norm = recorded.get(hook, recorded.get("in"))
    if norm is None:
        return None
    if not isinstance(norm, int | float) or not 0 < norm < float("inf"):
        raise settings.error(prefix, f"{norm!r:.80} is no norm")
    return float(d_in**0.5 / norm)
