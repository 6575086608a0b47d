"""saekit's side of `benchmarks.training`: reads a job, then trains what each line asks for.

The first line has model, hook point, contexts and threads, and is answered with ``{}``. Each that
follows is ``{"settings": ..., "folder": ...}`` and is answered with the fields of `training.Run`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.worker_io import answers, peak_bytes, reset_peak
from saekit_core.lm.boot import boot_model
from saekit_trainer import LanguageModelSAERunnerConfig, SAETrainingRunner


def main() -> None:
    answer = answers()
    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    model = boot_model(Path(job["model"]), device="cpu")
    # The runner keeps its first context for an evaluation, which cannot be switched off.
    contexts = np.load(job["contexts"])[job["held_out"] - 1 :]
    answer({})
    for line in sys.stdin:
        wanted: dict[str, Any] = json.loads(line)
        reset_peak()
        stamps: list[float] = []
        began = time.perf_counter()
        cfg = LanguageModelSAERunnerConfig(
            **wanted["settings"],
            hook_name=job["hook"],
            # Where sae-lens' decay ends.
            lr_end=0.0,
            eval_contexts=1,
            feature_stats_tokens=wanted["settings"]["context_size"],
            output_path=wanted["folder"],
        )
        runner = SAETrainingRunner(
            cfg, contexts, model, report=lambda _, s=stamps: s.append(time.perf_counter())
        )
        runner.run()
        seconds = time.perf_counter() - began
        answer(
            {
                "tokens": cfg.training_tokens,
                "seconds": seconds,
                "step_seconds": stamps[-1] - stamps[0],
                "steps": len(stamps) - 1,
                "peak": peak_bytes(),
            }
        )


if __name__ == "__main__":
    main()
