"""The files of an SAE folder, and how what they hold becomes an SAE."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from saekit_core.sae.architectures import architecture_of
from saekit_core.sae.config import SAEConfig
from saekit_core.sae.dtypes import dtype_name, torch_dtype
from saekit_core.sae.errors import SAEFormatError

CFG_FILE: Final = "cfg.json"
WEIGHTS_FILE: Final = "sae_weights.safetensors"
SPARSITY_FILE: Final = "sparsity.safetensors"
FEATURES_FILE: Final = "features.json"
FEATURE_ARRAYS_FILE: Final = "features.safetensors"

ANSWER_FILES: Final = (CFG_FILE, FEATURES_FILE, FEATURE_ARRAYS_FILE, WEIGHTS_FILE)
"""The files that determine an answer, in the order in which a revision hashes them."""

MAX_CFG_BYTES: Final = 1 << 20


def format_config(cfg: SAEConfig) -> bytes:
    """A ``cfg.json`` of the v6 layout."""
    values: dict[str, Any] = cfg.to_dict()
    values["device"] = "cpu"  # where it was trained says nothing of the SAE, and would hash
    return (json.dumps(values, indent=2) + "\n").encode()


def check_weights(
    cfg: SAEConfig, tensors: Mapping[str, Tensor], *, file: str = WEIGHTS_FILE
) -> dict[str, Tensor]:
    """Tensors of a weights file under their present names, with names and shapes checked.

    ``log_threshold`` becomes θ = exp(log_threshold); a ``scaling_factor`` of old fine-tuned SAEs,
    which multiplies feature activations before `W_dec`, is multiplied into the rows of `W_dec`.

    Raises:
        SAEFormatError: naming the file and the tensor.
    """
    expected = architecture_of(cfg).shapes(cfg)
    stored = dict(tensors)
    log_threshold = stored.get("log_threshold")
    if log_threshold is not None and "threshold" in expected and "threshold" not in stored:
        stored["threshold"] = stored.pop("log_threshold").exp()
    factors = [stored.pop(name) for name in _SCALING_FACTORS if name in stored]
    missing = sorted(expected.keys() - stored.keys())
    if missing:
        raise _bad_tensor(missing[0], f"missing, {cfg.architecture} has it", file=file)
    extra = sorted(stored.keys() - expected.keys())
    if extra:
        raise _bad_tensor(extra[0], f"{cfg.architecture} has no such tensor", file=file)
    for name, shape in expected.items():
        if tuple(stored[name].shape) != shape:
            problem = f"shape {list(stored[name].shape)}, expected {list(shape)}"
            raise _bad_tensor(name, problem, file=file)
    for factor in factors:
        if tuple(factor.shape) != (cfg.d_sae,):
            problem = f"shape {list(factor.shape)}, expected [{cfg.d_sae}]"
            raise _bad_tensor("scaling_factor", problem, file=file)
        if not torch.equal(factor, torch.ones_like(factor)):
            stored["W_dec"] = stored["W_dec"] * factor[:, None]
    return stored


def check_finite(tensors: Mapping[str, Tensor], *, file: str = WEIGHTS_FILE) -> None:
    """Refuse tensors with NaN or infinite values.

    Raises:
        SAEFormatError: naming the file and the tensor.
    """
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            continue
        # One pass, no mask in memory: extremes are finite if and only if everything is.
        low, high = torch.aminmax(tensor)
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise _bad_tensor(name, "holds NaN or infinite values", file=file)


def convert(
    cfg: SAEConfig,
    tensors: Mapping[str, Tensor],
    *,
    device: str | torch.device,
    dtype: str | torch.dtype | None,
) -> tuple[SAEConfig, dict[str, Tensor]]:
    """Tensors on a device and in a dtype (None: that of the configuration); no copy where equal."""
    name = dtype_name(dtype if dtype is not None else cfg.dtype)
    moved = {
        key: tensor.to(device=device, dtype=torch_dtype(name)) for key, tensor in tensors.items()
    }
    return replace(cfg, dtype=name), moved


def narrows(tensors: Mapping[str, Tensor], dtype: str | torch.dtype) -> bool:
    """Whether a conversion to `dtype` could turn a finite value into an infinite one."""
    target = torch.finfo(torch_dtype(dtype)).max
    return any(torch.finfo(tensor.dtype).max > target for tensor in tensors.values())


_SCALING_FACTORS: Final = ("scaling_factor", "finetuning_scaling_factor")


def _bad_tensor(name: str, problem: str, *, file: str) -> SAEFormatError:
    return SAEFormatError(f"{file}: {name}: {problem}", field=name)
