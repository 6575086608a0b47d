"""Decoding of sparse feature activations: only the decoder rows of active features are touched."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from saekit_core.sae.errors import SAEError
from saekit_core.sae.normalization import EncodeState
from saekit_core.sae.sae import SAE
from saekit_core.sae.sparse import SparseActs


@torch.no_grad()
def decode_sparse(sae: SAE, acts: SparseActs, state: EncodeState | None = None) -> Tensor:
    """Reconstruction float32 ``[n_rows, d_out]`` (heads flattened), without gradients.

    Args:
        acts: what `encode_sparse` gives, or any feature activations of that form.
        state: what the SAE's normalisation needs to be undone; see `SAE.encode_with_state`.

    Returns:
        What `SAE.decode` would give in float32, up to rounding.

    Raises:
        SAEError: the activations are of another width than d_sae.
    """
    if acts.d_sae != sae.cfg.d_sae:
        raise SAEError(
            f"feature activations: d_sae={acts.d_sae}, expected {sae.cfg.d_sae}", field="acts"
        )
    # Gathering the rows once keeps the copy to float32 as small as the features in use.
    features, place = np.unique(acts.indices.astype(np.int64), return_inverse=True)
    rows = sae.decoder_rows(torch.from_numpy(features).to(sae.device))
    if len(features):
        y = F.embedding_bag(
            torch.from_numpy(place).to(sae.device),
            rows,
            torch.from_numpy(acts.indptr[:-1].astype(np.int64)).to(sae.device),
            mode="sum",
            per_sample_weights=acts.values.float().to(sae.device),
        )
    else:
        y = rows.new_zeros((acts.n_rows, sae.cfg.d_out))
    return sae.finish_decode(y, state or EncodeState())
