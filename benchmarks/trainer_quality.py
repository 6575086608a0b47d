"""T3: SAEs trained here and by SAELens on the same tokens, and how good they are.

Both sides have the same contexts, batch, steps, learning rate and its course, coefficients, k and
bandwidth; the folders are loaded and evaluated by the same code on contexts that nobody saw. Ours
are trained twice: from the values that SAELens begins with, where the outcome has to be the same or
better, and from our own, where it must not be worse.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks.harness import Bar, Options, Outcome, Report
from benchmarks.setting import Setting, embedded
from benchmarks.trainer import D_SAE, HOOK
from benchmarks.training import (
    ARCHITECTURES,
    BATCH,
    HELD_OUT,
    SAE_LENS,
    SAEKIT,
    both_sides,
    contexts_file,
    settings,
)
from saekit_core.sae import SAE
from saekit_trainer.evaluation import ReconstructionFigures, evaluate_reconstruction

TOKENS: Final = 400 * BATCH
SEEDS: Final = (1, 2, 3)
WORSE: Final = 0.01
"""How far explained variance may be below theirs."""
APART: Final = 0.05
"""How far L0 may be from theirs, as a share of it."""
SAME_START: Final = "saekit from their start"
THEIR_START: Final = {"decoder_init_norm": 0.1, "b_dec_init_method": "zeros"}
"""What sae-lens 6 does unless told otherwise, and can be told only in part."""


def measure(options: Options) -> Iterator[Report]:
    """For each architecture, over three seeds; without a peer, our figures alone."""
    setting = embedded()
    held_out = torch.from_numpy(np.load(contexts_file())[:HELD_OUT])
    with both_sides(setting, HOOK, options) as workers, tempfile.TemporaryDirectory() as scratch:
        for architecture in ARCHITECTURES:
            figures: dict[str, list[ReconstructionFigures]] = {}
            for seed in SEEDS:
                wanted = settings(
                    architecture,
                    d_in=setting.model.d_model,
                    d_sae=D_SAE,
                    tokens=TOKENS,
                    prompts=32,
                    buffer=8,
                    seed=seed,
                )
                same = {**wanted, "sae": {**wanted["sae"], **THEIR_START}}
                asked = {SAME_START: (workers[SAEKIT], same)}
                asked |= {name: (worker, wanted) for name, worker in workers.items()}
                for name, (worker, of_run) in asked.items():
                    folder = Path(scratch) / f"{architecture}-{seed}" / name
                    worker.train(of_run, folder)
                    found = _evaluate(setting, folder, held_out)
                    figures.setdefault(name, []).append(found)
            yield _report(architecture, figures)


def _evaluate(setting: Setting, folder: Path, held_out: torch.Tensor) -> ReconstructionFigures:
    sae = SAE.load_from_disk(folder)
    return evaluate_reconstruction(setting.model, sae, held_out)


def _report(architecture: str, figures: dict[str, list[ReconstructionFigures]]) -> Report:
    return Report(
        row=f"T3-{architecture}",
        question=f"{architecture} after {TOKENS // 1000}k tokens, {len(SEEDS)} seeds",
        unit="explained variance",
        outcomes={n: Outcome.of([f.explained_variance for f in fs]) for n, fs in figures.items()},
        bars=_bars(figures) if SAE_LENS in figures else (),
        notes=tuple(
            f"{name}: L0 {', '.join(f'{f.l0:.1f}' for f in found)}; features that fire on none of "
            f"{found[0].tokens:,} tokens: {', '.join(str(f.dead_features) for f in found)}"
            for name, found in figures.items()
        ),
        extra={name: [f.to_dict() for f in found] for name, found in figures.items()},
    )


def _bars(figures: dict[str, list[ReconstructionFigures]]) -> tuple[Bar, ...]:
    """From the same start within both margins, or better in both; from ours no worse than that."""
    more, times = _against(figures[SAE_LENS], figures[SAME_START])
    if more >= 0 and times <= 1:
        same = (
            Bar(f"explained variance, {SAME_START} − SAELens", more, least=0.0),
            Bar(f"L0, {SAME_START} ÷ SAELens", times, most=1.0),
        )
    else:
        same = (
            Bar(f"explained variance, {SAME_START} − SAELens", more, least=-WORSE),
            Bar(f"L0, {SAME_START} ÷ SAELens, away from 1", abs(times - 1), most=APART),
        )
    more, times = _against(figures[SAE_LENS], figures[SAEKIT])
    return (
        *same,
        Bar("explained variance, saekit − SAELens", more, least=-WORSE),
        Bar("L0, saekit ÷ SAELens", times, most=1 + APART),
    )


def _against(
    theirs: Sequence[ReconstructionFigures], ours: Sequence[ReconstructionFigures]
) -> tuple[float, float]:
    """Seed by seed, medians: by how much more variance is explained, and L0 over theirs."""
    pairs = list(zip(ours, theirs, strict=True))
    return (
        statistics.median(a.explained_variance - b.explained_variance for a, b in pairs),
        statistics.median(a.l0 / b.l0 for a, b in pairs),
    )
