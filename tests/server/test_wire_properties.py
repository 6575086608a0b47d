"""What is decoded from bytes is, bit for bit, what is decoded from what became bytes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.sae.reference import KINDS, NORMALIZATIONS, random_activations, random_sae
from torch import Tensor

from saekit.codec import CSR, numpy_to_tensor, rows_to_csr, tensor_to_numpy
from saekit.v1 import sae_service_pb2 as pb
from saekit.v1 import tensor_pb2
from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.interventions import BoundSAE
from saekit_core.sae import SAE, EncodeState, encode_sparse
from saekit_core.sae.sparse_decode import decode_sparse
from saekit_server.engine.forward import split_encoding
from saekit_server.engine.sae_batch import decode_batch
from saekit_server.engine.selection import Selection
from saekit_server.engine.work import DecodeWork, Encoding
from saekit_server.registry.loaded import LastUse, LoadedSAE, SAEInfo
from saekit_server.wire.queries import Query, encoding_message

DTYPES = {
    "float32": tensor_pb2.DATA_TYPE_F32,
    "float16": tensor_pb2.DATA_TYPE_F16,
    "bfloat16": tensor_pb2.DATA_TYPE_BF16,
}


def loaded(sae: SAE) -> LoadedSAE:
    """As the registry would hold it."""
    hook = HookPoint("blocks.1.hook_resid_mid", "blocks.1.ln2.hook_in", 5, (sae.cfg.d_in,))
    hook_out = HookPoint("blocks.1.hook_mlp_out", "blocks.1.mlp.hook_out", 6, (sae.cfg.d_out,))
    revision = "0" * 12
    info = SAEInfo(
        sae_id="test/sae",
        revision=revision,
        cfg=sae.cfg,
        dtype=sae.cfg.dtype,
        hook=hook,
        hook_out=hook_out,
        source="",
        folder=Path(),
        nbytes=0,
        loaded_at=0.0,
    )
    return LoadedSAE(info, BoundSAE(sae, "test/sae", revision, hook, hook_out, 0), LastUse(0.0))


def sent(query: Query, encoding: Encoding) -> pb.SAEEncoding:
    """What a client gets, from its bytes."""
    return pb.SAEEncoding.FromString(encoding_message(query, encoding).SerializeToString())


def received(message: tensor_pb2.EncodeState) -> dict[str, Tensor]:
    return {
        field.name: torch.from_numpy(tensor_to_numpy(value).copy())
        for field, value in message.ListFields()
        if field.message_type is not None
    }


@pytest.mark.parametrize("kind", KINDS)
@given(
    normalization=st.sampled_from(NORMALIZATIONS),
    dtype=st.sampled_from(sorted(DTYPES)),
    exactly_as=st.sampled_from(["float32", "own"]),
    seed=st.integers(0, 2**16),
    n_rows=st.integers(1, 5),
    dense=st.booleans(),
    apply_b_dec_to_input=st.booleans(),
)
@settings(max_examples=15)
def test_decode_of_an_encoding_is_the_same_behind_the_wire(
    *,
    kind: str,
    normalization: str,
    dtype: str,
    exactly_as: str,
    seed: int,
    n_rows: int,
    dense: bool,
    apply_b_dec_to_input: bool,
) -> None:
    sae = random_sae(
        kind,
        normalization,
        dtype=dtype,
        seed=seed,
        apply_b_dec_to_input=apply_b_dec_to_input,
    )
    acts, state = encode_sparse(sae, random_activations(n_rows, sae.cfg.d_in, seed=seed).float())
    (encoding,) = split_encoding(acts, state, [np.arange(n_rows)], return_state=True)
    value_dtype = DTYPES["float32" if exactly_as == "float32" else dtype]
    served = loaded(sae)
    query = Query(served, Selection(dense=dense), None, value_dtype, return_state=True)
    answer = sent(query, encoding)

    # Features: every activation, whether it came as sparse rows or as a dense tensor.
    if dense:
        array = tensor_to_numpy(answer.dense).astype(np.float32)
        assert array.tobytes() == acts.to_dense().float().numpy().tobytes()
    else:
        csr = rows_to_csr(answer.sparse)
        assert csr.indptr.tobytes() == acts.indptr.tobytes()
        assert csr.indices.tobytes() == acts.indices.tobytes()
        assert csr.data.astype(np.float32).tobytes() == acts.values.float().numpy().tobytes()

    # Reconstruction: from what the client sends back, and from what never left.
    item = pb.DecodeItem(state=answer.state)
    parts = received(pb.DecodeItem.FromString(item.SerializeToString()).state)
    if dense:
        csr = CSR(acts.indptr, acts.indices, array[array != 0], (n_rows, sae.cfg.d_sae))
    (decoded,) = decode_batch([DecodeWork(served, csr, EncodeState(**parts))])
    expected = decode_sparse(sae, acts, state).numpy()
    assert decoded.tobytes() == expected.tobytes()
    on_the_wire = tensor_to_numpy(
        tensor_pb2.Tensor.FromString(numpy_to_tensor(decoded).SerializeToString())
    )
    assert on_the_wire.tobytes() == expected.tobytes()
