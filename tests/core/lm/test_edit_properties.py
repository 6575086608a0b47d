"""Edits of features, as a run makes them, against h + D(a′) − D(a) in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.lm.edit_support import bind, prompt, run_rows
from tests.core.sae.reference import (
    KINDS,
    NORMALIZATIONS,
    random_activations,
    random_sae,
    reference_decode,
    reference_encode,
)
from tests.parity.distances import distances, pursuit_distances
from torch import Tensor

from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.intervention_rows import place
from saekit_core.lm.interventions import AffineClip, FeatureEdit, Interventions, Splice
from saekit_core.lm.positions import PositionSelector, Region
from saekit_core.sae import SAE

FEATURE_WISE = (
    "standard",
    "gated",
    "jumprelu",
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)
N_POSITIONS = 4
EVERYWHERE = PositionSelector(Region.ALL, include_bos=True)
TOO_CLOSE = 1e-6
"""Float32 may put a feature that is closer to its boundary than this on the other side."""

numbers = st.floats(-3, 3, width=32)
ops = st.one_of(
    numbers.map(AffineClip.add),
    numbers.map(AffineClip.set_to),
    numbers.map(AffineClip.multiply),
    st.tuples(numbers, numbers).map(lambda bounds: AffineClip.clip(min(bounds), max(bounds))),
    st.just(AffineClip.ablate()),
)


@st.composite
def edits(draw: st.DrawFn, d_sae: int = 40) -> list[tuple[int, AffineClip]]:
    """Some edits, the same feature more than once as well."""
    features = draw(st.lists(st.integers(0, d_sae - 1), min_size=1, max_size=3, unique=True))
    return draw(st.lists(st.tuples(st.sampled_from(features), ops), min_size=1, max_size=5))


def by_formula(
    sae: SAE, x: Tensor, h: Tensor, changes: list[tuple[int, AffineClip]], error_term: bool
) -> Tensor:
    """h′ ``[P, d_out]`` in float64, of x ``[P, d_in]`` and h ``[P, d_out]``."""
    x, h = x.double(), h.double()
    acts = reference_encode(sae, x)
    changed = acts.clone()
    for feature, op in changes:
        moved = op.scale * changed[:, feature] + op.shift
        changed[:, feature] = moved.clamp(op.lo, op.hi)
    after = reference_decode(sae, changed, x)
    return h + after - reference_decode(sae, acts, x) if error_term else after


def settled(sae: SAE, x: Tensor, features: list[int], whole_rows: bool) -> Tensor:
    """``[P]``: positions where float32 and float64 agree on which features are active."""
    wide = SAE.from_state(sae.cfg, sae.weights()).double()
    if sae.cfg.architecture == "matching_pursuit":
        return pursuit_distances(wide, x) > TOO_CLOSE
    away = distances(wide, x) > TOO_CLOSE
    return (away if whole_rows else away[:, features]).all(dim=1)


def run(
    sae: SAE, x: Tensor, h: Tensor, changes: list[tuple[int, AffineClip]], error_term: bool
) -> Tensor:
    """What a run writes, ``[P, d_out]``."""
    reads = HookPoint("blocks.1.hook_resid_mid", "blocks.1.ln2.hook_in", 5, (sae.cfg.d_in,))
    writes = HookPoint("blocks.1.hook_mlp_out", "blocks.1.mlp.hook_out", 6, (sae.cfg.d_out,))
    transcodes = sae.architecture.transcodes
    bound = bind(sae, reads, writes if transcodes else reads)
    interventions = Interventions(
        splices=() if error_term else (Splice(bound, use_error_term=False),),
        edits=tuple(FeatureEdit(bound, f, op, positions=EVERYWHERE) for f, op in changes),
    )
    row = place(interventions, prompt(len(x)))
    given_ = {reads: x[None], writes: h[None]} if transcodes else {reads: h[None]}
    return run_rows([row], given_)[0][bound.hook_out][0]


@pytest.mark.parametrize("kind", KINDS)
@given(
    normalization=st.sampled_from(NORMALIZATIONS),
    apply_b_dec_to_input=st.booleans(),
    error_term=st.booleans(),
    seed=st.integers(0, 2**16),
    changes=edits(),
)
@settings(max_examples=15)
def test_edits_equal_the_full_formula(
    *,
    kind: str,
    normalization: str,
    apply_b_dec_to_input: bool,
    error_term: bool,
    seed: int,
    changes: list[tuple[int, AffineClip]],
) -> None:
    sae = random_sae(kind, normalization, seed=seed, apply_b_dec_to_input=apply_b_dec_to_input)
    assert sae.feature_wise == (kind in FEATURE_WISE)
    x = random_activations(N_POSITIONS, sae.cfg.d_in, seed=seed).float()
    h = x
    if sae.architecture.transcodes:
        h = random_activations(N_POSITIONS, sae.cfg.d_out, seed=seed + 1).float()
    out = run(sae, x, h, changes, error_term)
    expected = by_formula(sae, x, h, changes, error_term)
    features = [feature for feature, _ in changes]
    rows = settled(sae, x, features, whole_rows=not error_term)
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(out[rows].double(), expected[rows], rtol=0, atol=1e-5 * scale)
