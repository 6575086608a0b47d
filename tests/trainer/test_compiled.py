"""torch.compile around the SAE's step and the model's blocks: the same numbers, compiled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from saekit_core.lm.model import LanguageModel
from saekit_trainer import LanguageModelSAERunnerConfig, SAETrainingRunner
from saekit_trainer.compiled_blocks import compiled_blocks

SMALL = LanguageModelSAERunnerConfig(
    architecture="standard",
    hook_layer=1,
    d_sae=48,
    context_size=24,
    train_batch_size_tokens=192,
    store_batch_size_prompts=8,
    training_tokens=192 * 4,
    eval_contexts=8,
    feature_stats_tokens=24 * 8,
    # transformers asks, anywhere, whether torch is compiling anything: a model that runs ahead
    # beside the compiler takes another path now and then.
    prefetch_llm_batches=False,
)


@pytest.fixture
def compiled_frames() -> Iterator[Any]:
    torch._dynamo.reset()
    counters.clear()
    yield counters["frames"]
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_compiling_changes_nothing_but_the_speed(
    model: LanguageModel, compiled_frames: Any
) -> None:
    tokens = np.random.default_rng(0).integers(10, 300, (200, 24))
    saes = [
        SAETrainingRunner(replace(SMALL, compile=on), tokens, model).run() for on in (False, True)
    ]
    assert compiled_frames["ok"] == 2  # the SAE's forward, and that of the one block before it
    torch.testing.assert_close(saes[0].W_dec, saes[1].W_dec, rtol=1e-3, atol=1e-4)
    # What was compiled for the run is as it was.
    assert not any("forward" in vars(module) for module in model.hf.modules())


@pytest.mark.parametrize(
    ("hooks", "compiled"),
    [
        (["blocks.2.hook_resid_pre"], [0, 1]),
        (["blocks.1.hook_resid_post"], [0, 1]),
        (["blocks.2.attn.hook_z"], [0, 1]),
        (["blocks.1.hook_mlp_out", "blocks.2.hook_resid_post"], [0, 2]),
        (["hook_embed"], []),
    ],
)
def test_blocks_with_a_hook_point_inside_are_left_alone(
    hooks: list[str], compiled: list[int], model: LanguageModel
) -> None:
    points = [model.hook_point(name) for name in hooks]
    layers = model.hf.get_decoder().layers
    with compiled_blocks(model, points, "default"):
        assert [i for i, layer in enumerate(layers) if "forward" in vars(layer)] == compiled
    assert not any("forward" in vars(layer) for layer in layers)


@pytest.mark.parametrize("flag", ["compile", "compile_sae", "compile_llm"])
def test_each_part_can_be_compiled_alone(flag: str, model: LanguageModel, text: str) -> None:
    runner = SAETrainingRunner(replace(SMALL, dataset_path=text, **{flag: True}), None, model)
    mode = runner.plan.optimization.compilation_mode
    assert mode == (None if flag == "compile_llm" else "default")
    with runner._run._compiled():
        compiled = any("forward" in vars(module) for module in model.hf.modules())
    assert compiled == (flag != "compile_sae")
