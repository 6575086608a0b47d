"""The tensors of one file, taken one after the other, so that none is missing or overlooked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from saekit_core.sae.dtypes import dtype_name
from saekit_core.sae.errors import SAEFormatError
from saekit_core.sae.layout import check_finite

Sizes = dict[str, int]
"""Sizes of an SAE by name (``d_in``, ``d_sae``, …), as what mentioned them first states them."""


class TensorFile:
    """What a weights file holds.

    Args:
        file: its name, for messages.
        values: tensors, and plain values where the format has them.
        sizes: shared by all that is read of one SAE; a shape that disagrees is an error.
        finite: whether NaN and infinities are refused as tensors are taken.
    """

    def __init__(self, file: str, values: Mapping[str, Any], sizes: Sizes, *, finite: bool) -> None:
        self.file = file
        self.sizes = sizes
        self._values = dict(values)
        self._finite = finite

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def names(self) -> list[str]:
        """Names of what was not taken yet."""
        return list(self._values)

    def take(self, key: str, *shape: str) -> Tensor:
        """A tensor, whose axes have the sizes of those names; ``""`` is any size.

        Raises:
            SAEFormatError: it is missing, no tensor of floats, of another shape, or not finite.
        """
        if key not in self._values:
            raise self.error(key, "missing")
        value = self._values.pop(key)
        if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
            kind = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise self.error(key, f"expected a tensor of floats, got {kind}")
        dtype_name(value.dtype)
        axes = [self.sizes.get(name) for name in shape]
        matches = len(axes) == value.dim() and all(
            size in (None, found) for size, found in zip(axes, value.shape, strict=True)
        )
        if not matches or 0 in value.shape:
            wanted = ", ".join(
                f"{name}={size}" if size else name or "any"
                for name, size in zip(shape, axes, strict=True)
            )
            raise self.error(key, f"shape {list(value.shape)}, expected [{wanted}]")
        self.sizes |= {name: size for name, size in zip(shape, value.shape, strict=True) if name}
        if self._finite:
            check_finite({key: value}, file=self.file)
        return value

    def take_value(self, key: str, kind: type, default: Any = None) -> Any:
        """A plain value, or the only element of a tensor.

        Raises:
            SAEFormatError: it is missing without a default, or of another type.
        """
        if key not in self._values:
            if default is None:
                raise self.error(key, "missing")
            return default
        value = self._values.pop(key)
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(key, f"expected {kind.__name__}, got {value!r:.80}")
        return value

    def drop(self, *keys: str) -> None:
        """Leave out what records training and has no part in an answer."""
        for key in keys:
            self._values.pop(key, None)

    def finish(self) -> None:
        """Refuse what was not taken: an SAE with a tensor that nobody knows is another SAE."""
        for key in self._values:
            raise self.error(key, "no part of this format")

    def error(self, key: str, problem: str) -> SAEFormatError:
        """What is wrong with a key."""
        return SAEFormatError(f"{self.file}: {key}: {problem}", field=key)


def row_major(tensor: Tensor) -> Tensor:
    """A transposed matrix whose rows are contiguous, as reading single decoder rows wants it."""
    return tensor.mT.contiguous()


def widened(tensor: Tensor) -> Tensor:
    """A tensor in float32 at least, for arithmetic on weights."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
