"""SAEQuery messages to the domain's, and encodings back."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from saekit.codec import CSR, float_dtype_name, numpy_to_tensor, sparse_rows
from saekit.v1 import sae_service_pb2 as pb
from saekit.v1 import tensor_pb2
from saekit_core.lm.positions import ALL_POSITIONS, EVERY_POSITION, PositionSelector
from saekit_server.engine.selection import Pooling, Selection
from saekit_server.engine.work import Encoding
from saekit_server.errors import at_field, invalid
from saekit_server.registry import LoadedSAE
from saekit_server.wire.positions import position_selector

_POOLING = {
    pb.POOLING_UNSPECIFIED: Pooling.NONE,
    pb.POOLING_NONE: Pooling.NONE,
    pb.POOLING_MAX: Pooling.MAX,
    pb.POOLING_MEAN: Pooling.MEAN,
    pb.POOLING_SUM: Pooling.SUM,
    pb.POOLING_LAST: Pooling.LAST,
}


@dataclass(frozen=True)
class Query:
    """What is wanted of one SAE.

    `positions` is None where nothing was said: then `default_positions` is meant.
    """

    loaded: LoadedSAE
    selection: Selection
    positions: PositionSelector | None
    value_dtype: "tensor_pb2.DataType"
    return_state: bool

    @property
    def default_positions(self) -> PositionSelector:
        """Every token; without the BOS when rows are pooled, which it would drown."""
        return EVERY_POSITION if self.selection.pooling is Pooling.NONE else ALL_POSITIONS


def read_query(message: pb.SAEQuery, lookup: Callable[[str], LoadedSAE]) -> Query:
    """The domain's query.

    Raises:
        DomainError: anything that cannot be answered, naming its field.
    """
    loaded = lookup(message.sae)
    d_sae = loaded.sae.cfg.d_sae
    k: int | None = None
    features = None
    match message.WhichOneof("selection"):
        case "top_k":
            k = message.top_k
            if not 1 <= k <= d_sae:
                raise invalid("top_k", f"expected 1 to {d_sae} (d_sae), got {k}")
        case "features":
            features = np.array(message.features.indices, dtype=np.int64)
            _check_features(features, d_sae)
    if message.dense and k is not None:
        raise invalid("dense", "top_k comes as sparse rows; leave dense out")
    pooling = _POOLING[message.pooling]
    if message.return_state and pooling is not Pooling.NONE:
        raise invalid("return_state", "a pooled row has no state to decode with")
    value_dtype = message.value_dtype or tensor_pb2.DATA_TYPE_F32
    with at_field("value_dtype"):
        float_dtype_name(value_dtype, field="")
    positions = None
    if message.HasField("positions"):
        with at_field("positions"):
            positions = position_selector(message.positions)
    return Query(
        loaded,
        Selection(k, features, message.dense, pooling),
        positions,
        value_dtype,
        message.return_state,
    )


def encoding_message(query: Query, encoding: Encoding) -> pb.SAEEncoding:
    """What answers a query."""
    wanted = query.selection.apply(encoding.acts)
    message = pb.SAEEncoding(
        sae_id=query.loaded.sae_id,
        sae_revision=query.loaded.revision,
        sae_dtype=query.loaded.dtype,
    )
    if isinstance(wanted, CSR):
        message.sparse.CopyFrom(sparse_rows(wanted, query.value_dtype))
    else:
        message.dense.CopyFrom(numpy_to_tensor(wanted, query.value_dtype))
    if query.selection.pooling is Pooling.NONE and not encoding.every_position:
        message.positions.extend(encoding.positions.tolist())
    if query.return_state:
        for name, array in encoding.state.items():
            getattr(message.state, name).CopyFrom(numpy_to_tensor(array))
        message.state.head_shape.extend(encoding.head_shape)
    return message


def _check_features(features: "np.typing.NDArray[np.int64]", d_sae: int) -> None:
    if not len(features):
        raise invalid("features.indices", "expected at least one feature")
    if int(features.max()) >= d_sae:
        raise invalid(
            "features.indices", f"feature {int(features.max())} is outside the {d_sae} features"
        )
    if len(np.unique(features)) != len(features):
        raise invalid("features.indices", "a feature is named twice")
