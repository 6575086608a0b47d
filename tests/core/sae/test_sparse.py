"""Sparse encoding equals dense encoding, whatever the blocks, and reports in order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.core.sae.reference import CELLS, KINDS, random_activations, random_sae

from saekit_core.sae import SAE, SAEError, SparseActs, encode_sparse, sparse


def wide_sae(kind: str, normalization: str = "none", **options: object) -> SAE:
    """Wider than two tiles, so that tiles have to be merged."""
    width = 2 * sparse.CPU_TILE_FEATURES + 100
    return random_sae(kind, normalization, d_in=8, d_sae=width, **options)  # type: ignore[arg-type]


def check_form(acts: SparseActs, n_rows: int) -> None:
    assert acts.indptr.dtype == acts.indices.dtype == np.uint32
    assert acts.indptr.shape == (n_rows + 1,)
    assert acts.indptr[0] == 0
    assert acts.indptr[-1] == len(acts.indices) == len(acts.values)
    assert (acts.values != 0).all()
    for row in range(n_rows):
        assert (np.diff(acts.rows(row, row + 1).indices.astype(np.int64)) > 0).all()


@pytest.mark.parametrize(("kind", "normalization"), CELLS)
def test_sparse_encode_equals_dense_encode(kind: str, normalization: str) -> None:
    sae = wide_sae(kind, normalization)
    x = random_activations(37, 8).float()
    acts, state = encode_sparse(sae, x, block_rows=16)
    dense, dense_state = sae.encode_with_state(x)
    check_form(acts, 37)
    torch.testing.assert_close(acts.to_dense(), dense, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sae.decode(acts.to_dense(), state), sae.decode(dense, dense_state))


@pytest.mark.parametrize("kind", ["standard", "gated", "jumprelu"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sparse_values_have_the_dtype_of_the_sae(kind: str, dtype: str) -> None:
    sae = wide_sae(kind, dtype=dtype)
    acts, _ = encode_sparse(sae, random_activations(9, 8).float())
    assert acts.values.dtype == sae.dtype
    dense = sae.encode(random_activations(9, 8).float())
    assert ((acts.to_dense() != 0) == (dense != 0)).double().mean() > 0.999


@given(
    kind=st.sampled_from(KINDS),
    n_rows=st.integers(0, 9),
    block_rows=st.integers(1, 10),
    d_sae=st.integers(1, 70),
    seed=st.integers(0, 2**16),
)
def test_blocks_of_any_size_give_the_same_rows(
    kind: str, n_rows: int, block_rows: int, d_sae: int, seed: int
) -> None:
    sae = random_sae(kind, d_in=3, d_sae=d_sae, seed=seed)
    x = random_activations(n_rows, 3, seed=seed).float()
    acts, _ = encode_sparse(sae, x, block_rows=block_rows)
    check_form(acts, n_rows)
    torch.testing.assert_close(acts.to_dense(), sae.encode(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [1, 3, 4000])
def test_top_k_reports_the_largest_of_each_row_ascending_by_index(kind: str, top_k: int) -> None:
    sae = wide_sae(kind)
    x = random_activations(11, 8).float()
    acts, _ = encode_sparse(sae, x, top_k=top_k)
    check_form(acts, 11)
    every, _ = encode_sparse(sae, x)
    for row in range(11):
        # By magnitude: the features of abstopk have signs.
        expected = every.rows(row, row + 1).values.abs().sort(descending=True).values[:top_k]
        found = acts.rows(row, row + 1).values.abs().sort(descending=True).values
        assert torch.equal(found, expected)


def test_of_equal_activations_the_lower_index_is_kept() -> None:
    acts = SparseActs.from_counts(
        np.array([4]),
        np.array([2, 5, 7, 9], dtype=np.uint32),
        torch.tensor([1.0, 3.0, 1.0, 1.0]),
        10,
    )
    assert acts.keep_largest(2).indices.tolist() == [2, 5]


def test_topk_never_reports_more_than_k_even_among_equals() -> None:
    sae = random_sae("topk", d_in=2, d_sae=64, apply_b_dec_to_input=False)
    sae.W_enc.fill_(1.0)
    sae.b_enc.fill_(1.0)  # type: ignore[union-attr]
    acts, _ = encode_sparse(sae, torch.ones(3, 2))
    assert acts.counts.tolist() == [5, 5, 5]
    assert acts.rows(1, 2).indices.tolist() == [0, 1, 2, 3, 4]


def test_rows_split_a_batch_back_into_what_was_put_in() -> None:
    sae = random_sae("jumprelu")
    first, second = random_activations(4, 12).float(), random_activations(3, 12, seed=5).float()
    together, _ = encode_sparse(sae, torch.cat([first, second]))
    for part, x in ((together.rows(0, 4), first), (together.rows(4, 7), second)):
        alone, _ = encode_sparse(sae, x)
        assert part.indptr.tolist() == alone.indptr.tolist()
        assert part.indices.tolist() == alone.indices.tolist()
        torch.testing.assert_close(part.values, alone.values)


def test_bad_arguments_are_refused_by_name() -> None:
    sae = random_sae("standard")
    x = torch.zeros(2, 12)
    for arguments, field in (
        ({"x": torch.zeros(2, 11)}, "x"),
        ({"x": torch.zeros(2, 1, 12)}, "x"),
        ({"x": x, "top_k": 0}, "top_k"),
        ({"x": x, "top_k": 41}, "top_k"),
        ({"x": x, "block_rows": 0}, "block_rows"),
    ):
        with pytest.raises(SAEError) as caught:
            encode_sparse(sae, **arguments)
        assert caught.value.field == field
