"""Feature activations without a dense ``[rows, d_sae]`` result: the hot path of encoding.

Almost all feature activations are 0, so the pre-activations of one tile of rows × features are
compared with their thresholds while they are still in cache, and only what is active is kept. On a
CPU a tile is a few hundred rows by a few thousand features: a narrow stripe of whole rows would
stream the whole encoder from memory for every stripe, which measured many times slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saekit_core.sae.errors import SAEError
from saekit_core.sae.feature_wise import FeatureWise
from saekit_core.sae.normalization import EncodeState
from saekit_core.sae.sae import SAE
from saekit_core.sae.sparse_acts import SparseActs
from saekit_core.sae.top_k import TopK

__all__ = ["SparseActs", "encode_sparse"]

CPU_BLOCK_ROWS: Final = 512
CPU_TILE_FEATURES: Final = 2048
DEVICE_BLOCK_BYTES: Final = 256 << 20
"""Workspace for pre-activations where memory is fast and launches are what costs."""

_GROUP: Final = 32


@torch.no_grad()
def encode_sparse(
    sae: SAE, x: Tensor, *, block_rows: int | None = None, top_k: int | None = None
) -> tuple[SparseActs, EncodeState]:
    """Encode rows of activations to sparse feature activations, without gradients.

    Args:
        x: ``[N, d_in]`` of any float dtype, on the SAE's device (heads flattened). For a temporal
            SAE the rows are the positions of one sequence, from its start.
        block_rows: rows that are worked on at a time; None chooses for the device.
        top_k: report only this many features per row, those of largest activation.

    Returns:
        What `SAE.encode_with_state` would give, up to rounding, and the same state.

    Raises:
        SAEError: x is not ``[N, d_in]``, or block_rows or top_k is out of range.
    """
    if x.dim() != 2 or x.shape[1] != sae.cfg.d_in:
        raise SAEError(
            f"activations: shape {list(x.shape)}, expected [rows, d_in={sae.cfg.d_in}]", field="x"
        )
    if top_k is not None and not 1 <= top_k <= sae.cfg.d_sae:
        raise SAEError(f"top_k: {top_k} is not in 1..d_sae={sae.cfg.d_sae}", field="top_k")
    if block_rows is not None and block_rows < 1:
        raise SAEError(f"block_rows: {block_rows} is not positive", field="block_rows")
    if sae.architecture.sequential:
        dense, state = sae.encode_with_state(x)
        acts = SparseActs.from_dense(dense)
        return (acts if top_k is None else acts.keep_largest(top_k)), state
    x_tilde, state = sae.prepare(x)
    encoder = _BlockEncoder(sae, len(x), block_rows)
    starts = range(0, max(len(x), 1), encoder.n_rows)
    acts = SparseActs.concatenate(
        [encoder.encode(x_tilde[start : start + encoder.n_rows]) for start in starts]
    )
    return (acts if top_k is None else acts.keep_largest(top_k)), state


@dataclass(frozen=True)
class _Tile:
    """Active entries of a block of rows in a range of features, row by row, on the CPU."""

    counts: NDArray[np.int64]
    """``[rows]``"""
    features: NDArray[np.int64]
    """Ascending within a row."""
    values: Tensor


class _BlockEncoder:
    """Encodes block after block of rows in the same workspace."""

    def __init__(self, sae: SAE, n_rows: int, block_rows: int | None) -> None:
        """`n_rows` are coming; blocks have `block_rows`, or what suits the device."""
        self.cfg = sae.cfg
        self.weights = sae.weights()
        self.architecture = sae.architecture
        if sae.device.type == "cpu":
            rows, self.tile_features = CPU_BLOCK_ROWS, min(CPU_TILE_FEATURES, sae.cfg.d_sae)
        else:
            rows = DEVICE_BLOCK_BYTES // (sae.cfg.d_sae * sae.dtype.itemsize)
            self.tile_features = sae.cfg.d_sae
        self.n_rows = max(1, min(block_rows or rows, n_rows))
        select = self.architecture.select
        # The k largest of a row are known only when all of its pre-activations are there.
        width = sae.cfg.d_sae if isinstance(select, TopK) else self.tile_features
        if not isinstance(select, TopK | FeatureWise):
            width = 0  # it has no pre-activations that a workspace could hold
        self._p = torch.empty(self.n_rows * width, dtype=sae.dtype, device=sae.device)
        self._mask = torch.empty(self.n_rows * width, dtype=torch.bool, device=sae.device)

    def encode(self, x_tilde: Tensor) -> SparseActs:
        """Active features of x̃ ``[rows, d_in]``, with at most `n_rows` rows."""
        select = self.architecture.select
        if isinstance(select, TopK):
            return self._top_k(x_tilde, select)
        if not isinstance(select, FeatureWise):
            acts = self.architecture.encode(self.cfg, self.weights, x_tilde)
            return SparseActs.from_dense(acts)
        return _merge([self._above(x_tilde, select, c) for c in self._tiles()], self.cfg.d_sae)

    def _tiles(self) -> list[slice]:
        d_sae, width = self.cfg.d_sae, self.tile_features
        return [slice(start, min(start + width, d_sae)) for start in range(0, d_sae, width)]

    def _above(self, x_tilde: Tensor, select: FeatureWise, columns: slice) -> _Tile:
        """One tile: the features of `columns` that are above their thresholds."""
        n_rows, width = len(x_tilde), columns.stop - columns.start
        p = self._p[: n_rows * width].view(n_rows, width)
        mask = self._mask[: n_rows * width].view(n_rows, width)
        bias = select.bias(self.weights, columns)
        _pre_activations(self.weights["W_enc"][:, columns], x_tilde, bias, p)
        torch.gt(p, select.threshold(self.weights, columns), out=mask)
        entries = _flat_nonzero(mask)
        features = entries % width + columns.start
        values = select.magnitude(self.weights, p.view(-1)[entries], features)
        if not select.always_positive:
            positive = values > 0
            entries, features, values = entries[positive], features[positive], values[positive]
        counts = _counts(entries, n_rows, width)
        return _Tile(counts, features.cpu().numpy(), values.cpu())

    def _top_k(self, x_tilde: Tensor, select: TopK) -> SparseActs:
        n_rows, d_sae, k = len(x_tilde), self.cfg.d_sae, self.cfg.k or 1
        p = self._p[: n_rows * d_sae].view(n_rows, d_sae)
        mask = self._mask[: n_rows * d_sae].view(n_rows, d_sae)
        bias = self.architecture.bias(self.weights)
        for columns in self._tiles():
            part = None if bias is None else bias[columns]
            _pre_activations(self.weights["W_enc"][:, columns], x_tilde, part, p[:, columns])
        values = select.values(self.cfg, self.weights, p)
        ranked = select.rank(values)
        torch.ge(ranked, _below_largest(ranked, k), out=mask)
        entries = _flat_nonzero(mask)
        kept = values.view(-1)[entries]
        counts_too = kept != 0 if select.signed else kept > 0
        entries, kept = entries[counts_too], kept[counts_too]
        candidates = SparseActs.from_counts(
            _counts(entries, n_rows, d_sae),
            (entries % d_sae).cpu().numpy().astype(np.uint32),
            kept.cpu(),
            d_sae,
        )
        return candidates.keep_largest(k)


def _pre_activations(W_enc: Tensor, x_tilde: Tensor, bias: Tensor | None, out: Tensor) -> None:
    if bias is None:
        torch.mm(x_tilde, W_enc, out=out)
    else:
        torch.addmm(bias, x_tilde, W_enc, out=out)


def _below_largest(ranked: Tensor, k: int) -> Tensor:
    """A bound ``[rows, 1]`` that at least the k largest of each row reach, and few others.

    The k-th largest of the maxima of disjoint groups is one, and orders a small part of the row.
    """
    n_rows, d_sae = ranked.shape
    size = max(1, min(_GROUP, d_sae // (4 * k)))
    n_groups = d_sae // size
    # Groups are strided, so that a maximum is taken over long vectors.
    maxima = ranked[:, : n_groups * size].reshape(n_rows, size, n_groups).amax(dim=1)
    return maxima.topk(k, sorted=False).values.amin(dim=1, keepdim=True).clamp(min=0)


def _flat_nonzero(mask: Tensor) -> Tensor:
    """Positions of the true values of a contiguous mask, ascending, on the mask's device."""
    if mask.device.type == "cpu":
        # Six times faster than torch.nonzero on masks that are almost empty.
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.view(-1).nonzero().view(-1)


def _counts(entries: Tensor, n_rows: int, width: int) -> NDArray[np.int64]:
    """Entries per row, ``[rows]``, from ascending positions in a ``[rows, width]`` array."""
    bounds = np.searchsorted(entries.cpu().numpy(), np.arange(n_rows + 1) * width)
    return bounds[1:] - bounds[:-1]


def _merge(tiles: list[_Tile], d_sae: int) -> SparseActs:
    """Bring entries from tile by tile to row by row order; the tiles ascend by feature."""
    counts = np.stack([tile.counts for tile in tiles])  # [tiles, rows]
    per_row = counts.sum(axis=0)
    total = int(per_row.sum())
    indices = np.empty(total, dtype=np.uint32)
    values = tiles[0].values.new_empty(total)
    # Where the entries of each tile and row go: after the earlier rows and the row's earlier tiles.
    first = (per_row.cumsum() - per_row) + (counts.cumsum(axis=0) - counts)
    for tile, start in zip(tiles, first, strict=True):
        within_tile = tile.counts.cumsum() - tile.counts
        places = np.repeat(start - within_tile, tile.counts) + np.arange(len(tile.features))
        indices[places] = tile.features
        values[torch.from_numpy(places)] = tile.values
    return SparseActs.from_counts(per_row, indices, values, d_sae)
