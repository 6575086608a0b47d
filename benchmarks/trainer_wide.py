"""T2: training steps of 24,576 features on the GPT-2-shaped model, against SAELens and the floor.

The floor of a step is the model's forward to the hook and the bare matrix products, into memory
that is there already: no loss, no optimizer, no data.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Final

import numpy as np
import torch

from benchmarks.floor import input_of
from benchmarks.harness import Bar, Options, Outcome, Report, ratio
from benchmarks.setting import D_SAE, Setting, gpt2_shaped
from benchmarks.training import (
    ARCHITECTURES,
    BATCH,
    CONTEXT,
    SAE_LENS,
    SAEKIT,
    Run,
    both_sides,
    contexts_file,
    peaks,
    settings,
    take_turns,
)

LAYER: Final = 8
HOOK: Final = f"blocks.{LAYER - 1}.hook_resid_post"
STEPS: Final = 8
PROMPTS: Final = BATCH // CONTEXT
FLOOR: Final = "floor"
PRODUCTS: Final = {"standard": (2, 1, 2), "gated": (3, 2, 2), "jumprelu": (2, 1, 2)}
"""Products of a step, forward and backward: to [rows, d_sae], to [rows, d_in], and to gradients of
weights. Topk kinds, whose products but one are sums of a few rows, have no floor here."""
FASTER: Final = {"topk": 1.5, "batchtopk": 1.5}
"""Times SAELens' speed, where it is not 1.2."""


def measure(options: Options) -> Iterator[Report]:
    """For each architecture: steps per second, the whole run's memory."""
    setting = gpt2_shaped()
    for architecture in ARCHITECTURES:
        wanted = settings(
            architecture,
            d_in=setting.model.d_model,
            d_sae=D_SAE,
            tokens=STEPS * BATCH,
            prompts=PROMPTS,
            buffer=2,
            seed=1,
        )
        floors: list[float] = []
        with both_sides(setting, HOOK, options) as workers:
            runs: dict[str, list[float]] = {}
            memory: dict[str, list[Run]] = {}
            for turn in range(options.runs + 1):
                found = take_turns(workers, wanted, runs=1, warm_up=0)
                if architecture in PRODUCTS:
                    floors.append(_floor(setting, PRODUCTS[architecture]))
                if turn:
                    for name, (run,) in found.items():
                        runs.setdefault(name, []).append(run.step_rate)
                        memory.setdefault(name, []).append(run)
        outcomes = {name: Outcome.of(rates) for name, rates in runs.items()}
        if floors:
            outcomes[FLOOR] = Outcome.of(floors[1:])
        peak = peaks(memory)
        yield Report(
            row=f"T2-{architecture}",
            question=f"steps of training {architecture}, {D_SAE:,} features of a GPT-2",
            unit="tokens/s",
            outcomes=outcomes,
            bars=tuple(_bars(architecture, outcomes, peak)),
            notes=tuple(
                f"peak memory of {n}: {o.median / 2**20:,.0f} MiB" for n, o in peak.items()
            ),
        )


def _bars(
    architecture: str, outcomes: dict[str, Outcome], peak: dict[str, Outcome]
) -> Iterator[Bar]:
    if SAE_LENS in outcomes:
        least = FASTER.get(architecture, 1.2)
        yield Bar("saekit ÷ SAELens", ratio(outcomes, SAEKIT, SAE_LENS), least=least)
        if peak:
            share = ratio(peak, SAEKIT, SAE_LENS)
            yield Bar("peak memory, saekit ÷ SAELens", share, most=1.0)
    if FLOOR in outcomes:
        yield Bar("saekit ÷ floor", ratio(outcomes, SAEKIT, FLOOR), least=0.85)


def _floor(setting: Setting, products: tuple[int, int, int], steps: int = 3) -> float:
    """Tokens per second of the forward and these products per batch."""
    hf = setting.model.hf
    block = hf.get_submodule(f"transformer.h.{LAYER}")
    ids = torch.from_numpy(np.load(contexts_file())[:PROMPTS])
    W, features = torch.randn(hf.config.n_embd, D_SAE), torch.randn(BATCH, D_SAE)
    y, gradient = torch.empty(BATCH, len(W)), torch.empty_like(W)
    seconds = 0.0
    for step in range(steps + 1):
        began = time.perf_counter()
        x = input_of(block, partial(hf, input_ids=ids, use_cache=False)).flatten(0, 1)
        for _ in range(products[0]):
            torch.mm(x, W, out=features)
        for _ in range(products[1]):
            torch.mm(features, W.T, out=y)
        for _ in range(products[2]):
            torch.mm(x.T, features, out=gradient)
        seconds += time.perf_counter() - began if step else 0.0
    return steps * BATCH / seconds
