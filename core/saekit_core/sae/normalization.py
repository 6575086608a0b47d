"""Normalisation of activations before encoding, and its inverse after decoding.

The state that the inverse needs is a value that travels, not an attribute of a module, so that
decoding does not depend on what was encoded last. Definitions are those of SAELens 6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Final

import torch
from torch import Tensor

LAYER_NORM_EPS = 1e-5

STATE_OF_NORMALIZATION: Final = {
    "layer_norm": ("mean", "std"),
    "constant_norm_rescale": ("scale",),
}
"""Which parts of the state decode cannot do without, by normalisation."""

RowIndex = int | slice | Tensor | EllipsisType


@dataclass(frozen=True)
class EncodeState:
    """What decode needs to know of the activations that were encoded.

    The leading shape of tensors is that of the activations. `mean`, `std` and `scale` are
    ``[..., 1]`` in float32 (float64 for a float64 SAE), the others in the SAE's dtype. A field is
    None where the SAE has no use for it.
    """

    mean: Tensor | None = None
    """layer_norm: mean over d_in, added back by decode."""
    std: Tensor | None = None
    """layer_norm: unbiased standard deviation over d_in, multiplied back by decode."""
    scale: Tensor | None = None
    """constant_norm_rescale: √d_in/‖x‖ (constant_scalar_rescale: its factor), divided out by
    decode."""
    head_shape: tuple[int, int] | None = None
    """hook_z: ``(heads, d_head)``, to which decode unflattens."""
    x: Tensor | None = None
    """Skip transcoders: the raw activations ``[..., d_in]``, whose linear image decode adds."""
    predicted: Tensor | None = None
    """temporal: what the context predicts, ``[..., d_in]`` before the normalisation is undone."""

    def output_scale(self) -> Tensor | None:
        """Factor ``[..., 1]`` from a difference of decoder outputs to the activations' own units.

        None stands for 1.
        """
        if self.std is not None:
            return self.std
        return None if self.scale is None else 1.0 / self.scale

    def rows(self, index: RowIndex) -> EncodeState:
        """The state of a selection along the leading axis."""

        def pick(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[index]

        return replace(
            self,
            mean=pick(self.mean),
            std=pick(self.std),
            scale=pick(self.scale),
            x=pick(self.x),
            predicted=pick(self.predicted),
        )

    def leading_shape(self) -> tuple[int, ...] | None:
        """Leading shape of the activations; None if nothing in the state depends on them."""
        for tensor in (self.mean, self.std, self.scale, self.x, self.predicted):
            if tensor is not None:
                return tuple(tensor.shape[:-1])
        return None


def normalize(x: Tensor, kind: str, *, factor: float = 1.0) -> tuple[Tensor, EncodeState]:
    """Normalise activations ``[..., d_in]``; the result has x's dtype.

    - ``none`` and ``expected_average_only_in`` change nothing: the factor of the latter, √d_in over
      the mean norm of the training activations, lies in the saved weights.
    - ``layer_norm``: (x − mean)/(std + 1e-5), with the unbiased standard deviation.
    - ``constant_norm_rescale``: x·√d_in/‖x‖; a row of zeros is left as it is.
    - ``constant_scalar_rescale``: x·`factor`.
    """
    if kind in ("none", "expected_average_only_in"):
        return x, EncodeState()
    # Statistics in float16 overflow for residual streams with a few huge dimensions.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if kind == "layer_norm":
        mean = wide.mean(dim=-1, keepdim=True)
        centred = wide - mean
        std = centred.std(dim=-1, keepdim=True)
        return (centred / (std + LAYER_NORM_EPS)).to(x.dtype), EncodeState(mean=mean, std=std)
    if kind == "constant_norm_rescale":
        norm = wide.norm(dim=-1, keepdim=True)
        root_d = wide.shape[-1] ** 0.5
        # Replacing the zero before dividing keeps its gradient finite too.
        scale = root_d / torch.where(norm > 0, norm, root_d)
        return (wide * scale).to(x.dtype), EncodeState(scale=scale)
    if kind == "constant_scalar_rescale":
        scale = wide.new_full((*wide.shape[:-1], 1), factor)
        return (wide * scale).to(x.dtype), EncodeState(scale=scale)
    raise ValueError(f"unknown normalisation {kind!r}")


def denormalize(y: Tensor, state: EncodeState) -> Tensor:
    """Undo `normalize` on a reconstruction ``[..., d_in]``; the result has y's dtype."""
    if state.std is not None and state.mean is not None:
        return (y * state.std + state.mean).to(y.dtype)
    if state.scale is not None:
        return (y / state.scale).to(y.dtype)
    return y
