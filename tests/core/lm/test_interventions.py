"""What interventions refuse, and by which name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.core.lm.edit_support import (
    D_SAE,
    EARLY,
    HEADS,
    HOOK,
    LATE,
    D,
    bind,
    of_head,
    prompt,
    random_sae,
)

from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.intervention_rows import place
from saekit_core.lm.interventions import (
    AffineClip,
    ApplyFromHere,
    ApplyHere,
    BoundSAE,
    Condition,
    DirectionEdit,
    FeatureEdit,
    InterventionError,
    InterventionPreconditionError,
    Interventions,
    Splice,
    Stop,
    Watch,
    in_maximum_activations,
)
from saekit_core.lm.positions import PositionSelector, Region
from saekit_core.sae.features_file import FeaturesFile

SAE_HERE = bind(random_sae())
OTHER_HERE = bind(random_sae(seed=1))
ADD = AffineClip.add(1.0)


def zero_row() -> BoundSAE:
    sae = random_sae(seed=2)
    with torch.no_grad():
        sae.W_dec[3] = 0
    return bind(sae)


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "NaN shift": (lambda: AffineClip.add(math.nan), "shift"),
    "infinite shift": (lambda: AffineClip.set_to(math.inf), "shift"),
    "infinite factor": (lambda: AffineClip.multiply(-math.inf), "scale"),
    "beyond float32": (lambda: AffineClip.add(1e39), "shift"),
    "NaN bound": (lambda: AffineClip.clip(0, math.nan), "hi"),
    "crossed bounds": (lambda: AffineClip.clip(2, 1), "lo"),
    "nothing within": (lambda: AffineClip.clip(math.inf, math.inf), "lo"),
    "feature too high": (lambda: FeatureEdit(SAE_HERE, D_SAE, ADD), "feature"),
    "negative feature": (lambda: FeatureEdit(SAE_HERE, -1, ADD), "feature"),
    "watch of no feature": (lambda: Watch(SAE_HERE, D_SAE), "feature"),
    "norm unit of a SET": (
        lambda: FeatureEdit(SAE_HERE, 1, AffineClip.set_to(1), unit_norm=True),
        "unit",
    ),
    "norm unit without a direction": (
        lambda: FeatureEdit(zero_row(), 3, ADD, unit_norm=True),
        "unit",
    ),
    "short vector": (lambda: DirectionEdit(HOOK, torch.ones(D - 1), ADD), "vector"),
    "matrix": (lambda: DirectionEdit(HOOK, torch.ones(1, D), ADD), "vector"),
    "zero vector": (lambda: DirectionEdit(HOOK, torch.zeros(D), ADD), "vector"),
    "NaN in vector": (lambda: DirectionEdit(HOOK, torch.full((D,), math.nan), ADD), "vector"),
    "move beyond float32": (
        lambda: DirectionEdit(HOOK, torch.full((D,), 1e20), AffineClip.add(1e19)),
        "vector",
    ),
    "infinite threshold": (lambda: Condition(SAE_HERE, 1, math.inf, Stop()), "threshold"),
    "trigger of no feature": (lambda: Condition(SAE_HERE, 99, 0.0, Stop()), "feature"),
    "action without edits": (lambda: Condition(SAE_HERE, 1, 0.0, ApplyHere(())), "action.edits"),
    "edit before its trigger": (
        lambda: Condition(
            SAE_HERE,
            1,
            0.0,
            ApplyFromHere(
                (
                    DirectionEdit(LATE, torch.ones(D), ADD),
                    DirectionEdit(EARLY, torch.ones(D), ADD),
                )
            ),
        ),
        "action.edits[1]",
    ),
    "SAE that reads another width": (lambda: bind(random_sae(d_in=8)), "sae"),
    "SAE of a head that is not there": (
        lambda: bind(of_head(random_sae(d_in=4), 7), HookPoint("z", "z", 3, (4, 4))),
        "sae",
    ),
    "SAE that writes before it reads": (lambda: bind(random_sae(), HOOK, EARLY), "sae"),
    "two SAEs without error term": (
        lambda: Interventions((Splice(SAE_HERE, False), Splice(OTHER_HERE, False))),
        "splices[1].use_error_term",
    ),
    "one SAE spliced twice": (
        lambda: Interventions((Splice(SAE_HERE, False), Splice(SAE_HERE))),
        "splices[1]",
    ),
    "norm of nothing preserved": (lambda: Interventions(preserve_norm=True), "preserve_norm"),
}


@pytest.mark.parametrize(("make", "field"), BAD.values(), ids=BAD)
def test_bad_intervention_is_refused_by_field(make: Callable[[], object], field: str) -> None:
    with pytest.raises(InterventionError) as error:
        make()
    assert error.value.field == field


def test_bad_positions_are_named_by_their_path() -> None:
    beyond = PositionSelector(ranges=((0, 99),))
    on_edit = Interventions(
        edits=(FeatureEdit(SAE_HERE, 1, ADD), FeatureEdit(SAE_HERE, 1, ADD, positions=beyond))
    )
    with pytest.raises(InterventionError) as error:
        place(on_edit, prompt(5))
    assert error.value.field == "edits[1].positions.ranges[0]"
    action = ApplyHere((FeatureEdit(SAE_HERE, 1, ADD, positions=beyond),))
    on_action = Interventions(conditions=(Condition(SAE_HERE, 1, 0.0, action),))
    with pytest.raises(InterventionError) as error:
        place(on_action, prompt(5))
    assert error.value.field == "conditions[0].action.edits[0].positions.ranges[0]"


def test_stop_is_refused_where_nothing_is_generated() -> None:
    stop = Interventions(conditions=(Condition(SAE_HERE, 1, 0.0, Stop()),))
    with pytest.raises(InterventionError) as error:
        place(stop, prompt(5))
    assert error.value.field == "conditions[0].action"
    assert place(stop, prompt(5), n_generated=3).selections[0].covers(5)


def test_an_error_can_be_told_from_one_level_up() -> None:
    with pytest.raises(InterventionError) as error:
        FeatureEdit(SAE_HERE, D_SAE, ADD)
    told = error.value.within("steer.edits[2]")
    assert told.field == "steer.edits[2].feature"
    assert str(told) == str(error.value)


def test_two_saes_may_share_a_hook_point_when_one_keeps_its_error_term() -> None:
    Interventions((Splice(SAE_HERE, False), Splice(OTHER_HERE)))
    Interventions((Splice(SAE_HERE, False), Splice(bind(random_sae(seed=1), LATE), False)))


def test_a_trigger_may_be_read_where_its_edit_is() -> None:
    Condition(SAE_HERE, 1, 0.0, ApplyHere((DirectionEdit(HOOK, torch.ones(D), ADD),)))


def test_splices_with_error_term_alone_are_nothing_to_do() -> None:
    interventions = Interventions((Splice(SAE_HERE, positions=PositionSelector(Region.PROMPT)),))
    assert interventions.empty
    assert place(interventions, prompt(3)).idle
    assert not Interventions((Splice(SAE_HERE, False),)).empty


def test_maximum_activation_unit_multiplies_the_recorded_maximum() -> None:
    recorded = FeaturesFile(max_activation=np.array([0.0, 4.0, np.nan], np.float32))
    assert in_maximum_activations(1.5, recorded, 1, "a/b") == 6.0
    for features, feature in ((None, 1), (FeaturesFile(), 1), (recorded, 0), (recorded, 2)):
        with pytest.raises(InterventionPreconditionError) as error:
            in_maximum_activations(1.5, features, feature, "a/b")
        assert error.value.field == "unit"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_centred_sae_reads_without_the_mean_and_leaves_what_it_reads_alone(
    dtype: torch.dtype,
) -> None:
    bound = replace(bind(random_sae()), reads_centred=True)
    h = (torch.randn(7, D, generator=torch.Generator().manual_seed(3)) + 40).to(dtype)
    before, rows = h.clone(), torch.tensor([5, 2])
    expected = (h.double() - h.double().mean(-1, keepdim=True)).float()
    for x, of in ((bound.x_of(h), expected), (bound.x_of(h, rows), expected[rows])):
        assert x.dtype == torch.float32  # the mean of bfloat16 activations is not rounded to it
        torch.testing.assert_close(x, of, atol=1e-5, rtol=0)
    assert torch.equal(h, before)


def test_an_sae_of_one_head_reads_its_columns_or_what_is_those_already() -> None:
    bound = bind(of_head(random_sae(d_in=D // 4), 2), HEADS)
    h = torch.arange(3.0 * D).view(3, D)
    own = h[:, 2 * D // 4 : 3 * D // 4]
    for given in (h, own):
        assert torch.equal(bound.x_of(given), own)
        assert torch.equal(bound.x_of(given, torch.tensor([1])), own[1:2])
