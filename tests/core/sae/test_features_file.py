"""The features file holds what was recorded, exactly, and refuses what it cannot mean."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saekit_core.sae import (
    FeaturesFile,
    SAEFormatError,
    Snippet,
    read_features_file,
    write_features_file,
)
from saekit_core.sae.layout import FEATURES_FILE

finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def snippets(draw: st.DrawFn) -> Snippet:
    tokens = draw(st.lists(text, min_size=1, max_size=4))
    activations = draw(st.lists(finite, min_size=len(tokens), max_size=len(tokens)))
    return Snippet(tuple(tokens), tuple(activations), draw(st.integers(0, len(tokens) - 1)))


@given(
    labels=st.dictionaries(st.integers(0, 9), text, max_size=3),
    examples=st.dictionaries(
        st.integers(0, 9), st.lists(snippets(), max_size=2).map(tuple), max_size=3
    ),
    l0=st.none() | finite,
    tokens=st.none() | st.integers(0, 10**12),
    arrays=st.booleans(),
)
def test_round_trip_is_exact(
    tmp_path_factory: pytest.TempPathFactory,
    labels: dict[int, str],
    examples: dict[int, tuple[Snippet, ...]],
    **rest: Any,
) -> None:
    arrays = rest.pop("arrays")
    random = np.random.default_rng(0).random(10, dtype=np.float32)
    features = FeaturesFile(
        density=random if arrays else None,
        max_activation=random * 9 if arrays else None,
        labels=labels,
        examples=examples,
        explained_variance=0.75,
        **rest,
    )
    folder = tmp_path_factory.mktemp("features")
    write_features_file(folder, features)
    read = read_features_file(folder)
    assert read is not None
    assert read.labels == labels
    assert read.examples == examples
    assert (read.l0, read.tokens) == (features.l0, features.tokens)
    assert read.explained_variance == 0.75
    if arrays:
        assert read.density is not None
        assert read.max_activation is not None
        assert np.array_equal(read.density, random)
        assert np.array_equal(read.max_activation, random * 9)
    else:
        assert read.density is None
    read.check(10)


def test_a_folder_without_one_has_none(tmp_path: Path) -> None:
    assert read_features_file(tmp_path) is None


SNIPPET = {"tokens": ["a", "b"], "activations": [0.0, 1.0], "peak": 1}


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ([], "expected an object"),
        ({"version": 3}, "version"),
        ({"densities": []}, "densities"),
        ({"l0": "many"}, "l0"),
        ({"l0": True}, "l0"),
        ({"tokens": -1}, "tokens"),
        ({"tokens": 1.5}, "tokens"),
        ({"labels": ["dog"]}, "labels"),
        ({"labels": {"-1": "dog"}}, r"labels\.-1"),
        ({"labels": {"dog": "17"}}, r"labels\.dog"),
        ({"labels": {"17": 3}}, r"labels\.17"),
        ({"examples": {"17": SNIPPET}}, r"examples\.17"),
        ({"examples": {"17": [{"tokens": []}]}}, r"examples\.17\[0\]"),
        ({"examples": {"17": [{**SNIPPET, "tokens": ["a"]}]}}, r"examples\.17\[0\]"),
        ({"examples": {"17": [{**SNIPPET, "tokens": "ab"}]}}, r"examples\.17\[0\]"),
        ({"examples": {"17": [{**SNIPPET, "tokens": [1, 2]}]}}, r"examples\.17\[0\]\.tokens"),
        ({"examples": {"17": [{**SNIPPET, "peak": 2}]}}, r"examples\.17\[0\]\.peak"),
        ({"examples": {"17": [{**SNIPPET, "activations": [None, "x"]}]}}, "activations"),
    ],
)
def test_a_broken_value_is_refused_by_name(tmp_path: Path, values: Any, key: str) -> None:
    content = {"version": 1, **values} if isinstance(values, dict) else values
    (tmp_path / FEATURES_FILE).write_text(json.dumps(content))
    with pytest.raises(SAEFormatError, match=key):
        read_features_file(tmp_path)


def test_numbers_that_are_not_finite_are_neither_read_nor_written(tmp_path: Path) -> None:
    (tmp_path / FEATURES_FILE).write_text('{"version": 1, "l0": NaN}')
    with pytest.raises(SAEFormatError, match="l0: expected a finite number"):
        read_features_file(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        write_features_file(tmp_path, FeaturesFile(l0=float("inf")))
    write_features_file(tmp_path, FeaturesFile(density=np.array([np.nan], np.float32)))
    with pytest.raises(SAEFormatError, match="density"):
        read_features_file(tmp_path)


@pytest.mark.parametrize(
    "features",
    [
        FeaturesFile(density=np.zeros(9, np.float32)),
        FeaturesFile(max_activation=np.zeros((10, 1), np.float32)),
        FeaturesFile(labels={10: "beyond"}),
        FeaturesFile(examples={11: ()}),
    ],
)
def test_a_record_of_another_sae_is_refused(features: FeaturesFile) -> None:
    with pytest.raises(SAEFormatError):
        features.check(10)
