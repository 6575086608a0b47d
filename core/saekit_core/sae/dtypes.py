"""Names of the number types that an SAE can have, as SAELens writes them in ``cfg.json``."""

from __future__ import annotations

from typing import Final

import torch

from saekit_core.sae.errors import SAEFormatError

DTYPES: Final[dict[str, torch.dtype]] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


def dtype_name(dtype: str | torch.dtype) -> str:
    """Canonical name of a dtype: ``float32`` for ``"torch.float32"`` and ``torch.float32``.

    Raises:
        SAEFormatError: not one of float16, bfloat16, float32, float64.
    """
    if isinstance(dtype, torch.dtype):
        name = _NAMES.get(dtype)
    else:
        name = dtype.removeprefix("torch.")
        name = name if name in DTYPES else None
    if name is None:
        raise SAEFormatError(f"dtype: {dtype!s} is none of {', '.join(DTYPES)}", field="dtype")
    return name


def torch_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The torch dtype of that name; raises as `dtype_name`."""
    return DTYPES[dtype_name(dtype)]
