"""T1: whole training runs on the embedded model, against SAELens: speed and memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from benchmarks.harness import Bar, Options, Outcome, Report, ratio
from benchmarks.setting import embedded
from benchmarks.training import (
    ARCHITECTURES,
    BATCH,
    SAE_LENS,
    SAEKIT,
    both_sides,
    peaks,
    settings,
    take_turns,
)

HOOK: Final = "blocks.1.hook_out"
D_SAE: Final = 2048
TOKENS: Final = 100 * BATCH


def measure(options: Options) -> Iterator[Report]:
    """For each architecture; without a peer there is nothing to hold it against."""
    setting = embedded()
    for architecture in ARCHITECTURES:
        wanted = settings(
            architecture,
            d_in=setting.model.d_model,
            d_sae=D_SAE,
            tokens=TOKENS,
            prompts=32,
            buffer=8,
            seed=1,
        )
        with both_sides(setting, HOOK, options) as workers:
            runs = take_turns(workers, wanted, runs=options.runs)
        outcomes = {name: Outcome.of([run.rate for run in found]) for name, found in runs.items()}
        memory = peaks(runs)
        bars = []
        if SAE_LENS in outcomes:
            bars.append(Bar("saekit ÷ SAELens", ratio(outcomes, SAEKIT, SAE_LENS), least=1.5))
            if memory:
                share = ratio(memory, SAEKIT, SAE_LENS)
                bars.append(Bar("peak memory, saekit ÷ SAELens", share, most=1.0))
        yield Report(
            row=f"T1-{architecture}",
            question=f"training {architecture}, {D_SAE:,} features, {TOKENS // 1000}k tokens",
            unit="tokens/s",
            outcomes=outcomes,
            bars=tuple(bars),
            notes=tuple(
                f"peak memory of {n}: {o.median / 2**20:,.0f} MiB" for n, o in memory.items()
            ),
        )
