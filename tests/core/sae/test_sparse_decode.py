"""Decoding sparse activations gives what decoding the dense ones gives."""

import dataclasses

import pytest
import torch
from tests.core.sae.reference import KINDS, random_activations, random_sae

from saekit_core.sae.config import SAEConfig
from saekit_core.sae.normalization import EncodeState
from saekit_core.sae.sae import SAE
from saekit_core.sae.sparse import encode_sparse
from saekit_core.sae.sparse_decode import decode_sparse


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalization", ["none", "layer_norm", "constant_norm_rescale"])
def test_sparse_decode_equals_dense_decode(kind: str, normalization: str) -> None:
    sae = random_sae(kind, normalization)
    x = random_activations(7, sae.cfg.d_in).float()
    x[3] = 0
    acts, state = encode_sparse(sae, x)
    expected = sae.decode(acts.to_dense(), state)
    torch.testing.assert_close(decode_sparse(sae, acts, state), expected, rtol=1e-5, atol=1e-5)


def test_rows_without_active_features_decode_to_the_bias() -> None:
    sae = SAE.from_config(SAEConfig(architecture="jumprelu", d_in=4, d_sae=8))
    with torch.no_grad():
        sae.b_dec.copy_(torch.arange(4.0))
        sae.threshold.fill_(1e9)
    acts, state = encode_sparse(sae, torch.randn(3, 4))
    assert len(acts.indices) == 0
    torch.testing.assert_close(
        decode_sparse(sae, acts, dataclasses.replace(state)), torch.arange(4.0).expand(3, 4)
    )
    assert state == EncodeState()
