"""Draws: reproducible, independent of the batch, and of the distribution that was asked for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saekit_core.lm.sampling import SampleRow, SamplingError, SamplingParams, sample, uniform

V = 12


def row(
    params: SamplingParams,
    position: int = 0,
    *,
    choice: int = 0,
    prompt: Sequence[int] = (),
    generated: Sequence[int] = (),
) -> SampleRow:
    return SampleRow(params, choice, position, np.array(prompt, np.int64), list(generated))


def some_logits(n: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(n, V, generator=torch.Generator().manual_seed(seed))


def distribution_reference(logits: Tensor, params: SamplingParams, item: SampleRow) -> list[float]:
    """Probabilities of every token, in plain Python from the definitions."""
    values = [float(v) for v in logits.double()]
    counts = Counter(item.generated)
    for token in set(item.prompt.tolist()) | set(item.generated):
        penalty = params.repetition_penalty
        values[token] = values[token] / penalty if values[token] > 0 else values[token] * penalty
    for token, count in counts.items():
        values[token] -= params.frequency_penalty * count + params.presence_penalty
    top = max(values)
    weights = [math.exp((value - top) / params.temperature) for value in values]
    order = sorted(range(len(values)), key=lambda token: (-weights[token], token))
    kept = order if params.top_k is None else order[: params.top_k]
    if params.top_p is not None:
        total, share, nucleus = sum(weights[token] for token in kept), 0.0, []
        for token in kept:
            nucleus.append(token)
            share += weights[token] / total
            if share >= params.top_p:
                break
        kept = nucleus
    if params.min_p is not None:
        likeliest = max(weights[token] for token in kept)
        kept = [token for token in kept if weights[token] >= params.min_p * likeliest]
    total = sum(weights[token] for token in kept)
    return [weights[token] / total if token in kept else 0.0 for token in range(len(values))]


def test_draws_are_one_philox_stream_per_seed_and_choice() -> None:
    for seed, choice in ((0, 0), (7, 3), (2**64 - 1, 1)):
        raw = np.random.Philox(key=np.array([seed, choice], np.uint64)).random_raw(600)
        expected = (raw >> np.uint64(11)).astype(np.float64) / 2.0**53
        assert [uniform(seed, choice, position) for position in range(600)] == expected.tolist()


def test_draws_are_pinned() -> None:
    """A seed keeps its texts over releases."""
    assert [uniform(1, 0, 5), uniform(1, 1, 5), uniform(2, 0, 5)] == [
        0.05206666755004319,
        0.6414544544236804,
        0.7710809325515893,
    ]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.5, seed=3),
        SamplingParams(temperature=2.0, top_k=4),
        SamplingParams(top_p=0.8),
        SamplingParams(min_p=0.1),
        SamplingParams(temperature=1.5, top_k=6, top_p=0.9, min_p=0.05),
    ],
    ids=["plain", "cold", "top_k", "top_p", "min_p", "all"],
)
def test_draws_follow_the_distribution(params: SamplingParams) -> None:
    n = 20_000
    logits = some_logits(1)
    rows = [row(params, position) for position in range(n)]
    drawn = sample(logits.expand(n, V), rows)
    counts = np.bincount([token.token for token in drawn if token is not None], minlength=V)
    expected = n * np.array(distribution_reference(logits[0], params, rows[0]))
    assert counts[expected == 0].sum() == 0
    possible = expected > 0
    chi_square = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    # The 99.9% quantile for 11 degrees of freedom is 31.3.
    assert chi_square < 31.3


def in_steps(low: int, high: int, parts: int) -> st.SearchStrategy[float]:
    return st.integers(low * parts, high * parts).map(lambda value: value / parts)


all_params = st.builds(
    SamplingParams,
    temperature=in_steps(1, 30, 10).map(lambda value: value / 10),
    top_k=st.none() | st.integers(1, V + 3),
    top_p=st.none() | in_steps(1, 20, 1).map(lambda value: value / 20),
    min_p=st.none() | in_steps(0, 1, 10),
    frequency_penalty=in_steps(-2, 2, 4),
    presence_penalty=in_steps(-2, 2, 4),
    repetition_penalty=st.sampled_from([1.0, 0.7, 1.3]),
    seed=st.integers(0, 2**64 - 1),
)
tokens = st.lists(st.integers(0, V - 1), max_size=8)


@settings(max_examples=80)
@given(st.lists(st.tuples(all_params, tokens, tokens), min_size=1, max_size=5), st.integers(0, 99))
def test_every_draw_is_the_inverse_of_the_reference_distribution(
    asked: list[tuple[SamplingParams, list[int], list[int]]], seed: int
) -> None:
    logits = some_logits(len(asked), seed)
    rows = [
        row(params, 17 + len(generated), choice=2, prompt=prompt, generated=generated)
        for params, prompt, generated in asked
    ]
    for index, (item, got) in enumerate(zip(rows, sample(logits, rows), strict=True)):
        cumulative = np.cumsum(distribution_reference(logits[index], item.params, item))
        draw = uniform(item.params.seed, item.choice, item.position)
        if np.abs(cumulative - draw).min() < 1e-5:
            continue  # float32 penalties may carry the border over the draw
        assert got is not None
        assert got.token == int(np.searchsorted(cumulative, draw, side="right"))


def test_a_draw_does_not_depend_on_its_batch() -> None:
    logits = some_logits(6)
    rows = [
        row(SamplingParams(seed=1), 5),
        row(SamplingParams(temperature=0), 5),
        row(SamplingParams(seed=1, top_p=0.5, top_logprobs=3), 5, choice=1),
        row(SamplingParams(seed=2, repetition_penalty=1.5), 9, prompt=[1, 2], generated=[3]),
        row(SamplingParams(seed=1, min_p=0.3), 5),
        row(SamplingParams(seed=1, top_k=2), 6),
    ]
    together = sample(logits, rows)
    for index, item in enumerate(rows):
        assert sample(logits[index : index + 1], [item]) == [together[index]]
    order = [3, 0, 5, 1, 4, 2]
    assert sample(logits[order], [rows[i] for i in order]) == [together[i] for i in order]


def test_temperature_zero_takes_the_likeliest_token_after_penalties() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.5, 0.0]])
    greedy = SamplingParams(temperature=0)
    penalised = SamplingParams(temperature=0, frequency_penalty=0.3)
    picks = [sample(logits, [row(params, generated=[1, 1])]) for params in (greedy, penalised)]
    assert [[token.token for token in pick if token] for pick in picks] == [[1], [2]]


def test_logprobs_are_the_models_own() -> None:
    logits = some_logits(2)
    params = SamplingParams(temperature=0.3, top_k=1, presence_penalty=1.0, top_logprobs=4)
    rows = [row(params, generated=[5]), row(SamplingParams(top_logprobs=0))]
    first, second = sample(logits, rows)
    assert first is not None
    assert second is not None
    expected = logits.log_softmax(dim=1)
    assert first.logprob == pytest.approx(float(expected[0, first.token]), abs=1e-5)
    values, ids = expected[0].sort(descending=True)
    assert [token for token, _ in first.top_logprobs] == ids[:4].tolist()
    assert [p for _, p in first.top_logprobs] == pytest.approx(values[:4].tolist(), abs=1e-5)
    assert second.top_logprobs == ()


def test_tiny_temperatures_and_huge_logits_still_draw() -> None:
    logits = torch.tensor([[3e38, -3e38, 0.0], [0.0, -math.inf, -1.0]])
    rows = [row(SamplingParams(temperature=1e-30)), row(SamplingParams(temperature=1e-30))]
    assert [token.token for token in sample(logits, rows) if token] == [0, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_give_no_token_and_spoil_no_other(
    bad: float, temperature: float
) -> None:
    logits = some_logits(3)
    logits[1, 4] = bad
    rows = [row(SamplingParams(temperature=temperature, top_p=0.9), p) for p in range(3)]
    results = sample(logits, rows)
    assert results[1] is None
    assert [results[0]] == sample(logits[:1], rows[:1])
    assert [results[2]] == sample(logits[2:], rows[2:])


BAD: list[tuple[str, Any]] = [
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("top_k", 0),
    ("top_p", 0.0),
    ("top_p", 1.1),
    ("min_p", -0.1),
    ("min_p", 1.5),
    ("frequency_penalty", math.inf),
    ("presence_penalty", math.nan),
    ("repetition_penalty", 0.0),
    ("seed", -1),
    ("seed", 2**64),
    ("top_logprobs", -1),
    ("top_logprobs", 101),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_parameter_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SamplingError) as error:
        SamplingParams(**{name: value})
    assert error.value.field == name
    assert str(value) in str(error.value)
