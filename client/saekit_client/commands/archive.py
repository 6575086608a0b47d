"""The .npz that `saekit encode --out` writes and `saekit decode` reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from saekit.codec import CSR
from saekit_client.results import STATE_ARRAYS, EncodeResult, EncodeState, Floats, stack
from saekit_client.stream_requests import DecodeItem


@dataclass(frozen=True, eq=False)
class Archive:
    """Feature activations of several inputs in one SAE, stacked."""

    sae: str
    """sae_id@revision."""
    features: CSR
    """[rows, d_sae]."""
    row_input: npt.NDArray[np.int64]
    """[rows]: index of the input that each row belongs to."""
    row_position: npt.NDArray[np.int64]
    """[rows]: its position there; -1 when pooled."""
    row_special: npt.NDArray[np.bool_]
    """[rows]: special tokens."""
    state: EncodeState
    """Over all rows."""
    activations: Floats | None
    """[rows, d_in]: what was encoded, if it was kept."""

    def save(self, path: Path) -> None:
        """Writes the archive; `features_*` are the arguments of scipy.sparse.csr_array."""
        arrays: dict[str, Any] = {
            "sae": np.array(self.sae),
            "features_data": self.features.data,
            "features_indices": self.features.indices,
            "features_indptr": self.features.indptr,
            "features_shape": np.array(self.features.shape),
            "row_input": self.row_input,
            "row_position": self.row_position,
            "row_special": self.row_special,
        }
        for name in STATE_ARRAYS:
            if getattr(self.state, name) is not None:
                arrays[f"state_{name}"] = getattr(self.state, name)
        if self.state.head_shape is not None:
            arrays["state_head_shape"] = np.array(self.state.head_shape)
        if self.activations is not None:
            arrays["activations"] = self.activations
        with path.open("wb") as file:  # savez would add a suffix to a bare name
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Archive":
        """Reads an archive.

        Raises:
            ValueError: the file is no such archive.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            rows, d_sae = (int(n) for n in arrays["features_shape"])
            heads = arrays.get("state_head_shape")
            return cls(
                str(arrays["sae"]),
                CSR(
                    arrays["features_indptr"].astype(np.uint32),
                    arrays["features_indices"].astype(np.uint32),
                    arrays["features_data"],
                    (rows, d_sae),
                ),
                arrays["row_input"],
                arrays["row_position"],
                arrays["row_special"],
                EncodeState(
                    **{name: arrays.get(f"state_{name}") for name in STATE_ARRAYS},
                    head_shape=None if heads is None else (int(heads[0]), int(heads[1])),
                ),
                arrays.get("activations"),
            )
        except (OSError, KeyError, ValueError, TypeError, EOFError) as error:
            raise ValueError(
                f"{path}: not a file that `saekit encode --out` wrote: {error}"
            ) from error

    def items(self) -> list[DecodeItem]:
        """One item per input, in their order."""
        ends = np.flatnonzero(np.diff(self.row_input)) + 1
        bounds = [0, *ends.tolist(), len(self.row_input)]
        return [
            DecodeItem(_rows(self.features, start, stop), self.sae, self._state_of(start, stop))
            for start, stop in pairwise(bounds)
        ]

    def _state_of(self, start: int, stop: int) -> EncodeState:
        arrays = {name: getattr(self.state, name) for name in STATE_ARRAYS}
        return replace(
            self.state,
            **{n: None if array is None else array[start:stop] for n, array in arrays.items()},
        )


def archive_of(results: Sequence[EncodeResult], activations: Sequence[Floats] | None) -> Archive:
    """An archive of results of one query; `activations` has the rows of each result."""
    counts = [r.features.shape[0] for r in results]
    positions = [_row_positions(r) for r in results]
    special = [
        np.zeros(len(at), np.bool_) if r.tokens is None or -1 in at else r.tokens.special[at]
        for r, at in zip(results, positions, strict=True)
    ]
    return Archive(
        results[0].encoding.pin,
        stack(results),
        np.repeat([r.index for r in results], counts),
        np.concatenate(positions),
        np.concatenate(special),
        _joined_state([r.encoding.state or EncodeState() for r in results]),
        np.concatenate(activations) if activations is not None else None,
    )


def explained_variance(x: Floats, reconstruction: Floats) -> float:
    """1 - E|x - x^|^2 / (E|x|^2 - |E x|^2) over rows, in float64."""
    x64 = x.reshape(len(x), -1).astype(np.float64)
    error = x64 - reconstruction.reshape(len(x), -1)
    variance = np.square(x64).sum(axis=1).mean() - np.square(x64.mean(axis=0)).sum()
    return float(1.0 - np.square(error).sum(axis=1).mean() / variance)


def _row_positions(result: EncodeResult) -> npt.NDArray[np.int64]:
    at, rows = result.encoding.positions, result.features.shape[0]
    if at is not None:
        return at.astype(np.int64)
    pooled = result.tokens is not None and rows != len(result.tokens)
    return np.full(rows, -1) if pooled else np.arange(rows)


def _rows(csr: CSR, start: int, stop: int) -> CSR:
    first, last = int(csr.indptr[start]), int(csr.indptr[stop])
    return CSR(
        csr.indptr[start : stop + 1] - csr.indptr[start],
        csr.indices[first:last],
        csr.data[first:last],
        (stop - start, csr.shape[1]),
    )


def _joined_state(states: Sequence[EncodeState]) -> EncodeState:
    def joined(values: Sequence[Floats | None]) -> Floats | None:
        present = [v for v in values if v is not None]
        return np.concatenate(present) if present else None

    arrays: dict[str, Any] = {n: joined([getattr(s, n) for s in states]) for n in STATE_ARRAYS}
    return replace(states[0], **arrays)
