"""An SAE's tensors held against what its architecture has."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from saekit_core.sae.architectures import architecture_of
from saekit_core.sae.config import SAEConfig
from saekit_core.sae.dtypes import torch_dtype
from saekit_core.sae.errors import SAEFormatError


def check_tensors(cfg: SAEConfig, state: Mapping[str, Tensor]) -> None:
    """Hold tensors against what the architecture has: names, shapes, dtype.

    Raises:
        SAEFormatError: naming the tensor, what it is and what it should be.
    """
    expected = architecture_of(cfg).shapes(cfg)
    for name in expected.keys() - state.keys():
        raise SAEFormatError(f"{name}: missing, {cfg.architecture} has it", field=name)
    for name in state.keys() - expected.keys():
        raise SAEFormatError(f"{name}: {cfg.architecture} has no such tensor", field=name)
    dtype = torch_dtype(cfg.dtype)
    for name, shape in expected.items():
        tensor = state[name]
        if tuple(tensor.shape) != shape:
            raise SAEFormatError(
                f"{name}: shape {list(tensor.shape)}, expected {list(shape)}", field=name
            )
        if tensor.dtype != dtype:
            raise SAEFormatError(f"{name}: {tensor.dtype}, expected {dtype}", field=name)
