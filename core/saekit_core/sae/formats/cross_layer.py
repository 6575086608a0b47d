"""One layer of a cross-layer transcoder, as the transcoder of that layer alone."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def summed_decoders(W_dec: Tensor) -> Tensor:
    """Decoders ``[d_sae, layers, d_out]`` of the layers written to, as one ``[d_sae, d_out]``.

    Feature activations are those of the cross-layer transcoder. The reconstruction is not: what
    goes to later layers is added to what goes to this one, as SAELens does it.
    """
    warnings.warn(
        "a layer of a cross-layer transcoder is read with the sum of its decoders: use it for "
        "feature activations, not for reconstruction or splicing",
        UserWarning,
        stacklevel=2,
    )
    return W_dec.sum(dim=1, dtype=torch.promote_types(W_dec.dtype, torch.float32))
