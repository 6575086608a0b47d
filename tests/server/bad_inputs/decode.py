"""What Decode refuses."""

from __future__ import annotations

import numpy as np
from tests.server.bad_inputs.calls import (
    D_SAE,
    F32,
    INVALID,
    NAN,
    NOT_FOUND,
    SPARSE,
    STATE,
    Bad,
    csr,
    decode,
    normed,
    rows,
    u32,
    x,
)

from saekit.v1 import sae_service_pb2 as pb
from saekit.v1 import tensor_pb2

DECODE = [
    Bad("no_items", decode(), INVALID, "items"),
    Bad("too_many_items", decode(*[pb.DecodeItem()] * 1025), INVALID, "items"),
    Bad(
        "no_feature_activations",
        decode(pb.DecodeItem(sae="jumprelu")),
        INVALID,
        "items[0].features",
    ),
    Bad("decode_by_no_sae", decode(pb.DecodeItem(sparse=rows())), INVALID, "items[0].sae"),
    Bad(
        "decode_by_an_unknown_sae",
        decode(pb.DecodeItem(sae="no", sparse=rows())),
        NOT_FOUND,
        "items[0].sae",
    ),
    Bad(
        "decode_to_integers",
        decode(pb.DecodeItem(), dtype=tensor_pb2.DATA_TYPE_U32),
        INVALID,
        "options.dtype",
    ),
    Bad("decode_by_an_unknown_model", decode(pb.DecodeItem(), model="x"), INVALID, "options.model"),
    Bad("csr_of_another_width", csr(shape=[2, D_SAE + 1]), INVALID, SPARSE + "shape"),
    Bad("csr_of_three_axes", csr(shape=[2, D_SAE, 1]), INVALID, SPARSE + "shape"),
    Bad("csr_of_negative_rows", csr(shape=[-2, D_SAE]), INVALID, SPARSE + "shape"),
    Bad("csr_of_overflowing_rows", csr(shape=[2**62, D_SAE]), INVALID, SPARSE + "shape"),
    Bad(
        "csr_without_rows",
        csr(shape=[0, D_SAE], indptr=u32(0), indices=b"", values=b""),
        INVALID,
        SPARSE + "shape",
    ),
    Bad("indptr_too_short", csr(indptr=u32(0, 3)), INVALID, SPARSE + "indptr"),
    Bad("indptr_not_from_zero", csr(indptr=u32(1, 2, 3)), INVALID, SPARSE + "indptr"),
    Bad("indptr_that_falls", csr(indptr=u32(0, 3, 2)), INVALID, SPARSE + "indptr"),
    Bad("indptr_beyond_the_values", csr(indptr=u32(0, 2, 2**32 - 1)), INVALID, SPARSE + "indices"),
    Bad("indices_too_long", csr(indices=u32(4, 9, 4, 5)), INVALID, SPARSE + "indices"),
    Bad("values_too_short", csr(values=F32 * 2), INVALID, SPARSE + "values"),
    Bad(
        "values_of_integers",
        csr(value_dtype=tensor_pb2.DATA_TYPE_I32),
        INVALID,
        SPARSE + "value_dtype",
    ),
    Bad("index_out_of_range", csr(indices=u32(4, D_SAE, 4)), INVALID, SPARSE + "indices"),
    Bad("indices_that_fall", csr(indices=u32(9, 4, 4)), INVALID, SPARSE + "indices"),
    Bad("index_twice_in_a_row", csr(indices=u32(4, 4, 4)), INVALID, SPARSE + "indices"),
    Bad(
        "nan_feature_activations",
        csr(values=np.float32([1, NAN, 1]).tobytes()),
        INVALID,
        SPARSE + "values",
    ),
    Bad(
        "dense_of_another_width",
        decode(pb.DecodeItem(sae="topk", dense=x(2, 3))),
        INVALID,
        "items[0].dense.shape",
    ),
    Bad(
        "dense_of_one_axis",
        decode(pb.DecodeItem(sae="topk", dense=x(D_SAE))),
        INVALID,
        "items[0].dense.shape",
    ),
    Bad(
        "dense_nan",
        decode(pb.DecodeItem(sae="topk", dense=x(1, D_SAE, fill=NAN))),
        INVALID,
        "items[0].dense.data",
    ),
    Bad("no_state", normed(), INVALID, STATE + "mean"),
    Bad("half_a_state", normed(mean=x(2, 1)), INVALID, STATE + "std"),
    Bad("no_scale", normed("normed/rescaled"), INVALID, STATE + "scale"),
    Bad("state_of_another_shape", normed(mean=x(3, 1), std=x(2, 1)), INVALID, STATE + "mean.shape"),
    Bad("state_of_nan", normed(mean=x(2, 1), std=x(2, 1, fill=NAN)), INVALID, STATE + "std.data"),
    Bad(
        "scale_of_zero",
        normed("normed/rescaled", scale=x(2, 1, fill=0)),
        INVALID,
        STATE + "scale.data",
    ),
    Bad("state_that_is_not_needed", normed("jumprelu", mean=x(2, 1)), INVALID, STATE + "mean"),
    Bad(
        "heads_that_there_are_not",
        normed("heads", head_shape=[4, 9]),
        INVALID,
        STATE + "head_shape",
    ),
]
