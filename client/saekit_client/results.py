"""What Encode, Decode and Tokenize give back, as frozen dataclasses of numpy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from saekit.codec import CSR, numpy_to_tensor, rows_to_csr, tensor_to_numpy
from saekit.v1 import input_pb2, sae_service_pb2, tensor_pb2

if TYPE_CHECKING:
    from scipy.sparse import csr_array  # type: ignore[import-untyped, unused-ignore]

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ServedBy:
    """What answered: to be kept beside results."""

    model: str
    model_revision: str
    model_dtype: str

    @classmethod
    def of(cls, message: input_pb2.ServedBy) -> ServedBy:
        """From the wire."""
        return cls(message.model, message.model_revision, message.model_dtype)


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one input, as the model saw them."""

    ids: npt.NDArray[np.uint32]
    """[n]."""
    byte_offsets: npt.NDArray[np.uint32] | None
    """[n, 2]: start and end in bytes of the text sent; None for inputs given as tokens."""
    special: npt.NDArray[np.bool_]
    """[n]: special tokens."""
    has_bos: bool
    """Whether position 0 is the BOS."""
    message_index: npt.NDArray[np.int32] | None
    """[n]: chat message of each token, -1 for none; None for other inputs."""
    pieces: tuple[str, ...] | None
    """[n]: text of each token, when asked for."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, message: input_pb2.TokenInfo) -> Tokens:
        """From the wire."""
        ids = np.array(message.ids, dtype=np.uint32)
        special = np.zeros(len(ids), dtype=np.bool_)
        special[list(message.special_positions)] = True
        offsets = np.array(message.byte_offsets, dtype=np.uint32).reshape(-1, 2)
        messages = np.array(message.message_index, dtype=np.int32)
        return cls(
            ids,
            offsets if len(offsets) else None,
            special,
            message.has_bos,
            messages if len(messages) else None,
            tuple(message.pieces) or None,
        )


@dataclass(frozen=True, eq=False)
class EncodeState:
    """What an encoding took out of the activations and Decode must put back."""

    mean: Floats | None = None
    """[rows, 1], for `layer_norm`."""
    std: Floats | None = None
    """[rows, 1], for `layer_norm`."""
    scale: Floats | None = None
    """[rows, 1], for `constant_norm_rescale`."""
    head_shape: tuple[int, int] | None = None
    """(n_heads, d_head) at hook points with heads."""
    x: Floats | None = None
    """[rows, d_in], for skip transcoders: the raw activations."""
    predicted: Floats | None = None
    """[rows, d_in], for temporal SAEs: what the context predicts."""

    @classmethod
    def of(cls, message: tensor_pb2.EncodeState) -> EncodeState:
        """From the wire."""
        heads = tuple(message.head_shape)
        arrays = {
            name: tensor_to_numpy(getattr(message, name))
            for name in STATE_ARRAYS
            if message.HasField(name)
        }
        return cls(**arrays, head_shape=(heads[0], heads[1]) if heads else None)

    def message(self) -> tensor_pb2.EncodeState:
        """To the wire."""
        arrays = {name: getattr(self, name) for name in STATE_ARRAYS}
        return tensor_pb2.EncodeState(
            **{
                name: numpy_to_tensor(array.astype(np.float32))
                for name, array in arrays.items()
                if array is not None
            },
            head_shape=self.head_shape or (),
        )


STATE_ARRAYS: Final = ("mean", "std", "scale", "x", "predicted")
"""The fields of an `EncodeState` that have a row for each row of activations."""


@dataclass(frozen=True, eq=False)
class SAEEncoding:
    """Feature activations of one input in one SAE."""

    sae_id: str
    sae_revision: str
    sae_dtype: str
    activations: CSR | Floats
    """[rows, d_sae]: CSR, or dense when asked for."""
    positions: npt.NDArray[np.uint32] | None
    """[rows]: position of each row; None when there is a row for every token, and when pooled."""
    state: EncodeState | None
    """When asked for."""

    @property
    def pin(self) -> str:
        """sae_id@revision: what to ask for to get the same features again."""
        return f"{self.sae_id}@{self.sae_revision}"

    @property
    def csr(self) -> CSR:
        """The activations as sparse rows.

        Raises:
            ValueError: they were asked for dense.
        """
        if not isinstance(self.activations, CSR):
            raise ValueError("the activations are dense: use .activations")
        return self.activations

    def toarray(self) -> Floats:
        """Dense [rows, d_sae] (or [rows, features asked for])."""
        return self.activations.toarray() if isinstance(self.activations, CSR) else self.activations

    def to_scipy(self) -> csr_array[Any]:
        """As scipy.sparse.csr_array; needs scipy."""
        return to_scipy(self.csr)

    def top(self, row: int, k: int = 10) -> list[tuple[int, float]]:
        """The k largest (feature, activation) by magnitude of a row, largest first."""
        features, values = self.csr.row(row)
        order = np.argsort(-np.abs(values), kind="stable")[:k]
        return [(int(features[i]), float(values[i])) for i in order]

    @classmethod
    def of(cls, message: sae_service_pb2.SAEEncoding) -> SAEEncoding:
        """From the wire."""
        positions = np.array(message.positions, dtype=np.uint32)
        return cls(
            message.sae_id,
            message.sae_revision,
            message.sae_dtype,
            rows_to_csr(message.sparse)
            if message.WhichOneof("activations") == "sparse"
            else tensor_to_numpy(message.dense, floating=True),
            positions if len(positions) else None,
            EncodeState.of(message.state) if message.HasField("state") else None,
        )


@dataclass(frozen=True, eq=False)
class EncodeResult:
    """What one input (or one window of it) gave."""

    id: str
    """The id of the input."""
    index: int
    """Index of the input."""
    window_index: int
    """Index of the window under over_length="windows", else 0."""
    window_start: int
    """Position in the input of the window's first token that is not a repeated BOS."""
    truncated: bool
    """Whether tokens were cut off under over_length="truncate"."""
    tokens: Tokens | None
    """None for activations."""
    encodings: tuple[SAEEncoding, ...]
    """One per query, in their order."""
    served_by: ServedBy

    @property
    def encoding(self) -> SAEEncoding:
        """The encoding of a request with one query.

        Raises:
            ValueError: there are several.
        """
        if len(self.encodings) != 1:
            raise ValueError(f"{len(self.encodings)} SAEs were asked for: use .encodings")
        return self.encodings[0]

    @property
    def features(self) -> CSR:
        """The feature activations of a request with one sparse query, CSR [rows, d_sae]."""
        return self.encoding.csr

    def __getitem__(self, sae_id: str) -> SAEEncoding:
        """The (first) encoding in an SAE, by its sae_id."""
        for encoding in self.encodings:
            if encoding.sae_id == sae_id:
                return encoding
        raise KeyError(f"{sae_id}: got {', '.join(e.sae_id for e in self.encodings)}")

    @classmethod
    def of(cls, message: sae_service_pb2.EncodeResult, served_by: ServedBy) -> EncodeResult:
        """From the wire."""
        return cls(
            message.id,
            message.input_index,
            message.window_index,
            message.window_start,
            message.truncated,
            Tokens.of(message.tokens) if message.HasField("tokens") else None,
            tuple(SAEEncoding.of(e) for e in message.encodings),
            served_by,
        )


@dataclass(frozen=True, eq=False)
class DecodeResult:
    """The activations that feature activations stand for."""

    id: str
    index: int
    sae_id: str
    sae_revision: str
    activations: Floats
    """[rows, d_out], or [rows, n_heads, d_head]."""
    served_by: ServedBy

    @classmethod
    def of(cls, message: sae_service_pb2.DecodeResult, served_by: ServedBy) -> DecodeResult:
        """From the wire."""
        return cls(
            message.id,
            message.item_index,
            message.sae_id,
            message.sae_revision,
            tensor_to_numpy(message.activations, floating=True),
            served_by,
        )


def to_scipy(csr: CSR) -> csr_array[Any]:
    """A CSR as scipy.sparse.csr_array; needs scipy."""
    from scipy.sparse import csr_array

    return csr_array((csr.data, csr.indices, csr.indptr), shape=csr.shape)


def stack(results: Sequence[EncodeResult] | Iterator[EncodeResult]) -> CSR:
    """The rows of several results of one query under one another, in their order.

    Raises:
        ValueError: no results, or results of different SAEs.
    """
    rows = [r.features for r in results]
    if not rows:
        raise ValueError("expected at least one result")
    widths = {csr.shape[1] for csr in rows}
    if len(widths) > 1:
        raise ValueError(f"expected results of one SAE, got d_sae of {sorted(widths)}")
    starts = np.cumsum([0, *(csr.nnz for csr in rows)])
    if starts[-1] >= 2**32:
        raise ValueError(
            f"{starts[-1]} stored values do not fit 32-bit offsets: stack fewer results"
        )
    indptr = [
        csr.indptr[1:].astype(np.int64) + start for csr, start in zip(rows, starts, strict=False)
    ]
    return CSR(
        np.concatenate([[0], *indptr]).astype(np.uint32),
        np.concatenate([csr.indices for csr in rows]),
        np.concatenate([csr.data for csr in rows]),
        (sum(csr.shape[0] for csr in rows), widths.pop()),
    )
