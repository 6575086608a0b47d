"""Generation on real models: ragged rows with different edits, conditions, and how streams end."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tests.core.lm.edit_support import D_SAE, bind, random_sae
from tests.models import story

from saekit_core.lm.errors import LMError
from saekit_core.lm.generate import Generated, generate, run_to_end
from saekit_core.lm.generation import FinishReason, Generation, StopRules
from saekit_core.lm.intervention_rows import place
from saekit_core.lm.interventions import (
    NO_INTERVENTIONS,
    AffineClip,
    ApplyFromHere,
    ApplyHere,
    BoundSAE,
    Condition,
    DirectionEdit,
    Edit,
    FeatureEdit,
    Interventions,
    Splice,
    Stop,
    Watch,
)
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.positions import PositionSelector, Region
from saekit_core.lm.sampling import SamplingParams
from saekit_core.lm.splicing import BatchedInterventions
from saekit_core.lm.stepper import Stepper
from saekit_core.lm.tokenizer import Tokenized

GREEDY = SamplingParams(temperature=0)
RULES = StopRules(max_new_tokens=12, ignore_eos=True)
HOOKS = ("blocks.0.hook_mlp_out", "blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre")


@pytest.fixture
def saes(model: LanguageModel) -> list[BoundSAE]:
    """Three SAEs of different kinds at three hook points, early to late."""
    kinds = (("standard", "layer_norm"), ("jumprelu", "none"), ("topk", "constant_norm_rescale"))
    return [
        bind(
            random_sae(architecture, normalization, seed=seed, d_in=model.d_model),
            model.hook_point(hook),
        )
        for seed, ((architecture, normalization), hook) in enumerate(zip(kinds, HOOKS, strict=True))
    ]


def prompts(model: LanguageModel, n: int) -> list[Tokenized]:
    return [model.tokenizer.encode_text(story(2 + 5 * i % 13, seed=i)) for i in range(n)]


def different_interventions(model: LanguageModel, saes: Sequence[BoundSAE]) -> list[Interventions]:
    """Sixteen, of every kind; the first of them is none."""
    ops = [
        AffineClip.add(3.0),
        AffineClip.set_to(4.0),
        AffineClip.ablate(),
        AffineClip.multiply(3.0),
        AffineClip.clip(0.5, 2.0),
    ]
    hook = model.hook_point("blocks.1.hook_resid_mid")
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(3))
    found = [NO_INTERVENTIONS]
    for index in range(15):
        sae = saes[index % 3]
        edits: list[Edit] = [
            FeatureEdit(sae, (5 * index + number) % D_SAE, ops[(index + number) % 5])
            for number in range(1 + index % 3)
        ]
        edits.append(FeatureEdit(saes[1], 3, AffineClip.add(2.0), unit_norm=True))
        if index % 3 == 1:
            edits.append(DirectionEdit(hook, vector, ops[index % 2 * 3]))
        if index % 4 == 2:
            edits[0] = FeatureEdit(sae, 4, ops[1], positions=PositionSelector(Region.GENERATED))
        splices = (Splice(saes[2], use_error_term=False),) if index % 5 == 3 else ()
        later = DirectionEdit(hook, vector, AffineClip.add(1.5))
        action = ApplyFromHere((later,)) if index % 2 else ApplyHere((later,))
        conditions = (Condition(saes[0], index, 0.4, action),) if index % 4 != 1 else ()
        found.append(Interventions(splices, tuple(edits), conditions, preserve_norm=index % 6 == 4))
    return found


def recomputed(
    model: LanguageModel, prompt: Tokenized, interventions: Interventions, n: int
) -> list[int]:
    """Greedy ids where every step runs the whole text anew, without slots."""
    ids, n_prompt = prompt.ids.tolist(), len(prompt.ids)
    for _ in range(n):
        row = place(interventions, prompt, n_generated=n)
        batch = BatchedInterventions([row], model.device)
        special = model.tokenizer.is_special(np.array([ids]))
        taps = batch.taps([0], [len(ids)], len(ids), special)
        logits = model.forward(
            torch.tensor([ids]), taps=taps, logits_at=torch.tensor([len(ids) - 1])
        )
        assert logits is not None
        ids.append(int(logits.argmax()))
    return ids[n_prompt:]


def test_sixteen_different_edits_in_one_batch_equal_each_alone(
    model: LanguageModel, saes: list[BoundSAE]
) -> None:
    texts, edits = prompts(model, 16), different_interventions(model, saes)
    together = generate(model, texts, RULES, GREEDY, edits)
    assert len({tuple(result.ids) for result in together}) > 8
    for prompt, own, result in zip(texts, edits, together, strict=True):
        assert result.ids == generate(model, [prompt], RULES, GREEDY, own)[0].ids
        assert result.ids[:6] == recomputed(model, prompt, own, 6)


def test_generation_without_edits_is_the_models_own(model: LanguageModel) -> None:
    for prompt, result in zip(
        prompts(model, 4), generate(model, prompts(model, 4), RULES, GREEDY), strict=True
    ):
        ids = torch.from_numpy(prompt.ids)[None]
        expected = model.hf.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=12,
            max_new_tokens=12,
            suppress_tokens=[],
            eos_token_id=-1,
            pad_token_id=0,
        )[0, len(prompt.ids) :]
        assert result.ids == expected.tolist()
        assert result.text == model.tokenizer.decode(result.ids)


@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(seed=4)], ids=["greedy", "sampled"])
def test_empty_edits_give_exactly_the_unsteered_text(
    model: LanguageModel, saes: list[BoundSAE], sampling: SamplingParams
) -> None:
    texts = prompts(model, 3)
    plain = generate(model, texts, RULES, sampling)
    nothing = [
        Interventions(),
        Interventions(splices=(Splice(saes[0]), Splice(saes[2]))),
        Interventions(edits=(FeatureEdit(saes[1], 3, AffineClip.multiply(1.0)),)),
    ]
    edited = generate(model, texts, RULES, sampling, nothing)
    assert [result.tokens for result in edited] == [result.tokens for result in plain]
    assert [result.text for result in edited] == [result.text for result in plain]


def test_the_sampled_text_does_not_depend_on_what_else_runs(
    model: LanguageModel, saes: list[BoundSAE]
) -> None:
    texts, edits = prompts(model, 6), different_interventions(model, saes)[:6]
    sampling = SamplingParams(seed=11, top_p=0.95)
    together = generate(model, texts, RULES, sampling, edits)
    in_two_slots = generate(model, texts, RULES, sampling, edits, n_slots=2)
    alone = [generate(model, [t], RULES, sampling, e)[0] for t, e in zip(texts, edits, strict=True)]
    ids = [result.ids for result in together]
    assert ids == [result.ids for result in in_two_slots]
    assert ids == [result.ids for result in alone]


def test_choices_differ_and_a_baseline_twin_is_the_unsteered_stream(
    model: LanguageModel, saes: list[BoundSAE]
) -> None:
    prompt, sampling = prompts(model, 1)[0], SamplingParams(seed=3)
    steered = Interventions(edits=(FeatureEdit(saes[1], 3, AffineClip.add(9.0), unit_norm=True),))
    streams = [
        Generation(model.tokenizer, prompt, RULES, sampling, steered, choice=choice)
        for choice in range(3)
    ]
    streams += [stream.baseline() for stream in streams]
    results = run_to_end(Stepper(model, model.new_slots(6, 64)), streams, 6)
    assert len({tuple(result.ids) for result in results}) == 6
    assert results[3].ids == generate(model, [prompt], RULES, sampling)[0].ids


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_a_prompt_in_chunks_equals_the_prompt_at_once(
    model: LanguageModel, saes: list[BoundSAE], chunk: int
) -> None:
    texts, edits = prompts(model, 8), different_interventions(model, saes)[:8]
    whole = generate(model, texts, RULES, GREEDY, edits, watch=[Watch(saes[1], 3)])
    stepper = Stepper(model, model.new_slots(8, 64))
    streams = [
        Generation(model.tokenizer, t, RULES, GREEDY, e, watch=[Watch(saes[1], 3)], slot=slot)
        for slot, (t, e) in enumerate(zip(texts, edits, strict=True))
    ]
    watched: list[list[np.ndarray]] = [[] for _ in streams]
    while running := [stream for stream in streams if stream.finish is None]:
        outputs = stepper.prefill([(s, min(chunk, s.n_pending)) for s in running])
        for output in outputs:
            slot = output.generation.slot
            assert slot is not None
            watched[slot].append(output.watched)
    assert [stream.generated for stream in streams] == [result.ids for result in whole]
    for got, expected in zip(watched, whole, strict=True):
        np.testing.assert_allclose(np.concatenate(got), expected.watched, rtol=1e-4, atol=1e-5)


def test_every_token_is_watched_the_last_one_too(
    model: LanguageModel, saes: list[BoundSAE]
) -> None:
    prompt = prompts(model, 1)[0]
    steered = Interventions(edits=(FeatureEdit(saes[0], 2, AffineClip.set_to(3.0)),))
    watch = [Watch(saes[0], 2), *(Watch(saes[2], feature) for feature in range(D_SAE))]
    result = generate(model, [prompt], RULES, GREEDY, steered, watch=watch)[0]
    assert result.watched.shape == (len(prompt.ids) + 12, 1 + D_SAE)
    seen = {}

    def reader(h: torch.Tensor) -> None:
        seen["x"] = h

    ids = torch.tensor([prompt.ids.tolist() + result.ids])
    model.forward(ids, taps={saes[0].hook: reader})
    with torch.no_grad():
        acts = saes[0].sae.encode_with_state(seen["x"][0])[0][:, 2]
    np.testing.assert_allclose(result.watched[:, 0], acts.numpy(), rtol=1e-4, atol=1e-5)
    assert ((result.watched[:, 1:] > 0).sum(axis=1) > 0).all()


def fires_first(result: Generated, n_prompt: int) -> tuple[int, float]:
    """The first generated position that tops all before it, and a threshold that only it passes."""
    series = result.watched[:, 0]
    for position in range(n_prompt + 2, len(series) - 1):
        highest = series[n_prompt:position].max()
        if series[position] > highest + 0.1:
            return position, float(series[position] + highest) / 2
    raise AssertionError("the feature never rises")


def rising_feature(
    model: LanguageModel, prompt: Tokenized, sae: BoundSAE
) -> tuple[int, int, float, Generated]:
    for feature in range(D_SAE):
        result = generate(model, [prompt], RULES, GREEDY, watch=[Watch(sae, feature)])[0]
        try:
            position, threshold = fires_first(result, len(prompt.ids))
        except AssertionError:
            continue
        return feature, position, threshold, result
    raise AssertionError("no feature rises")


def test_stop_condition_ends_the_stream_at_the_token_where_it_fired(
    model: LanguageModel, saes: list[BoundSAE]
) -> None:
    texts = prompts(model, 3)
    feature, position, threshold, free = rising_feature(model, texts[1], saes[1])
    stop = Interventions(conditions=(Condition(saes[1], feature, threshold, Stop()),))
    results = generate(model, texts, RULES, GREEDY, [NO_INTERVENTIONS, stop, NO_INTERVENTIONS])
    stopped, n_prompt = results[1], len(texts[1].ids)
    assert stopped.finish.reason is FinishReason.CONDITION
    event = stopped.finish.event
    assert event is not None
    assert (event.position, event.condition) == (position, 0)
    assert event.activation == pytest.approx(float(free.watched[position, 0]), rel=1e-4)
    # The token at that position is the last one of the stream.
    assert stopped.ids == free.ids[: position - n_prompt + 1]
    assert stopped.tokens[-1].position == position
    assert [results[i].finish.reason for i in (0, 2)] == [FinishReason.LENGTH] * 2


def test_stop_looks_at_the_prompt_only_when_told_to(
    model: LanguageModel, saes: list[BoundSAE]
) -> None:
    prompt = prompts(model, 1)[0]
    watched = generate(model, [prompt], RULES, GREEDY, watch=[Watch(saes[0], 3)])[0].watched[:, 0]
    n_prompt = len(prompt.ids)
    last = next(p for p in range(n_prompt - 1, 0, -1) if watched[p] > 0)
    threshold = float(watched[n_prompt:].max())
    by_default = Condition(saes[0], 3, threshold, Stop())
    in_prompt = Condition(
        saes[0], 3, float(watched[last]) / 2, Stop(), PositionSelector(ranges=((last, last + 1),))
    )
    free, stopped = generate(
        model,
        [prompt, prompt],
        RULES,
        GREEDY,
        [Interventions(conditions=(c,)) for c in (by_default, in_prompt)],
    )
    assert free.finish.reason is FinishReason.LENGTH
    assert stopped.finish.reason is FinishReason.CONDITION
    assert stopped.finish.event is not None
    assert stopped.finish.event.position == last
    assert stopped.ids == []
    assert stopped.text == ""


def test_apply_from_here_steers_the_rest_of_the_stream(
    model: LanguageModel, saes: list[BoundSAE]
) -> None:
    prompt = prompts(model, 2)[1]
    feature, position, threshold, free = rising_feature(model, prompt, saes[1])
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    push = DirectionEdit(saes[1].hook, vector, AffineClip.add(3.0))
    generated = PositionSelector(Region.GENERATED)
    conditional = Condition(saes[1], feature, threshold, ApplyFromHere((push,)), generated)
    from_there = DirectionEdit(
        push.hook, push.vector, push.op, PositionSelector(ranges=((position, None),))
    )
    by_condition, by_range = generate(
        model,
        [prompt, prompt],
        RULES,
        GREEDY,
        [Interventions(conditions=(conditional,)), Interventions(edits=(from_there,))],
    )
    until = position - len(prompt.ids) + 1
    assert by_condition.ids[:until] == free.ids[:until]
    assert by_condition.ids != free.ids
    assert by_condition.ids == by_range.ids


def test_edits_may_leave_out_special_tokens_that_were_generated(model: LanguageModel) -> None:
    prompt, eos = prompts(model, 1)[0], model.tokenizer.eos_ids[0]
    n_prompt = len(prompt.ids)
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    unembed = model.hf.get_output_embeddings().weight[eos].detach()
    # At the second generated position, so that the third token is a special one.
    force = DirectionEdit(
        model.hook_point(last),
        unembed,
        AffineClip.add(1e3),
        PositionSelector(ranges=((n_prompt + 1, n_prompt + 2),)),
    )
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))

    def push(positions: PositionSelector) -> Interventions:
        hook = model.hook_point("blocks.1.hook_resid_pre")
        return Interventions(
            edits=(force, DirectionEdit(hook, vector, AffineClip.add(3), positions))
        )

    everywhere = push(PositionSelector(Region.GENERATED))
    no_special = push(PositionSelector(Region.GENERATED, include_special=False))
    without, steered = generate(model, [prompt] * 2, RULES, GREEDY, [no_special, everywhere])
    assert without.ids[2] == eos
    assert without.ids != steered.ids
    special = model.tokenizer.is_special(np.array(without.ids))
    others = tuple((int(p), int(p) + 1) for p in n_prompt + np.flatnonzero(~special))
    by_range = generate(model, [prompt], RULES, GREEDY, push(PositionSelector(ranges=others)))[0]
    assert by_range.ids == without.ids


def test_text_ends_before_the_stop_string(model: LanguageModel) -> None:
    prompt = prompts(model, 1)[0]
    free = generate(model, [prompt], RULES, GREEDY)[0]
    pieces = [model.tokenizer.decode([token]) for token in free.ids]
    # Over a border between tokens: the end of one and the beginning of the next.
    stop = next(
        one[-1:] + two[:1]
        for one, two in itertools.pairwise(pieces[2:])
        if len(one) > 1 and one.isascii() and two.isascii() and two
    )
    rules = StopRules(12, stop_strings=("no such text", stop), ignore_eos=True)
    stopped = generate(model, [prompt], rules, GREEDY)[0]
    assert stopped.finish.reason is FinishReason.STOP_STRING
    assert stopped.finish.stop_string == stop
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.ids == free.ids[: len(stopped.ids)]


def test_the_models_end_of_text_ends_the_stream(model: LanguageModel) -> None:
    prompt = prompts(model, 1)[0]
    free = generate(model, [prompt], RULES, GREEDY)[0]
    eos = model.tokenizer.eos_ids
    model.tokenizer.eos_ids = (free.ids[4],)
    try:
        ended = generate(model, [prompt], StopRules(12), GREEDY)[0]
        ignored = generate(model, [prompt], RULES, GREEDY)[0]
    finally:
        model.tokenizer.eos_ids = eos
    first = free.ids.index(free.ids[4])
    assert ended.finish.reason is FinishReason.EOS
    assert ended.ids == free.ids[: first + 1]
    assert ended.text == model.tokenizer.decode(free.ids[:first])
    assert ignored.ids == free.ids


def test_edits_out_of_scale_end_their_own_stream_alone(model: LanguageModel) -> None:
    texts = prompts(model, 2)
    large = DirectionEdit(
        model.hook_point(HOOKS[2]), torch.ones(model.d_model), AffineClip.add(5e37)
    )
    huge = Interventions(edits=(large,) * 8)
    broken, fine = generate(model, texts, RULES, GREEDY, [huge, NO_INTERVENTIONS])
    assert broken.finish.reason is FinishReason.NON_FINITE
    assert broken.ids == []
    assert fine.ids == generate(model, texts[1:], RULES, GREEDY)[0].ids


def test_a_cancelled_stream_leaves_the_others_as_they_were(model: LanguageModel) -> None:
    texts = prompts(model, 3)
    stepper = Stepper(model, model.new_slots(3, 64))
    streams = [
        Generation(model.tokenizer, text, RULES, GREEDY, slot=(1, 2, 0)[index])
        for index, text in enumerate(texts)
    ]
    stepper.prefill([(stream, stream.n_pending) for stream in streams])
    assert [output.generation for output in stepper.decode(streams)] == streams
    streams[1].cancel()
    with pytest.raises(ValueError, match="ended"):
        stepper.decode(streams)
    left = [streams[2], streams[0]]
    while left[0].finish is None:
        stepper.decode(left)
    expected = generate(model, texts, RULES, GREEDY)
    assert [stream.generated for stream in left] == [expected[2].ids, expected[0].ids]
    assert streams[1].finish is not None
    assert streams[1].finish.reason is FinishReason.CANCELLED


def test_deltas_make_up_the_text_and_come_with_their_tokens(model: LanguageModel) -> None:
    prompt = prompts(model, 1)[0]
    stream = Generation(
        model.tokenizer, prompt, RULES, SamplingParams(seed=5, top_logprobs=2), slot=0
    )
    stepper = Stepper(model, model.new_slots(1, 64))
    outputs = stepper.prefill([(stream, stream.n_pending)])
    while stream.finish is None:
        outputs += stepper.decode([stream])
    assert "".join(o.text for o in outputs) == model.tokenizer.decode(stream.generated)
    assert [o.token.position for o in outputs if o.token] == list(
        range(len(prompt.ids), len(prompt.ids) + 12)
    )
    for output in outputs:
        assert output.token is not None
        assert len(output.token.sampled.top_logprobs) == 2
        assert output.token.sampled.logprob <= output.token.sampled.top_logprobs[0][1] + 1e-6


def test_steps_that_cannot_be_are_refused(model: LanguageModel) -> None:
    prompt = prompts(model, 1)[0]
    stepper = Stepper(model, model.new_slots(1, len(prompt.ids) + 11))
    with pytest.raises(LMError) as error:
        stepper.prefill([(Generation(model.tokenizer, prompt, RULES, slot=0), 1)])
    assert error.value.field == "max_new_tokens"
    short = Generation(model.tokenizer, prompt, StopRules(2))
    with pytest.raises(LMError) as error:
        stepper.prefill([(short, 1)])
    assert error.value.field == "slot"
    short.slot = 0
    with pytest.raises(ValueError, match="left"):
        stepper.prefill([(short, 99)])
    with pytest.raises(ValueError, match="prefill"):
        stepper.decode([short])
    for rules, field in (((0,), "max_new_tokens"), ((1, ("a", "")), "stop_strings[1]")):
        with pytest.raises(LMError) as error:
            StopRules(*rules)
        assert error.value.field == field
