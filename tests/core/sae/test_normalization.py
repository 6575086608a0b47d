"""Normalisation states: explicit, per thread where they are remembered, and safe at the edges."""

import copy
import pickle
import threading

import pytest
import torch
from tests.core.sae.reference import random_activations, random_sae

from saekit_core.sae import SAEError

STATEFUL = ("layer_norm", "constant_norm_rescale")


@pytest.mark.parametrize("normalization", STATEFUL)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_zero_row_encodes_and_decodes_to_finite_values(normalization: str, dtype: str) -> None:
    sae = random_sae("standard", normalization, dtype=dtype)
    x = torch.zeros(2, sae.cfg.d_in)
    acts, state = sae.encode_with_state(x)
    assert torch.isfinite(acts).all()
    assert torch.isfinite(sae.decode(acts, state)).all()


def test_a_zero_row_has_a_finite_gradient_under_constant_norm() -> None:
    sae = random_sae("standard", "constant_norm_rescale")
    x = torch.zeros(1, sae.cfg.d_in, requires_grad=True)
    sae(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("normalization", STATEFUL)
def test_huge_dimensions_do_not_overflow_float16_statistics(normalization: str) -> None:
    sae = random_sae("standard", normalization, dtype="float16")
    x = random_activations(3, sae.cfg.d_in)
    x[:, 0] = 60000.0
    _, state = sae.encode_with_state(x)
    scale = state.output_scale()
    assert scale is not None
    assert torch.isfinite(scale).all()


@pytest.mark.parametrize("normalization", STATEFUL)
def test_decode_with_a_state_does_not_depend_on_what_was_encoded_since(normalization: str) -> None:
    sae = random_sae("jumprelu", normalization)
    x, other = random_activations(4, 12).float(), random_activations(4, 12, seed=9).float()
    acts, state = sae.encode_with_state(x)
    before = sae.decode(acts, state)
    sae.encode(other)
    assert torch.equal(sae.decode(acts, state), before)


@pytest.mark.parametrize("normalization", STATEFUL)
def test_rows_of_a_state_are_the_state_of_those_rows(normalization: str) -> None:
    sae = random_sae("standard", normalization)
    x = random_activations(6, 3, 12).float()
    acts, state = sae.encode_with_state(x)
    whole = sae.decode(acts, state)
    assert torch.equal(sae.decode(acts[2:4], state.rows(slice(2, 4))), whole[2:4])
    index = torch.tensor([5, 0])
    assert torch.equal(sae.decode(acts[index], state.rows(index)), whole[index])


def test_decode_without_a_state_uses_this_threads_last_encode() -> None:
    sae = random_sae("standard", "layer_norm")
    x, other = random_activations(4, 12).float(), random_activations(4, 12, seed=9).float()
    acts = sae.encode(x)
    expected = sae(x)

    def elsewhere() -> None:
        sae.encode(other)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert torch.equal(sae.decode(acts), expected)
    assert torch.equal(sae.decode(acts), expected)


def test_decode_without_a_state_raises_where_this_thread_has_none() -> None:
    sae = random_sae("standard", "layer_norm")
    acts = sae.encode(random_activations(4, 12).float())
    caught: list[SAEError] = []

    def elsewhere() -> None:
        try:
            sae.decode(acts)
        except SAEError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert caught[0].field == "state"


def test_decode_without_a_state_raises_where_the_last_one_does_not_fit() -> None:
    sae = random_sae("standard", "constant_norm_rescale")
    acts = sae.encode(random_activations(4, 12).float())
    with pytest.raises(SAEError, match="do not fit"):
        sae.decode(acts[:3])


def test_decode_needs_no_state_without_normalisation() -> None:
    sae = random_sae("standard", "expected_average_only_in")
    assert sae.decode(torch.zeros(2, 40)).shape == (2, 12)


def test_decode_of_hook_z_restores_the_heads_of_the_last_encode() -> None:
    sae = random_sae("standard", reshape="hook_z")
    with pytest.raises(SAEError, match="needs the state"):
        sae.decode(torch.zeros(2, 40))
    sae.encode(random_activations(2, 3, 4).float())
    assert sae.decode(torch.zeros(7, 40)).shape == (7, 3, 4)


def test_copies_and_pickles_start_without_a_remembered_state() -> None:
    sae = random_sae("standard", "layer_norm")
    acts = sae.encode(random_activations(4, 12).float())
    for twin in (copy.deepcopy(sae), pickle.loads(pickle.dumps(sae))):
        assert torch.equal(twin.W_enc, sae.W_enc)
        with pytest.raises(SAEError, match="needs the state"):
            twin.decode(acts)
