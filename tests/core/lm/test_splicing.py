"""The composition rules of edits, each against a float64 reference written from the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from tests.core.lm.edit_support import (
    ARCHITECTURES,
    D_SAE,
    EARLY,
    HEADS,
    HOOK,
    LATE,
    NORMALIZATIONS,
    D,
    activations,
    apply,
    bind,
    of_head,
    prompt,
    random_sae,
    run_rows,
    same_bits,
)
from torch import Tensor

from saekit_core.lm.intervention_rows import InterventionRow, place
from saekit_core.lm.interventions import (
    AffineClip,
    ApplyFromHere,
    ApplyHere,
    Condition,
    DirectionEdit,
    FeatureEdit,
    Interventions,
    Splice,
    Stop,
    Watch,
)
from saekit_core.lm.positions import PositionSelector, Region
from saekit_core.lm.splicing import BatchedInterventions
from saekit_core.sae import SAE

# --- the reference: float64, one position at a time, from the formulas ---

Decode = Callable[[Tensor], Tensor]


def encode_reference(sae: SAE, x: Tensor) -> tuple[Tensor, Decode]:
    """a = E(x) of one position `[d]`, and the D that undoes its normalisation."""
    cfg, w = sae.cfg, {name: tensor.detach().double() for name, tensor in sae.weights().items()}
    mean, factor = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    x = x.double()
    if cfg.normalize_activations == "layer_norm":
        mean, factor = x.mean(), x.std()
        x = (x - mean) / (factor + 1e-5)
    elif cfg.normalize_activations == "constant_norm_rescale":
        factor = x.norm() / len(x) ** 0.5
        x = x / factor
    if cfg.apply_b_dec_to_input:
        x = x - w["b_dec"]
    p = x @ w["W_enc"] + w.get("b_enc", 0.0)
    rows = w["W_dec"]
    match cfg.architecture:
        case "standard":
            a = p.relu()
        case "jumprelu":
            a = p.relu() * (p > w["threshold"])
        case "gated":
            magnitude = (x @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]).relu()
            a = magnitude * (p + w["b_gate"] > 0)
        case "topk":
            norms = rows.norm(dim=1)
            if cfg.rescale_acts_by_decoder_norm:
                p, rows = p * norms, rows / norms[:, None]
            assert cfg.k is not None
            kept = p.topk(cfg.k).indices
            a = torch.zeros_like(p)
            a[kept] = p[kept].relu()
    return a, lambda acts: (acts @ rows + w["b_dec"]) * factor + mean


def edited(a: float, op: AffineClip) -> float:
    return min(max(op.scale * a + op.shift, op.lo), op.hi)


def feature_edits_reference(
    sae: SAE, h: Tensor, edits: Sequence[tuple[int, AffineClip]], *, error_term: bool = True
) -> Tensor:
    """h' of one position."""
    a, decode = encode_reference(sae, h)
    changed = a.clone()
    for feature, op in edits:
        changed[feature] = edited(float(changed[feature]), op)
    return h.double() + decode(changed) - decode(a) if error_term else decode(changed)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), rtol=2e-5, atol=2e-5)


OPS = {
    "add": AffineClip.add(1.7),
    "set": AffineClip.set_to(2.5),
    "ablate": AffineClip.ablate(),
    "scale": AffineClip.multiply(-1.3),
    "clip": AffineClip.clip(0.2, 0.6),
}
EVERYWHERE = PositionSelector(Region.ALL, include_bos=True)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
@pytest.mark.parametrize("error_term", [True, False], ids=["error term", "no error term"])
def test_feature_edit_equals_formula(
    architecture: str, normalization: str, op: AffineClip, error_term: bool
) -> None:
    sae = random_sae(architecture, normalization)
    bound, h = bind(sae), activations(1, 6)[0]
    interventions = Interventions(
        splices=(Splice(bound, use_error_term=error_term),),
        edits=tuple(FeatureEdit(bound, f, op, positions=EVERYWHERE) for f in (3, 11)),
    )
    out = apply(interventions, h)
    for position in range(6):
        expected = feature_edits_reference(
            sae, h[position], [(3, op), (11, op)], error_term=error_term
        )
        close(out[position], expected)


def test_rescaled_topk_edits_move_along_unit_rows() -> None:
    sae = random_sae("topk", rescale_acts_by_decoder_norm=True)
    h = activations(1, 5)[0]
    out = apply(Interventions(edits=(FeatureEdit(bind(sae), 3, AffineClip.set_to(4.0)),)), h)
    for position in range(1, 5):
        expected = feature_edits_reference(sae, h[position], [(3, AffineClip.set_to(4.0))])
        close(out[position], expected)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_unit_norm_add_moves_by_its_amount_outside_of_any_normalisation(normalization: str) -> None:
    sae = random_sae("jumprelu", normalization)
    h = 7 * activations(1, 5)[0]
    edit = FeatureEdit(bind(sae), 4, AffineClip.add(2.0), unit_norm=True, positions=EVERYWHERE)
    moved = apply(Interventions(edits=(edit,)), h) - h
    direction = (sae.W_dec[4] / sae.W_dec[4].norm()).detach()
    close(moved, 2.0 * direction.expand(5, D))


def test_unit_norm_add_reaches_activations_without_variance() -> None:
    sae = random_sae("standard", "layer_norm")
    h = torch.full((3, D), 0.5)
    edit = FeatureEdit(bind(sae), 4, AffineClip.add(2.0), unit_norm=True)
    moved = apply(Interventions(edits=(edit,)), h) - h
    close(moved[1].norm(), torch.tensor(2.0))


def test_add_is_exact_beside_a_huge_activation() -> None:
    sae = random_sae("standard")
    with torch.no_grad():
        sae.b_enc[3] = 1e8
    h = activations(1, 2)[0]
    moved = apply(Interventions(edits=(FeatureEdit(bind(sae), 3, AffineClip.add(0.5)),)), h) - h
    close(moved[1], 0.5 * sae.W_dec[3].detach())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_edits_of_one_feature_compose_in_list_order(architecture: str) -> None:
    sae = random_sae(architecture, "layer_norm")
    bound, h = bind(sae), activations(1, 5)[0]
    ops = [AffineClip.add(1.0), AffineClip.multiply(3.0), AffineClip.clip(0.5, 4.0)]
    outs = []
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2, 0]):
        edits = [(7, ops[index]) for index in order]
        out = apply(Interventions(edits=tuple(FeatureEdit(bound, f, op) for f, op in edits)), h)
        for position in range(1, 5):
            close(out[position], feature_edits_reference(sae, h[position], edits))
        outs.append(out)
    assert not torch.allclose(outs[0], outs[1])


def test_brackets_of_several_saes_add_and_all_read_the_incoming_h() -> None:
    one, two = random_sae("jumprelu", seed=1), random_sae("topk", "layer_norm", seed=2)
    h = activations(1, 5)[0]
    op = AffineClip.set_to(3.0)
    edits = (FeatureEdit(bind(one), 2, op), FeatureEdit(bind(two), 5, op))
    out = apply(Interventions(edits=edits), h)
    for position in range(1, 5):
        first = feature_edits_reference(one, h[position], [(2, op)])
        second = feature_edits_reference(two, h[position], [(5, op)])
        close(out[position], first + second - h[position])


def test_a_bracket_adds_to_the_reconstruction_of_an_sae_without_error_term() -> None:
    one, two = random_sae("jumprelu", seed=1), random_sae("standard", seed=2)
    h, op = activations(1, 5)[0], AffineClip.set_to(3.0)
    interventions = Interventions(
        splices=(Splice(bind(one), use_error_term=False), Splice(bind(two))),
        edits=(FeatureEdit(bind(two), 5, op),),
    )
    out = apply(interventions, h)
    for position in range(1, 5):
        reconstruction = feature_edits_reference(one, h[position], [], error_term=False)
        second = feature_edits_reference(two, h[position], [(5, op)])
        close(out[position], reconstruction + second - h[position])


def test_splice_without_error_term_covers_its_positions_alone() -> None:
    sae, h = random_sae("gated"), activations(1, 6)[0]
    bound, op = bind(sae), AffineClip.set_to(2.0)
    interventions = Interventions(
        splices=(Splice(bound, False, PositionSelector(ranges=((2, 4),))),),
        edits=(FeatureEdit(bound, 1, op, positions=PositionSelector(ranges=((3, 6),))),),
    )
    out = apply(interventions, h)
    assert same_bits(out[:2], h[:2])
    close(out[2], feature_edits_reference(sae, h[2], [], error_term=False))
    close(out[3], feature_edits_reference(sae, h[3], [(1, op)], error_term=False))
    close(out[4], feature_edits_reference(sae, h[4], [(1, op)]))


def test_a_splice_covers_the_bos_unless_told_otherwise() -> None:
    sae, h = random_sae(), activations(1, 3)[0]
    out = apply(Interventions(splices=(Splice(bind(sae), use_error_term=False),)), h)
    close(out[0], feature_edits_reference(sae, h[0], [], error_term=False))


DIRECTION_OPS = {
    "add": (AffineClip.add(0.8), lambda h, v: h + 0.8 * v),
    "project": (
        AffineClip.multiply(0.25),
        lambda h, v: h - 0.75 * (h @ v / v.norm()) * v / v.norm(),
    ),
    "cap": (
        AffineClip.clip(-0.1, 0.3),
        lambda h, v: h + ((h @ v / v.norm()).clamp(-0.1, 0.3) - h @ v / v.norm()) * v / v.norm(),
    ),
}


@pytest.mark.parametrize(("op", "formula"), DIRECTION_OPS.values(), ids=DIRECTION_OPS)
def test_direction_edit_equals_formula(
    op: AffineClip, formula: Callable[[Tensor, Tensor], Tensor]
) -> None:
    h, vector = activations(1, 6)[0], 3 * activations(1, 1, seed=5)[0, 0]
    out = apply(Interventions(edits=(DirectionEdit(HOOK, vector, op, EVERYWHERE),)), h)
    for position in range(6):
        close(out[position], formula(h[position].double(), vector.double()))


def test_direction_edits_follow_feature_edits_in_list_order() -> None:
    sae, h = random_sae("jumprelu"), activations(1, 4)[0]
    one, two = activations(1, 2, seed=5)[0]
    set_feature = FeatureEdit(bind(sae), 2, AffineClip.set_to(3.0))
    cap = DirectionEdit(HOOK, one, AffineClip.clip(-0.1, 0.1))
    add = DirectionEdit(HOOK, two, AffineClip.add(1.0))
    v, w = one.double(), two.double()

    def capped(x: Tensor) -> Tensor:
        along = x @ v / v.norm()
        return x + (along.clamp(-0.1, 0.1) - along) * v / v.norm()

    first = apply(Interventions(edits=(cap, set_feature, add)), h)
    second = apply(Interventions(edits=(add, set_feature, cap)), h)
    for position in range(1, 4):
        moved = feature_edits_reference(sae, h[position], [(2, AffineClip.set_to(3.0))])
        close(first[position], capped(moved) + w)
        close(second[position], capped(moved + w))


def test_preserve_norm_rescales_to_the_old_norm_last() -> None:
    sae, h = random_sae("jumprelu"), activations(1, 4)[0]
    vector = activations(1, 1, seed=5)[0, 0]
    op = AffineClip.set_to(3.0)
    edits = (DirectionEdit(HOOK, vector, AffineClip.add(2.0)), FeatureEdit(bind(sae), 2, op))
    out = apply(Interventions(edits=edits, preserve_norm=True), h)
    assert same_bits(out[0], h[0])
    for position in range(1, 4):
        moved = feature_edits_reference(sae, h[position], [(2, op)]) + 2.0 * vector.double()
        close(out[position], moved * h[position].double().norm() / moved.norm())


def test_preserve_norm_of_one_row_leaves_the_others_norms_alone() -> None:
    h = activations(2, 3)
    edit = DirectionEdit(HOOK, torch.ones(D), AffineClip.add(5.0))
    rows = [
        place(Interventions(edits=(edit,), preserve_norm=keeps), prompt(3))
        for keeps in (True, False)
    ]
    out = run_rows(rows, {HOOK: h})[0][HOOK]
    close(out[0].norm(dim=-1), h[0].norm(dim=-1))
    close(out[1, 1:], h[1, 1:] + 5.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_not_edited_keeps_its_bits(dtype: torch.dtype) -> None:
    sae = random_sae("jumprelu")
    h = activations(3, 6, dtype=dtype)
    h[:, 2, 3], h[:, 3, 4], h[:, 3, 5] = -0.0, math.nan, -math.inf
    only_last = PositionSelector(Region.LAST_PROMPT)
    rows = [
        place(Interventions(), prompt(6)),
        place(Interventions(splices=(Splice(bind(sae)),)), prompt(6)),
        place(
            Interventions(
                edits=(
                    FeatureEdit(bind(sae), 2, AffineClip.set_to(3.0), positions=only_last),
                    DirectionEdit(HOOK, torch.ones(D), AffineClip.add(1.0), only_last),
                ),
                preserve_norm=True,
            ),
            prompt(6),
        ),
    ]
    out = run_rows(rows, {HOOK: h})[0][HOOK]
    assert same_bits(out[:2], h[:2])
    assert same_bits(out[2, :5], h[2, :5])
    assert not same_bits(out[2, 5], h[2, 5])


def test_an_edit_that_changes_no_activation_changes_no_bit() -> None:
    sae, h = random_sae("topk"), activations(1, 8)[0]
    h[4, 3] = -0.0
    acts = sae.encode_with_state(h)[0]
    silent = int((acts[1:] == 0).all(dim=0).nonzero()[0])
    edits = (
        FeatureEdit(bind(sae), silent, AffineClip.ablate()),
        FeatureEdit(bind(sae), silent, AffineClip.multiply(5.0)),
        FeatureEdit(bind(sae), 1, AffineClip.clip(0.0, math.inf)),
    )
    assert same_bits(apply(Interventions(edits=edits, preserve_norm=True), h), h)


def test_the_bracket_is_added_in_float32_and_cast_once() -> None:
    sae, h = random_sae("standard"), activations(1, 3, dtype=torch.bfloat16)[0]
    ops = [AffineClip.add(0.003)] * 3
    edits = tuple(FeatureEdit(bind(sae), f, op) for f, op in zip((1, 2, 3), ops, strict=True))
    out = apply(Interventions(edits=edits), h)
    expected = h.float() + 0.003 * sae.W_dec[1:4].sum(dim=0).detach()
    assert torch.equal(out[1:], expected[1:].to(torch.bfloat16))


def test_hook_z_edits_are_flattened_over_heads() -> None:
    sae = random_sae("standard", reshape_activations="hook_z")
    h, vector, op = activations(1, 4)[0], torch.arange(1.0, D + 1), AffineClip.set_to(2.0)
    edits = (
        FeatureEdit(bind(sae, HEADS), 3, op),
        DirectionEdit(HEADS, vector, AffineClip.add(0.1)),
    )
    splice = (Splice(bind(sae, HEADS), use_error_term=False),)
    for splices in ((), splice):
        out = apply(Interventions(splices, edits), h.view(4, 4, -1), hook=HEADS).flatten(1)
        for position in range(1, 4):
            expected = feature_edits_reference(sae, h[position], [(3, op)], error_term=not splices)
            close(out[position], expected + 0.1 * vector)


def test_an_sae_of_one_head_edits_that_head_alone() -> None:
    sae = of_head(random_sae("standard", d_in=D // 4), 2)
    h, op = activations(1, 4)[0].view(4, 4, -1), AffineClip.set_to(2.0)
    out = apply(Interventions(edits=(FeatureEdit(bind(sae, HEADS), 3, op),)), h, hook=HEADS)
    assert same_bits(out[:, [0, 1, 3]], h[:, [0, 1, 3]])
    for position in range(1, 4):
        close(out[position, 2], feature_edits_reference(sae, h[position, 2], [(3, op)]))


def test_a_bracket_is_written_at_the_output_hook_point() -> None:
    """An SAE that reads one hook point and writes another, as transcoders do."""
    sae, op = random_sae("jumprelu"), AffineClip.set_to(2.0)
    bound = bind(sae, HOOK, LATE)
    x, y = activations(1, 4), activations(1, 4, seed=9)
    out, _ = run_rows(
        [place(Interventions(edits=(FeatureEdit(bound, 3, op),)), prompt(4))], {HOOK: x, LATE: y}
    )
    assert out[HOOK] is x
    for position in range(1, 4):
        bracket = feature_edits_reference(sae, x[0, position], [(3, op)]) - x[0, position]
        close(out[LATE][0, position], y[0, position] + bracket)


# --- batches ---


def a_row(index: int) -> Interventions:
    """One of many different interventions, over two SAEs that all rows share."""
    op = list(OPS.values())[index % 5]
    bound = _SHARED[index % 2]
    edits: list[FeatureEdit | DirectionEdit] = [
        FeatureEdit(bound, (3 * index + offset) % D_SAE, op) for offset in range(index % 4)
    ]
    if index % 3 == 0:
        edits.append(DirectionEdit(HOOK, torch.arange(1.0, D + 1) - index, AffineClip.add(0.1)))
    if index % 5 == 1:
        edits.append(FeatureEdit(bound, 3 * index % D_SAE, AffineClip.multiply(2.0)))
    splices = (Splice(bound, use_error_term=index % 4 != 3),)
    trigger = Condition(
        _SHARED[1], index % D_SAE, 0.3, ApplyFromHere((FeatureEdit(bound, 9, AffineClip.add(4.0)),))
    )
    conditions = (trigger,) if index % 3 == 1 else ()
    return Interventions(
        splices, tuple(edits), conditions, preserve_norm=index % 7 == 2 and bool(edits)
    )


_SHARED = (bind(random_sae("jumprelu", seed=1)), bind(random_sae("topk", "layer_norm", seed=2)))


def test_a_batch_of_different_interventions_equals_each_row_alone() -> None:
    lengths = [4 + 3 * index % 7 for index in range(16)]
    h = activations(16, max(lengths))
    watch = [Watch(_SHARED[0], 5), Watch(_SHARED[1], 6)]

    def row(index: int) -> InterventionRow:
        return place(a_row(index), prompt(lengths[index]), watch=watch[: index % 3])

    together, batch = run_rows([row(index) for index in range(16)], {HOOK: h}, counts=lengths)
    for index, n in enumerate(lengths):
        alone, single = run_rows([row(index)], {HOOK: h[index : index + 1, :n]})
        close(together[HOOK][index, :n], alone[HOOK][0])
        torch.testing.assert_close(batch.watched[index], single.watched[0], rtol=1e-5, atol=1e-6)
        untouched = (alone[HOOK][0] == h[index, :n]).all(dim=1)
        assert same_bits(together[HOOK][index, :n][untouched], h[index, :n][untouched])


def test_positions_behind_a_rows_end_are_not_touched() -> None:
    h = activations(2, 6)
    h[0, 4:] = math.nan
    sae = random_sae("standard", "layer_norm")
    edits = (FeatureEdit(bind(sae), 1, AffineClip.set_to(3.0)),)
    rows = [place(Interventions(edits=edits), prompt(n)) for n in (4, 6)]
    out = run_rows(rows, {HOOK: h}, counts=[4, 6])[0][HOOK]
    assert same_bits(out[0, 4:], h[0, 4:])
    assert torch.isfinite(out[0, :4]).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_watched_activations_are_the_unedited_ones(architecture: str) -> None:
    sae = random_sae(architecture, "constant_norm_rescale")
    bound, h = bind(sae), activations(1, 5)
    interventions = Interventions(
        (Splice(bound, use_error_term=False),), (FeatureEdit(bound, 3, AffineClip.ablate()),)
    )
    watch = [Watch(bound, 8), Watch(bound, 3)]
    _, batch = run_rows([place(interventions, prompt(5), watch=watch)], {HOOK: h})
    for position in range(5):
        a, _ = encode_reference(sae, h[0, position])
        close(torch.from_numpy(batch.watched[0][position]), a[[8, 3]])


# --- conditions ---


def fires_at(sae: SAE, feature: int, h: Tensor, threshold: float) -> list[int]:
    """Positions but the BOS at which the feature lies above the threshold."""
    acts = [float(encode_reference(sae, x)[0][feature]) for x in h]
    return [position for position, a in enumerate(acts) if position and a > threshold]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_apply_here_edits_the_positions_that_fire_alone(architecture: str) -> None:
    sae, h = random_sae(architecture), activations(1, 12)[0]
    trigger, target = bind(sae), bind(random_sae("jumprelu", seed=3))
    op = AffineClip.add(2.0)
    action = ApplyHere((FeatureEdit(target, 5, op), DirectionEdit(HOOK, torch.ones(D), op)))
    out = apply(Interventions(conditions=(Condition(trigger, 4, 0.2, action),)), h)
    fired = fires_at(sae, 4, h, 0.2)
    assert 0 < len(fired) < 11
    for position in range(12):
        if position in fired:
            moved = feature_edits_reference(target.sae, h[position], [(5, op)])
            close(out[position], moved + 2.0)
        else:
            assert same_bits(out[position], h[position])


def test_a_condition_reads_the_unedited_activation() -> None:
    sae, h = random_sae("standard"), activations(1, 12)[0]
    bound = bind(sae)
    here = ApplyHere((DirectionEdit(HOOK, torch.ones(D), AffineClip.add(2.0)),))
    ablate = FeatureEdit(bound, 4, AffineClip.ablate())
    with_edit = apply(Interventions((), (ablate,), (Condition(bound, 4, 0.2, here),)), h)
    edit_alone = apply(Interventions((), (ablate,)), h)
    fired = fires_at(sae, 4, h, 0.2)
    assert [p for p in range(12) if not torch.equal(with_edit[p], edit_alone[p])] == fired


@pytest.mark.parametrize("chunks", [[12], [5, 7], [1] * 12, [4, 1, 1, 6]])
def test_apply_from_here_holds_over_chunks_and_steps(chunks: list[int]) -> None:
    sae, h = random_sae("jumprelu"), activations(2, 12)
    action = ApplyFromHere((DirectionEdit(LATE, torch.ones(D), AffineClip.add(2.0)),))
    conditions = (Condition(bind(sae, EARLY), 4, 0.6, action),)
    first = fires_at(sae, 4, h[0], 0.6)[0]
    assert 2 < first < 10
    rows = [
        place(Interventions(conditions=conditions), prompt(12)),
        place(Interventions(), prompt(12)),
    ]
    outs, start = [], 0
    for count in chunks:
        part = h[:, start : start + count]
        out, _ = run_rows(rows, {EARLY: part, LATE: part}, starts=[start] * 2)
        outs.append(out[LATE])
        start += count
    out = torch.cat(outs, dim=1)
    assert same_bits(out[1], h[1])
    assert same_bits(out[0, :first], h[0, :first])
    close(out[0, first:], h[0, first:] + 2.0)


def test_a_run_that_is_repeated_latches_nothing_twice() -> None:
    sae, h = random_sae("jumprelu"), activations(1, 12)
    action = ApplyFromHere((DirectionEdit(HOOK, torch.ones(D), AffineClip.add(2.0)),))
    row = place(Interventions(conditions=(Condition(bind(sae), 4, 0.6, action),)), prompt(12))
    batch = BatchedInterventions([row], torch.device("cpu"))
    batch.taps([0], [12], 12)[HOOK](h)  # a pass that failed later on: no finish()
    repeated = batch.taps([0], [12], 12)[HOOK](h)
    assert repeated is not None
    first = fires_at(sae, 4, h[0], 0.6)[0]
    assert same_bits(repeated[0, :first], h[0, :first])


def test_stop_reports_the_first_position_that_fires_and_its_trigger() -> None:
    sae, h = random_sae("jumprelu"), activations(2, 12)
    selector = PositionSelector(ranges=((3, 12),))
    conditions = (
        Condition(bind(sae), 7, 1e9, Stop(), selector),
        Condition(bind(sae), 4, 0.6, Stop(), selector),
    )
    rows = [
        place(Interventions(conditions=conditions), prompt(12), n_generated=4),
        place(Interventions(), prompt(12), n_generated=4),
    ]
    out, batch = run_rows(rows, {HOOK: h})
    assert out[HOOK] is h
    position = next(p for p in fires_at(sae, 4, h[0], 0.6) if p >= 3)
    event = batch.stops[0]
    assert event is not None
    assert (event.position, event.condition) == (position, 1)
    activation = encode_reference(sae, h[0, position])[0][4]
    assert event.activation == pytest.approx(float(activation), rel=1e-5)
    assert batch.stops[1] is None


def test_reading_alone_replaces_nothing() -> None:
    bound, h = bind(random_sae()), activations(1, 4)
    row = place(Interventions(), prompt(4), watch=[Watch(bound, 3)])
    out, _ = run_rows([row], {HOOK: h})
    assert out[HOOK] is h
