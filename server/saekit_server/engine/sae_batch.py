"""SAE-only batches: given activations to features, and features to activations."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from saekit_core.sae import SAE
from saekit_core.sae.normalization import EncodeState
from saekit_core.sae.sparse import SparseActs, encode_sparse
from saekit_core.sae.sparse_decode import decode_sparse
from saekit_server.engine.forward import split_encoding
from saekit_server.engine.work import (
    STATE_PARTS,
    DecodeWork,
    EncodeActivationsWork,
    Encoding,
)

Floats = npt.NDArray[np.float32]


def encode_batch(works: Sequence[EncodeActivationsWork]) -> list[Encoding]:
    """Encodes the rows of all works, which name one SAE, in one go."""
    loaded = works[0].loaded
    flat = [work.x.reshape(len(work.x), -1) for work in works]
    x = torch.from_numpy(np.concatenate(flat)).to(loaded.sae.device)
    acts, state = encode_sparse(loaded.sae, loaded.bound.x_of(x))
    encodings = split_encoding(
        acts,
        state,
        [np.arange(len(rows)) for rows in flat],
        return_state=any(work.return_state for work in works),
    )
    return [
        replace(encoding, every_position=True, head_shape=work.x.shape[1:])
        if work.x.ndim == 3
        else replace(encoding, every_position=True)
        for work, encoding in zip(works, encodings, strict=True)
    ]


def decode_batch(works: Sequence[DecodeWork]) -> list[Floats]:
    """Decodes the rows of all works, which name one SAE, in one go."""
    sae = works[0].loaded.sae
    counts = [work.acts.shape[0] for work in works]
    offsets = np.cumsum([0, *(work.acts.nnz for work in works)])[:-1]
    ends = [work.acts.indptr[1:] + offset for work, offset in zip(works, offsets, strict=True)]
    values = np.concatenate([work.acts.data.astype(np.float32) for work in works])
    acts = SparseActs(
        indptr=np.concatenate([[0], *ends]).astype(np.uint32),
        indices=np.concatenate([work.acts.indices for work in works]),
        values=torch.from_numpy(values),
        n_rows=sum(counts),
        d_sae=sae.cfg.d_sae,
    )
    decoded = decode_sparse(sae, acts, _join([work.state for work in works], counts, sae))
    pieces = np.split(decoded.cpu().numpy(), np.cumsum(counts)[:-1])
    return [_with_heads(piece, work.state) for piece, work in zip(pieces, works, strict=True)]


def _join(
    states: Sequence[EncodeState | None], counts: Sequence[int], sae: SAE
) -> EncodeState | None:
    """The states of consecutive works as one; gaps are filled neutrally."""
    present = [state or EncodeState() for state in states]
    neutral = {"scale": sae.cfg.activation_normalization_factor or 1.0}

    def cat(name: str) -> torch.Tensor | None:
        parts = [getattr(state, name) for state in present]
        width = next((part.shape[1] for part in parts if part is not None), None)
        if width is None:
            return None
        filled = [
            torch.full((count, width), neutral.get(name, 0.0)) if part is None else part
            for part, count in zip(parts, counts, strict=True)
        ]
        return torch.cat(filled).to(sae.device)

    parts: dict[str, Any] = {name: cat(name) for name in STATE_PARTS}
    return EncodeState(**parts)


def _with_heads(rows: Floats, state: EncodeState | None) -> Floats:
    if state is None or state.head_shape is None:
        return rows
    return rows.reshape(len(rows), *state.head_shape)
