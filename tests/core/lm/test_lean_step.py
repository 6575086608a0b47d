"""Steps of a few tokens per row, run by operations of our own, do what the model's modules do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from tests.core.lm.test_generation import (
    GREEDY,
    RULES,
    different_interventions,
    prompts,
    saes,
)
from tests.models import build_of
from torch import Tensor, nn
from transformers import LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from saekit_core.lm import lean_step
from saekit_core.lm.boot import boot_model
from saekit_core.lm.generation import Generation, StepOutput
from saekit_core.lm.hook_points import HookPoint, Tap
from saekit_core.lm.interventions import BoundSAE, Interventions, Watch
from saekit_core.lm.kv_slots import KVSlots
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.stepper import Stepper

__all__ = ["saes"]

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
PLACES = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")
HELD = [6, 1, 9, 4]
"""Positions that the rows hold before their step."""


@contextmanager
def through_modules(model: LanguageModel) -> Iterator[None]:
    """Somebody else's hook, which only the modules know of, makes them run."""
    handle = model.hf.get_output_embeddings().register_forward_hook(lambda *_: None)
    try:
        yield
    finally:
        handle.remove()


def runs_modules(run: Callable[[], object]) -> bool:
    """Whether any code of transformers' models runs."""
    files = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            files.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return any("transformers/models/" in name for name in files)


def filled(model: LanguageModel, slot_ids: Sequence[int], length: int = 16) -> KVSlots:
    """Slots that hold the first positions of ragged rows."""
    slots = model.new_slots(8, length)
    for slot, held in zip(slot_ids, HELD, strict=True):
        tokens = (torch.arange(held)[None] * 7 + slot * 13) % model.d_vocab
        model.forward_slots(
            slots,
            tokens,
            slot_ids=torch.tensor([slot]),
            start=torch.tensor([0]),
            n_new=torch.tensor([held]),
            taps={},
        )
    return slots


def step(
    model: LanguageModel,
    slots: KVSlots,
    slot_ids: Sequence[int],
    taps: dict[HookPoint, Tap] | None = None,
    logits_at: Sequence[int] = (0, 1, 2, 3),
) -> Tensor:
    logits = model.forward_slots(
        slots,
        torch.tensor([[5], [17], [40], [2]]),
        slot_ids=torch.tensor(slot_ids),
        start=torch.tensor(HELD),
        n_new=torch.ones(4, dtype=torch.long),
        taps=taps or {},
        logits_at=torch.tensor(logits_at),
    )
    assert logits is not None
    return logits


def both_ways(
    model: LanguageModel,
    slot_ids: Sequence[int] = (0, 1, 2, 3),
    make_taps: Callable[[], dict[HookPoint, Tap]] = dict,
    logits_at: Sequence[int] = (0, 1, 2, 3),
) -> tuple[Tensor, Tensor]:
    """Logits of one step by operations of our own, and by the modules."""
    slots = filled(model, slot_ids)
    found: list[Tensor] = []
    assert not runs_modules(
        lambda: found.append(step(model, slots, slot_ids, make_taps(), logits_at))
    )
    with through_modules(model):
        assert runs_modules(
            lambda: found.append(step(model, slots, slot_ids, make_taps(), logits_at))
        )
    return found[0], found[1]


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("slot_ids", [(0, 1, 2, 3), (6, 1, 3, 0)], ids=["in a row", "scattered"])
def test_a_step_gives_the_logits_of_the_modules(
    model: LanguageModel, slot_ids: tuple[int, ...]
) -> None:
    assert_close(*both_ways(model, slot_ids))
    assert_close(*both_ways(model, slot_ids, logits_at=(2, 0)))


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, hidden_act="gelu"),
        MistralConfig(**SIZES, head_dim=12, sliding_window=None),
        Qwen2Config(**SIZES),
        Qwen3Config(**SIZES, head_dim=16),
    ],
    ids=lambda config: config.model_type,
)
def test_relatives_of_llama_are_run_too(config: PreTrainedConfig, tmp_path: Path) -> None:
    model = boot_model(build_of(tmp_path / "model", config), device="cpu")
    assert_close(*both_ways(model))
    assert_close(*several_both_ways(model))
    assert_close(*several_both_ways(model, starts=[0] * 4))


NEW = [3, 5, 1, 4]
"""Tokens of the rows in a step of several."""


def several(
    model: LanguageModel,
    slots: KVSlots,
    slot_ids: Sequence[int],
    starts: Sequence[int],
    taps: dict[HookPoint, Tap] | None = None,
) -> Tensor:
    """Logits of the last token of each row."""
    width = max(NEW)
    logits = model.forward_slots(
        slots,
        (torch.arange(4 * width).view(4, width) * 11 + 3) % 50,
        slot_ids=torch.tensor(slot_ids),
        start=torch.tensor(starts),
        n_new=torch.tensor(NEW),
        taps=taps or {},
        logits_at=torch.tensor([row * width + n - 1 for row, n in enumerate(NEW)]),
    )
    assert logits is not None
    return logits


def several_both_ways(
    model: LanguageModel,
    slot_ids: Sequence[int] = (0, 1, 2, 3),
    starts: Sequence[int] = HELD,
    taps: dict[HookPoint, Tap] | None = None,
) -> tuple[Tensor, Tensor]:
    slots = filled(model, slot_ids)
    found: list[Tensor] = []
    assert not runs_modules(lambda: found.append(several(model, slots, slot_ids, starts, taps)))
    # What it wrote into the slots counts as well.
    found.append(more := step_after(model, slots, slot_ids, starts))
    assert more.isfinite().all()
    slots = filled(model, slot_ids)
    with through_modules(model):
        found.append(several(model, slots, slot_ids, starts, taps))
        found.append(step_after(model, slots, slot_ids, starts))
    return torch.cat(found[:2]), torch.cat(found[2:])


def step_after(
    model: LanguageModel, slots: KVSlots, slot_ids: Sequence[int], starts: Sequence[int]
) -> Tensor:
    logits = model.forward_slots(
        slots,
        torch.tensor([[5], [17], [40], [2]]),
        slot_ids=torch.tensor(slot_ids),
        start=torch.tensor(starts) + torch.tensor(NEW),
        n_new=torch.ones(4, dtype=torch.long),
        taps={},
        logits_at=torch.arange(4),
    )
    assert logits is not None
    return logits


@pytest.mark.parametrize("slot_ids", [(0, 1, 2, 3), (6, 1, 3, 0)], ids=["in a row", "scattered"])
@pytest.mark.parametrize("starts", [[0] * 4, HELD, [0, 1, 0, 4]], ids=["new", "later", "mixed"])
def test_prompts_give_the_logits_of_the_modules(
    model: LanguageModel, slot_ids: tuple[int, ...], starts: list[int]
) -> None:
    assert_close(*several_both_ways(model, slot_ids, starts))


@pytest.mark.parametrize("starts", [[0] * 4, HELD], ids=["new", "later"])
@pytest.mark.parametrize("place", PLACES)
def test_taps_read_and_replace_what_they_would_in_prompts(
    model: LanguageModel, place: str, starts: list[int]
) -> None:
    point = model.hook_point(f"blocks.1.{place}")
    last = model.hook_point("blocks.2.hook_resid_post")
    seen: list[Tensor] = []
    real = torch.arange(max(NEW)) < torch.tensor(NEW)[:, None]

    def edit(h: Tensor) -> Tensor:
        assert h.shape == (4, max(NEW), model.d_model)
        seen.append(h[real])
        return h * 1.5 + torch.arange(4)[:, None, None] + torch.arange(max(NEW))[:, None]

    plain, _ = several_both_ways(model, starts=starts)
    taps: dict[HookPoint, Tap] = {point: edit, last: lambda h: seen.append(h[real])}
    lean, modules = several_both_ways(model, starts=starts, taps=taps)
    assert_close(lean, modules)
    assert (lean - plain).abs().max() > 0.1
    before, after, before_modules, after_modules = seen
    assert_close(before, before_modules)
    assert_close(after, after_modules)


def test_long_prompts_go_through_the_modules(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = filled(model, range(4))
    monkeypatch.setattr(lean_step, "MOST_TOKENS", 4 * max(NEW))
    assert not runs_modules(lambda: several(model, slots, range(4), HELD))
    monkeypatch.setattr(lean_step, "MOST_TOKENS", 4 * max(NEW) - 1)
    assert runs_modules(lambda: several(model, slots, range(4), HELD))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_half_precision_stays_near_the_modules(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"{kind}_dir")
    model = boot_model(folder, device="cpu", dtype="bfloat16")
    for lean, modules in (both_ways(model), several_both_ways(model)):
        assert (lean - modules).norm() <= 0.05 * modules.norm()


@pytest.mark.parametrize("place", PLACES)
def test_taps_read_and_replace_what_they_would_in_the_modules(
    model: LanguageModel, place: str
) -> None:
    point, last = (
        model.hook_point(f"blocks.1.{place}"),
        model.hook_point("blocks.2.hook_resid_post"),
    )
    seen: list[Tensor] = []

    def make_taps() -> dict[HookPoint, Tap]:
        def edit(h: Tensor) -> Tensor:
            seen.append(h.clone())
            return h * 1.5 + torch.arange(4)[:, None, None]

        return {point: edit, last: lambda h: seen.append(h.clone())}

    plain, _ = both_ways(model)
    lean, modules = both_ways(model, make_taps=make_taps)
    assert_close(lean, modules)
    assert (lean - plain).abs().max() > 0.1
    before, after, before_modules, after_modules = seen
    assert before.shape == (4, 1, model.d_model)
    assert_close(before, before_modules)
    assert_close(after, after_modules)


def test_a_tap_elsewhere_is_served_by_the_modules(model: LanguageModel) -> None:
    slots, seen = filled(model, range(4)), []
    taps: dict[HookPoint, Tap] = {model.hook_point("blocks.1.attn.hook_z"): seen.append}
    assert runs_modules(lambda: step(model, slots, range(4), taps))
    assert len(seen) == 1


def streamed(
    model: LanguageModel,
    edits: Sequence[Interventions],
    watch: Sequence[Watch],
) -> list[list[StepOutput]]:
    """Every stream's outputs, all in one batch."""
    streams = [
        Generation(model.tokenizer, prompt, RULES, GREEDY, own, watch=watch, slot=slot)
        for slot, (prompt, own) in enumerate(zip(prompts(model, len(edits)), edits, strict=True))
    ]
    stepper = Stepper(model, model.new_slots(len(streams), 96))
    outputs = [stepper.prefill([(stream, stream.n_pending) for stream in streams])]
    while running := [stream for stream in streams if stream.finish is None]:
        outputs.append(stepper.decode(running))
    return [
        [output for turn in outputs for output in turn if output.generation is stream]
        for stream in streams
    ]


def test_every_kind_of_edit_watch_and_condition_does_the_same(
    model: LanguageModel,
    saes: list[BoundSAE],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lean_step, "MOST_TOKENS", 10_000)  # prompts too
    edits = different_interventions(model, saes)
    watch = (Watch(saes[0], 3), Watch(saes[2], 5))
    found: list[list[list[StepOutput]]] = []
    streamed(model, edits[:1], watch)  # asks the rotary module for its angles
    assert not runs_modules(lambda: found.append(streamed(model, edits, watch)))
    with through_modules(model):
        found.append(streamed(model, edits, watch))
    for lean, modules in zip(*found, strict=True):
        assert [o.text for o in lean] == [o.text for o in modules]
        for ours, theirs in zip(lean, modules, strict=True):
            torch.testing.assert_close(
                torch.from_numpy(ours.watched),
                torch.from_numpy(theirs.watched),
                rtol=1e-3,
                atol=1e-3,
            )
            if ours.token is not None and theirs.token is not None:
                assert ours.token.sampled.logprob == pytest.approx(
                    theirs.token.sampled.logprob, abs=1e-3
                )


def test_new_weights_take_effect(model: LanguageModel) -> None:
    before, _ = both_ways(model)
    changed = [m for name, m in model.hf.named_modules() if name.endswith("mlp")][1]
    down: Any = next(m for name, m in changed.named_children() if name in ("down_proj", "c_proj"))
    old = down.weight
    try:
        down.weight = nn.Parameter(old * 2, requires_grad=False)
        lean, modules = both_ways(model)
    finally:
        down.weight = old
    assert_close(lean, modules)
    assert (lean - before).abs().max() > 0.1


def test_a_hook_that_others_set_is_run(model: LanguageModel) -> None:
    slots = filled(model, range(4))
    before = step(model, slots, range(4))
    block = next(m for name, m in model.hf.named_modules() if name.endswith("mlp"))
    handle = block.register_forward_hook(lambda _, __, output: output * 3)
    try:
        hooked = step(model, slots, range(4))
    finally:
        handle.remove()
    assert (hooked - before).abs().max() > 0.1
    assert torch.equal(step(model, slots, range(4)), before)


def test_a_step_that_failed_can_be_repeated(model: LanguageModel) -> None:
    slots = filled(model, range(4))
    expected = step(model, slots, range(4))
    slots = filled(model, range(4))

    def fail(_: Tensor) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        step(model, slots, range(4), {model.hook_point("blocks.1.hook_resid_pre"): fail})
    assert torch.equal(step(model, slots, range(4)), expected)


def test_other_architectures_keep_to_their_modules(gemma2: LanguageModel) -> None:
    slots = filled(gemma2, range(4))
    assert runs_modules(lambda: step(gemma2, slots, range(4)))


def test_positions_that_depend_on_the_length_keep_to_the_modules(tmp_path: Path) -> None:
    config = LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    )
    model = boot_model(build_of(tmp_path / "model", config), device="cpu")
    slots = filled(model, range(4))
    assert runs_modules(lambda: step(model, slots, range(4)))


def test_a_window_within_reach_keeps_to_the_modules(tmp_path: Path) -> None:
    config = MistralConfig(**SIZES, sliding_window=10)
    model = boot_model(build_of(tmp_path / "model", config), device="cpu")
    within, beyond = filled(model, range(4), length=10), filled(model, range(4), length=16)
    assert not runs_modules(lambda: step(model, within, range(4)))
    assert runs_modules(lambda: step(model, beyond, range(4)))


def test_a_model_that_differs_from_its_kind_is_found_out(llama_dir: Path) -> None:
    class Louder(nn.Embedding):
        def forward(self, tokens: Tensor) -> Tensor:
            return 1.5 * super().forward(tokens)

    model = boot_model(llama_dir, device="cpu")
    model.hf.get_input_embeddings().__class__ = Louder
    slots = filled(model, range(4))
    assert runs_modules(lambda: step(model, slots, range(4)))
