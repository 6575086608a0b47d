"""The language of --edit, --when and --watch."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saekit_client.commands.grammar import parse_edit, parse_watch, parse_when
from saekit_client.interventions import (
    Ablate,
    Add,
    ApplyFromHere,
    ApplyHere,
    Cap,
    Clip,
    Direction,
    Edit,
    FeatureRef,
    Operation,
    Project,
    Scale,
    Set,
    Stop,
)
from saekit_client.positions import GENERATED, LAST_PROMPT, PROMPT, PositionSelector, between, last


@pytest.mark.parametrize(
    ("text", "operation"),
    [
        ("res2:1234 +8max", Add(8.0, "max_activation")),
        ("res2:1234 + 8 max", Add(8.0, "max_activation")),
        ("res2:1234 -0.5norm", Add(-0.5, "unit_norm")),
        ("res2:1234+1e2", Add(100.0)),
        ("res2:1234 =0", Set(0.0)),
        ("res2:1234 =-1.5max", Set(-1.5, "max_activation")),
        ("res2:1234 *2", Scale(2.0)),
        ("res2:1234 *-1", Scale(-1.0)),
        ("res2:1234 ablate", Ablate()),
        ("res2:1234 clip 0..4", Clip(0.0, 4.0)),
        ("res2:1234 clip ..4.5", Clip(None, 4.5)),
        ("res2:1234 clip -2..", Clip(-2.0, None)),
    ],
)
def test_operations_on_a_feature(text: str, operation: Operation) -> None:
    assert parse_edit(text) == Edit(FeatureRef("res2", 1234), operation)


@pytest.mark.parametrize(
    ("text", "operation"), [("a:1 project 0", Project(0.0)), ("a:1 cap -1..1", Cap(-1.0, 1.0))]
)
def test_operations_on_the_direction_of_a_feature(text: str, operation: Operation) -> None:
    edit = parse_edit(text)
    assert isinstance(edit.target, Direction)
    assert edit.target.feature == FeatureRef("a", 1)
    assert edit.operation == operation


@pytest.mark.parametrize(
    ("word", "positions"),
    [
        ("all", PositionSelector(region="all")),
        ("prompt", PROMPT),
        ("generated", GENERATED),
        ("last", LAST_PROMPT),
        ("last:3", last(3)),
        ("2..5", between(2, 5)),
        ("-3..", between(-3, None)),
    ],
)
def test_positions(word: str, positions: PositionSelector) -> None:
    assert parse_edit(f"a:1 +2max on {word}").positions == positions


@settings(max_examples=40)
@given(
    sae=st.from_regex(r"\A[A-Za-z0-9._/-]+(@[0-9a-f]{12})?\Z"),
    feature=st.integers(0, 2**31),
    amount=st.floats(-1e6, 1e6).map(lambda x: round(x, 3)),
)
def test_any_sae_id_and_number_is_read_back(sae: str, feature: int, amount: float) -> None:
    edit = parse_edit(f"{sae}:{feature} ={amount}")
    assert edit == Edit(FeatureRef(sae, feature), Set(amount))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "res2",
        "res2:x +8",
        "res2:-1 +8",
        "res2:1",
        "res2:1 8",
        "res2:1 +8maxi",
        "res2:1 +inf",
        "res2:1 *2max",
        "res2:1 =2norm",
        "res2:1 clip",
        "res2:1 clip ..",
        "res2:1 +8 on",
        "res2:1 +8 on nowhere",
        "res2:1 +8 on last:",
        "two words:1 +8",
    ],
)
def test_what_is_no_edit_is_refused_with_the_text_seen(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_edit(text)


def test_conditions() -> None:
    stop = parse_when("res2:12 > 4 stop")
    assert (stop.trigger, stop.threshold, stop.action) == (FeatureRef("res2", 12), 4.0, Stop())
    here = parse_when("res2:12>0.5 here res2:13 *0 on generated")
    assert here.action == ApplyHere((parse_edit("res2:13 *0 on generated"),))
    onward = parse_when("res2:12 > -1 from-here a/b@0123:1 =0")
    assert onward.action == ApplyFromHere((parse_edit("a/b@0123:1 =0"),))
    for bad in ("res2:12 stop", "res2:12 > 4", "res2:12 > 4 stop now", "res2:12 > 4 here"):
        with pytest.raises(ValueError, match="expected"):
            parse_when(bad)


def test_watches() -> None:
    watch = parse_watch("res2:1,2, 30")
    assert (watch.sae, list(watch.features)) == ("res2", [1, 2, 30])
    with pytest.raises(ValueError, match="expected"):
        parse_watch("res2")
