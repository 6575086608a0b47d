"""Decoding sparse activations gives what decoding the dense ones gives."""

import dataclasses

import pytest
import torch

from saekit_core.sae.config import SAEConfig
from saekit_core.sae.normalization import EncodeState
from saekit_core.sae.sae import SAE
from saekit_core.sae.sparse import encode_sparse
from saekit_core.sae.sparse_decode import decode_sparse

CASES = [
    ("standard", "none", {}),
    ("gated", "layer_norm", {}),
    ("jumprelu", "constant_norm_rescale", {}),
    ("topk", "none", {"k": 5, "rescale_acts_by_decoder_norm": True}),
]


@pytest.mark.parametrize(("architecture", "norm", "extra"), CASES)
def test_sparse_decode_equals_dense_decode(architecture: str, norm: str, extra: dict) -> None:
    generator = torch.Generator().manual_seed(0)
    cfg = SAEConfig(
        architecture=architecture, d_in=12, d_sae=40, normalize_activations=norm, **extra
    )
    sae = SAE.from_config(cfg, generator=generator)
    with torch.no_grad():
        for tensor in sae.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.3)
    x = torch.randn(7, 12, generator=generator)
    x[3] = 0
    acts, state = encode_sparse(sae, x)
    expected = sae.decode(acts.to_dense(), state)
    torch.testing.assert_close(decode_sparse(sae, acts, state), expected)


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
