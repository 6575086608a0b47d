"""Every architecture under every normalisation against its published formula in float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.core.sae.reference import (
    AUTOENCODERS,
    CELLS,
    KINDS,
    SETTINGS,
    TRANSCODERS,
    random_activations,
    random_sae,
    reference_decode,
    reference_encode,
)

from saekit_core.sae import SAE, EncodeState, SAEConfig, SAEError, encode_sparse


@pytest.mark.parametrize(("kind", "normalization"), CELLS)
@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
def test_encode_decode_and_forward_are_the_published_formulas(
    kind: str, normalization: str, apply_b_dec_to_input: bool
) -> None:
    sae = random_sae(
        kind, normalization, dtype="float64", apply_b_dec_to_input=apply_b_dec_to_input
    )
    x = random_activations(50, sae.cfg.d_in)
    acts, state = sae.encode_with_state(x)
    expected = reference_encode(sae, x)
    assert torch.equal(acts != 0, expected != 0)
    assert (acts != 0).any()
    torch.testing.assert_close(acts, expected, rtol=1e-11, atol=1e-12)
    reconstruction = reference_decode(sae, expected, x)
    torch.testing.assert_close(sae.decode(acts, state), reconstruction, rtol=1e-5, atol=1e-11)
    torch.testing.assert_close(sae(x), sae.decode(acts, state), rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "normalization"), CELLS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-2), ("bfloat16", 6e-2)]
)
def test_served_dtypes_follow_the_formula_within_their_precision(
    kind: str, normalization: str, dtype: str, tolerance: float
) -> None:
    sae = random_sae(kind, normalization, dtype=dtype)
    x = random_activations(50, sae.cfg.d_in)
    expected = reference_encode(sae, x)
    acts = sae.encode(x).double()
    error = (acts - expected).abs()
    # A feature at the edge of its threshold may flip; the rest has to agree.
    agree = (acts != 0) == (expected != 0)
    if kind.startswith("matching_pursuit"):
        # One choice that flips changes all later ones of its row.
        close = error <= tolerance * (1 + expected.abs())
        assert (agree & close).all(dim=1).double().mean() > (0.6 if dtype == "bfloat16" else 0.9)
        agree &= close
    else:
        assert agree.double().mean() > 0.99
    assert (error[agree] <= tolerance * (1 + expected[agree].abs())).all()
    assert sae.encode(x).dtype == sae.dtype
    assert sae(x).dtype == sae.dtype


def test_jumprelu_threshold_is_strict_dense_and_sparse() -> None:
    sae = random_sae("jumprelu", d_in=1, d_sae=3, apply_b_dec_to_input=False)
    sae.W_enc.copy_(torch.ones(1, 3))
    sae.b_enc.zero_()  # type: ignore[union-attr]
    sae.threshold.copy_(torch.tensor([2.0, 1.9375, -1.0]))
    # A negative threshold lets no negative activation through.
    x = torch.tensor([[2.0], [-0.5]])
    expected = [[0.0, 2.0, 2.0], [0.0, 0.0, 0.0]]
    assert sae.encode(x).tolist() == expected
    assert encode_sparse(sae, x)[0].to_dense().tolist() == expected
    features = torch.tensor([[0, 1, 2], [0, 1, 2]])
    assert sae.encode_features(x[:, None], features)[0][:, 0].tolist() == expected


def test_topk_drops_negative_values_among_the_k_largest() -> None:
    sae = random_sae("topk", d_in=2, d_sae=8)
    sae.b_enc.fill_(-100.0)  # type: ignore[union-attr]
    assert (sae.encode(torch.randn(3, 2)) == 0).all()


def test_rescaled_topk_decodes_a_zero_decoder_row_as_zero() -> None:
    sae = random_sae("topk_rescaled")
    sae.W_dec[3] = 0.0
    out = sae.decode(torch.eye(sae.cfg.d_sae))
    assert torch.equal(out[3], sae.b_dec)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("kind", AUTOENCODERS)
@pytest.mark.parametrize("normalization", ["none", "layer_norm"])
def test_hook_z_equals_flattened_heads(kind: str, normalization: str) -> None:
    sae = random_sae(kind, normalization, reshape="hook_z")
    z = random_activations(2, 5, 3, 4).float()
    acts, state = sae.encode_with_state(z)
    assert acts.shape == (2, 5, 40)
    flat, _ = sae.encode_with_state(z.flatten(-2))
    assert torch.equal(acts, flat)
    assert state.head_shape == (3, 4)
    assert sae.decode(acts, state).shape == z.shape
    assert sae(z).shape == z.shape
    torch.testing.assert_close(sae(z).flatten(-2), sae(z.flatten(-2)))


FOLDABLE = [
    kind
    for kind, settings in SETTINGS.items()
    if not kind.startswith(("matching_pursuit", "temporal"))
    and ("k" not in settings or "rescale_acts_by_decoder_norm" in settings)
]


@pytest.mark.parametrize("kind", FOLDABLE)
@pytest.mark.parametrize("normalization", ["none", "layer_norm"])
def test_folding_decoder_norms_keeps_reconstructions_and_makes_rows_unit(
    kind: str, normalization: str
) -> None:
    sae = random_sae(kind, normalization, dtype="float64")
    x = random_activations(50, sae.cfg.d_in)
    acts, before = sae.encode(x), sae(x)
    norms = sae.W_dec.norm(dim=1)
    sae.fold_W_dec_norm()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(40).double())
    torch.testing.assert_close(sae(x), before)
    scale = torch.ones_like(norms) if kind.endswith("rescaled") else norms
    torch.testing.assert_close(sae.encode(x), acts * scale)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in FOLDABLE])
def test_folding_norms_is_refused_where_it_would_change_what_is_selected(kind: str) -> None:
    sae = random_sae(kind)
    before = sae.W_dec.clone()
    with pytest.raises(SAEError, match="would change which features"):
        sae.fold_W_dec_norm()
    assert torch.equal(sae.W_dec, before)


@pytest.mark.parametrize(("kind", "normalization"), CELLS)
def test_gradients_flow_through_encode_and_decode(kind: str, normalization: str) -> None:
    sae = random_sae(kind, normalization, dtype="float64").requires_grad_(True)
    x = random_activations(3, sae.cfg.d_in).requires_grad_(True)

    def reconstruct(x: torch.Tensor) -> torch.Tensor:
        return sae.decode(*sae.encode_with_state(x))

    assert torch.autograd.gradcheck(reconstruct, (x,))
    reconstruct(x).sum().backward()  # type: ignore[no-untyped-call]
    # Thresholds and gates choose; what chooses has no derivative.
    chosen = {name for name, p in sae.named_parameters() if name not in {"threshold", "b_gate"}}
    assert all(sae.get_parameter(name).grad is not None for name in chosen)


@given(
    kind=st.sampled_from(KINDS),
    normalization=st.sampled_from(["none", "layer_norm", "constant_norm_rescale"]),
    seed=st.integers(0, 2**16),
    n_rows=st.integers(1, 3),
    n_positions=st.integers(1, 4),
    data=st.data(),
)
def test_a_few_features_are_encoded_as_in_the_full_formula(
    *, kind: str, normalization: str, seed: int, n_rows: int, n_positions: int, data: st.DataObject
) -> None:
    sae = random_sae(kind, normalization, seed=seed)
    x = random_activations(n_rows, n_positions, sae.cfg.d_in, seed=seed + 1).float()
    n_features = data.draw(st.integers(0, 6))
    feature = st.integers(0, sae.cfg.d_sae - 1)
    rows = st.lists(feature, min_size=n_features, max_size=n_features)
    features = torch.tensor(
        data.draw(st.lists(rows, min_size=n_rows, max_size=n_rows)), dtype=torch.int64
    ).reshape(n_rows, n_features)
    few, state = sae.encode_features(x, features)
    full, full_state = sae.encode_with_state(x)
    expected = full.gather(-1, features[:, None, :].expand(-1, n_positions, -1))
    assert few.shape == (n_rows, n_positions, n_features)
    torch.testing.assert_close(few, expected, rtol=1e-4, atol=1e-4)
    assert state.leading_shape() == full_state.leading_shape()


@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**16), delta=st.floats(-3, 3))
def test_decoder_rows_and_output_scale_give_the_effect_of_an_edit(
    kind: str, seed: int, delta: float
) -> None:
    sae = random_sae(kind, "layer_norm" if seed % 2 else "constant_norm_rescale", seed=seed)
    x = random_activations(4, sae.cfg.d_in, seed=seed).float()
    acts, state = sae.encode_with_state(x)
    feature = seed % sae.cfg.d_sae
    edited = acts.clone()
    edited[:, feature] += delta
    scale = state.output_scale()
    assert (scale is None) == (kind in TRANSCODERS)
    by_rows = delta * sae.decoder_rows(torch.tensor(feature)).expand(4, -1)
    by_rows = by_rows if scale is None else by_rows * scale
    by_decode = sae.decode(edited, state) - sae.decode(acts, state)
    torch.testing.assert_close(by_rows, by_decode, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
def test_constant_scalar_rescale_of_temporal_saes(apply_b_dec_to_input: bool) -> None:
    sae = random_sae("temporal", dtype="float64", apply_b_dec_to_input=apply_b_dec_to_input)
    cfg = replace(
        sae.cfg,
        normalize_activations="constant_scalar_rescale",
        activation_normalization_factor=0.25,
    )
    sae = SAE(cfg, sae.weights()).requires_grad_(False)
    x = random_activations(50, sae.cfg.d_in)
    acts, state = sae.encode_with_state(x)
    torch.testing.assert_close(acts, reference_encode(sae, x))
    expected = reference_decode(sae, acts, x)
    torch.testing.assert_close(sae.decode(acts, state), expected)
    assert float(state.output_scale()[0]) == 4.0  # type: ignore[index]
    # The factor is the SAE's own, so that features alone decode without a state, too.
    novel_only = sae.decode(acts, EncodeState())
    torch.testing.assert_close(novel_only, expected - state.predicted * 4.0)  # type: ignore[operator]


def test_temporal_sequences_in_a_batch_are_those_alone_and_padding_behind_them_is_unseen() -> None:
    sae = random_sae("temporal", dtype="float64")
    x = random_activations(2, 3, 9, sae.cfg.d_in)
    acts, state = sae.encode_with_state(x)
    for index in ((0, 0), (1, 2)):
        alone, own = sae.encode_with_state(x[index][:6])
        torch.testing.assert_close(acts[index][:6], alone)
        torch.testing.assert_close(state.predicted[index][:6], own.predicted)  # type: ignore[index]
    with pytest.raises(SAEError, match="no sequence of positions"):
        sae.encode(x[0, 0, 0])


@pytest.mark.parametrize(
    "kind", ["skip_transcoder", "jumprelu_skip_transcoder", "topk_skip_transcoder"]
)
def test_decode_adds_the_skip_only_with_a_state_that_carries_x(kind: str) -> None:
    sae = random_sae(kind, "layer_norm", dtype="float64")
    x = random_activations(5, sae.cfg.d_in)
    acts, state = sae.encode_with_state(x)
    skip = x @ sae.W_skip.T
    torch.testing.assert_close(sae.decode(acts, state) - sae.decode(acts, EncodeState()), skip)
    # SAELens' pair: decode is that of the features alone.
    torch.testing.assert_close(sae.decode(sae.encode(x)) + skip, sae(x))


def test_matching_pursuit_stops_as_told() -> None:
    base = random_sae("matching_pursuit_long", dtype="float64")
    x = random_activations(20, base.cfg.d_in)

    def active(**settings: Any) -> float:
        sae = SAE(replace(base.cfg, **settings), base.weights()).requires_grad_(False)
        torch.testing.assert_close(sae.encode(x), reference_encode(sae, x))
        return float((sae.encode(x) != 0).double().sum(-1).mean())

    everything = active()
    assert active(max_iterations=1) == 1.0
    assert active(max_iterations=3) <= 3.0
    assert active(residual_threshold=4.0) < everything
    assert active(stop_on_duplicate_support=True) < everything


@pytest.mark.parametrize("kind", ["matching_pursuit", "temporal"])
def test_a_tied_encoder_is_a_view_of_the_decoder(kind: str) -> None:
    sae = random_sae(kind)
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert sae.W_enc.data_ptr() == sae.W_dec.data_ptr()
    with pytest.raises(SAEError, match="not a function of one pre-activation"):
        sae.pre_activations(torch.zeros(2, sae.cfg.d_in))


def test_wrong_widths_are_refused_by_name() -> None:
    sae = random_sae("standard")
    with pytest.raises(SAEError, match="d_in=12") as caught:
        sae.encode(torch.zeros(3, 11))
    assert caught.value.field == "x"
    with pytest.raises(SAEError, match="d_sae=40") as caught:
        sae.decode(torch.zeros(3, 41))
    assert caught.value.field == "acts"


def test_moving_an_sae_updates_its_configuration() -> None:
    sae = random_sae("standard").to(torch.bfloat16)
    assert (sae.cfg.dtype, sae.cfg.device) == ("bfloat16", "cpu")
    assert sae.dtype == torch.bfloat16


def test_an_sae_unpacks_as_the_classic_triple() -> None:
    sae, cfg_dict, sparsity = random_sae("topk")
    assert isinstance(sae, SAE)
    assert cfg_dict["d_sae"] == 40
    assert cfg_dict["activation_fn_str"] == "topk"
    assert sparsity is None


def test_a_state_of_the_wrong_tensors_is_refused() -> None:
    sae = random_sae("standard")
    state = sae.weights()
    with pytest.raises(SAEError, match="b_enc: missing"):
        SAE.from_state(sae.cfg, {k: v for k, v in state.items() if k != "b_enc"})
    with pytest.raises(SAEError, match="threshold: standard has no such tensor"):
        SAE.from_state(sae.cfg, {**state, "threshold": state["b_enc"]})
    with pytest.raises(SAEError, match=r"b_dec: shape \[3\], expected \[12\]"):
        SAE.from_state(sae.cfg, {**state, "b_dec": torch.zeros(3)})
    with pytest.raises(SAEError, match="k: None is not in"):
        SAE.from_config(SAEConfig(architecture="topk", d_in=2, d_sae=4))
