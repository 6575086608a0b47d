"""What holds for every SAE: disk changes nothing, and decode depends on its arguments alone."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.sae.reference import (
    KINDS,
    NORMALIZATIONS,
    random_activations,
    random_sae,
)
from torch import Tensor

from saekit_core.sae import SAE, EncodeState, read_sae_folder_owned

DTYPES = ("float32", "float16", "bfloat16", "float64")
HEADS = (3, 4)


@st.composite
def saes(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> SAE:
    """An SAE under any normalisation in any dtype, every tensor random."""
    return random_sae(
        draw(st.sampled_from(kinds)),
        draw(st.sampled_from(NORMALIZATIONS)),
        dtype=draw(st.sampled_from(DTYPES)),
        reshape=draw(st.sampled_from(["none", "hook_z"])),
        apply_b_dec_to_input=draw(st.booleans()),
        seed=draw(st.integers(0, 2**16)),
    )


def activations_for(sae: SAE, seed: int, *shape: int) -> Tensor:
    """Activations ``[*shape, d_in]``, or with heads, in float32."""
    x = random_activations(*shape, sae.cfg.d_in, seed=seed).float()
    return x.view(*shape, *HEADS) if sae.cfg.reshape_activations == "hook_z" else x


def bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    """What a tensor is, to the bit: NaN equals itself and -0.0 differs from 0.0."""
    flat = tensor.detach().contiguous()
    return tensor.dtype, tensor.shape, flat.view(torch.uint8).numpy().tobytes()


def outcome(sae: SAE, x: Tensor) -> list[object]:
    """Everything that an SAE says of x, to the bit."""
    acts, state = sae.encode_with_state(x)
    return [bits(acts), bits(sae.decode(acts, state)), bits(sae(x))]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), seed=st.integers(0, 2**16), owned=st.booleans())
@settings(max_examples=8)
def test_an_sae_answers_the_same_after_disk(
    kind: str, data: st.DataObject, seed: int, owned: bool
) -> None:
    sae = data.draw(saes((kind,)))
    x = activations_for(sae, seed, 2, 3)
    with TemporaryDirectory() as folder:
        sae.save_model(Path(folder) / "sae")
        read = (
            read_sae_folder_owned(Path(folder) / "sae").build()
            if owned
            else SAE.load_from_disk(Path(folder) / "sae")
        )
        assert read.cfg.to_dict() == sae.cfg.to_dict()
        torch.testing.assert_close(read(x), sae(x))
        # A file's tensors begin where they begin, and BLAS sums in an order that depends on that.
        tensors = {name: tensor.clone() for name, tensor in read.weights().items()}
    assert outcome(SAE.from_state(read.cfg, tensors), x) == outcome(sae, x)


@given(
    pool=st.lists(saes(), min_size=1, max_size=3),
    calls=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2**16)), min_size=1, max_size=5),
    data=st.data(),
)
def test_decode_with_a_state_does_not_depend_on_what_is_encoded_meanwhile(
    pool: list[SAE], calls: list[tuple[int, int]], data: st.DataObject
) -> None:
    made = [(sae := pool[i % len(pool)], activations_for(sae, seed, 2, 2)) for i, seed in calls]
    expected = [outcome(sae, x)[1] for sae, x in made]
    # Each call twice, in any order: the first time it encodes, the second time it decodes.
    kept: dict[int, tuple[Tensor, EncodeState]] = {}
    for index in data.draw(st.permutations(2 * list(range(len(made))))):
        sae, x = made[index]
        if index in kept:
            assert bits(sae.decode(*kept[index])) == expected[index]
        else:
            kept[index] = sae.encode_with_state(x)
            sae.encode(-x)  # the pair that remembers must not get in its way


@given(sae=saes(), seeds=st.lists(st.integers(0, 2**16), min_size=2, max_size=4))
def test_the_drop_in_pair_of_one_thread_does_not_see_those_of_others(
    sae: SAE, seeds: list[int]
) -> None:
    inputs = [activations_for(sae, seed, 2, 3) for seed in seeds]
    expected = []
    for x in inputs:
        acts = sae.encode(x)
        expected.append(bits(sae.decode(acts)))
    all_have_encoded = threading.Barrier(len(inputs))

    def pair(x: Tensor) -> object:
        acts = sae.encode(x)
        all_have_encoded.wait(timeout=10)
        return bits(sae.decode(acts))

    with ThreadPoolExecutor(len(inputs)) as threads:
        assert list(threads.map(pair, inputs)) == expected


@given(sae=saes(), seed=st.integers(0, 2**16))
def test_forward_is_decode_of_encode_with_its_state(sae: SAE, seed: int) -> None:
    x = activations_for(sae, seed, 2, 3)
    acts, state = sae.encode_with_state(x)
    assert bits(sae(x)) == bits(sae.decode(acts, state))
    assert bits(sae.encode(x)) == bits(acts)
