"""Feature activations without a dense ``[rows, d_sae]`` result: the hot path of encoding.

Almost all feature activations are 0, so the pre-activations of one tile of rows × features are
compared with their thresholds as soon as they are there, and only what is active is kept. On a CPU
a tile is two thousand rows by two thousand features: a narrow stripe of whole rows would stream the
whole encoder from memory for every stripe, which measured many times slower. Smaller tiles are no
faster, and every operation of a tile waits for Python's lock, which a busy server's other threads
want too.
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

CPU_BLOCK_ROWS: Final = 2048
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


@dataclass(frozen=True)
class _Stripe:
    """The features of a tile, and what all blocks of rows need of them."""

    start: int
    width: int
    W_enc: Tensor
    """``[d_in, width]``"""
    bias: Tensor | None
    """``[width]``"""
    threshold: Tensor | float
    """``[width]``, or one for all; not of TopK."""


@dataclass(frozen=True)
class _Room:
    """Workspace for a tile, and the same memory as numpy sees it."""

    p: Tensor
    """``[rows, width]``"""
    mask: Tensor
    """bool ``[rows, width]``"""
    flat_p: Tensor
    flat_mask: NDArray[np.bool_] | None
    """None on another device than a CPU."""

    def active(self) -> tuple[Tensor, Tensor]:
        """Where the mask is true: ascending positions in `flat_p`, and their columns."""
        width = self.p.shape[1]
        if self.flat_mask is None:
            entries = self.mask.view(-1).nonzero().view(-1)
            return entries, entries % width
        # Six times faster than torch.nonzero on masks that are almost empty.
        found = np.flatnonzero(self.flat_mask)
        return torch.from_numpy(found), torch.from_numpy(found % width)


class _BlockEncoder:
    """Encodes block after block of rows in the same workspace.

    What blocks have in common is made once: each operation, a slice too, gives Python's lock away
    and has to wait for it.
    """

    def __init__(self, sae: SAE, n_rows: int, block_rows: int | None) -> None:
        """`n_rows` are coming; blocks have `block_rows`, or what suits the device."""
        self.cfg = sae.cfg
        self.weights = sae.weights()
        self.architecture = sae.architecture
        if sae.device.type == "cpu":
            rows, tile_features = CPU_BLOCK_ROWS, min(CPU_TILE_FEATURES, sae.cfg.d_sae)
        else:
            rows = DEVICE_BLOCK_BYTES // (sae.cfg.d_sae * sae.dtype.itemsize)
            tile_features = sae.cfg.d_sae
        self.n_rows = max(1, min(block_rows or rows, n_rows))
        select = self.architecture.select
        # The k largest of a row are known only when all of its pre-activations are there.
        width = sae.cfg.d_sae if isinstance(select, TopK) else tile_features
        if not isinstance(select, TopK | FeatureWise):
            width = 0  # it has no pre-activations that a workspace could hold
        self._p = torch.empty(self.n_rows * width, dtype=sae.dtype, device=sae.device)
        self._mask = torch.empty(self.n_rows * width, dtype=torch.bool, device=sae.device)
        self._rooms: dict[tuple[int, int], _Room] = {}
        self._stripes = [
            self._stripe(start, tile_features)
            for start in range(0, sae.cfg.d_sae if width else 0, tile_features)
        ]

    def encode(self, x_tilde: Tensor) -> SparseActs:
        """Active features of x̃ ``[rows, d_in]``, with at most `n_rows` rows."""
        select = self.architecture.select
        if isinstance(select, TopK):
            return self._top_k(x_tilde, select)
        if not isinstance(select, FeatureWise):
            acts = self.architecture.encode(self.cfg, self.weights, x_tilde)
            return SparseActs.from_dense(acts)
        tiles = [self._above(x_tilde, select, stripe) for stripe in self._stripes]
        return _merge(tiles, self.cfg.d_sae)

    def _stripe(self, start: int, width: int) -> _Stripe:
        columns = slice(start, min(start + width, self.cfg.d_sae))
        select = self.architecture.select
        bias: Tensor | None
        threshold: Tensor | float = 0.0
        if isinstance(select, FeatureWise):
            bias = select.bias(self.weights, columns)
            threshold = select.threshold(self.weights, columns)
        else:
            whole = self.architecture.bias(self.weights)
            bias = None if whole is None else whole[columns]
        W_enc = self.weights["W_enc"][:, columns]
        return _Stripe(start, columns.stop - start, W_enc, bias, threshold)

    def _room(self, rows: int, width: int) -> _Room:
        """The workspace for so many rows and features; made once, since all blocks but the last,
        and all stripes but the last, have the same."""
        room = self._rooms.get((rows, width))
        if room is None:
            flat_p, flat_mask = self._p[: rows * width], self._mask[: rows * width]
            room = self._rooms[rows, width] = _Room(
                flat_p.view(rows, width),
                flat_mask.view(rows, width),
                flat_p,
                flat_mask.numpy() if flat_mask.device.type == "cpu" else None,
            )
        return room

    def _above(self, x_tilde: Tensor, select: FeatureWise, stripe: _Stripe) -> _Tile:
        """One tile: the features of a stripe that are above their thresholds."""
        room = self._room(len(x_tilde), stripe.width)
        _pre_activations(stripe.W_enc, x_tilde, stripe.bias, room.p)
        torch.gt(room.p, stripe.threshold, out=room.mask)
        entries, features = room.active()
        features += stripe.start
        values = select.magnitude(self.weights, room.flat_p[entries], features)
        if not select.always_positive:
            positive = values > 0
            entries, features, values = entries[positive], features[positive], values[positive]
        counts = _counts(entries, len(x_tilde), stripe.width)
        return _Tile(counts, features.cpu().numpy(), values.cpu())

    def _top_k(self, x_tilde: Tensor, select: TopK) -> SparseActs:
        n_rows, d_sae, k = len(x_tilde), self.cfg.d_sae, self.cfg.k or 1
        room = self._room(n_rows, d_sae)
        for stripe in self._stripes:
            part = room.p[:, stripe.start : stripe.start + stripe.width]
            _pre_activations(stripe.W_enc, x_tilde, stripe.bias, part)
        values = select.values(self.cfg, self.weights, room.p)
        ranked = select.rank(values)
        torch.ge(ranked, _below_largest(ranked, k), out=room.mask)
        entries, features = room.active()
        kept = values.view(-1)[entries]
        counts_too = kept != 0 if select.signed else kept > 0
        entries, features, kept = entries[counts_too], features[counts_too], kept[counts_too]
        candidates = SparseActs.from_counts(
            _counts(entries, n_rows, d_sae),
            features.cpu().numpy().astype(np.uint32),
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
