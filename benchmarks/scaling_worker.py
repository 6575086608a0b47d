"""One of the processes whose pace `benchmarks.scaling` measures; torchrun starts it."""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saekit_trainer.architectures import new_training_sae
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.distributed.joining import join_ranks
from saekit_trainer.distributed.ranks import Ranks
from saekit_trainer.plan import optimization_config, sae_config
from saekit_trainer.runner import SAETrainingRunner
from saekit_trainer.trainer import SAETrainer


def main() -> None:
    """Writes one JSON object to stdout: what was asked for, measured."""
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    ranks = join_ranks(asked["device"])
    found = {
        name: (run if shared == "run" else steps)(ranks, asked, shared=shared, rows=rows)
        for name, (shared, rows) in asked["cases"].items()
    }
    if ranks.is_main:
        sys.stdout.write(json.dumps(found) + "\n")


def steps(ranks: Ranks, asked: dict[str, Any], *, shared: str, rows: int) -> dict[str, Any]:
    """Steps alone: tokens per second, turn after turn, and the bytes that this process holds."""
    cfg = LanguageModelSAERunnerConfig(
        architecture=asked["architecture"],
        d_sae=asked["d_sae"],
        train_batch_size_tokens=rows,
        training_tokens=rows * 1000,
        autocast=asked["device"] != "cpu",
    )
    config = sae_config(cfg, asked["d_in"])
    sae = new_training_sae(config, generator=torch.Generator().manual_seed(0))
    if shared == "features":
        sae.share_features(ranks)
    else:
        sae.share_rows(ranks)
    device = ranks.device_for(asked["device"])
    trainer = SAETrainer(sae.to(device), optimization_config(cfg, config))
    x = torch.randn(rows, asked["d_in"], generator=torch.Generator().manual_seed(1)).to(device)
    for _ in range(3):
        trainer.train_step(x, 1000)
    rates = []
    for _ in range(asked["runs"]):
        ranks.total(0)  # all begin together
        began = time.perf_counter()
        for _ in range(asked["steps"]):
            trainer.train_step(x, 1000)
        _finish(device)
        ranks.total(0)
        rates.append(asked["steps"] * rows / (time.perf_counter() - began))
    return {"rates": rates, "bytes": _held(trainer), "peak": _peak(device)}


def run(ranks: Ranks, asked: dict[str, Any], *, shared: str, rows: int) -> dict[str, Any]:
    """Whole runs on the embedded model: the same."""
    del shared
    done: list[float] = []
    turns = asked["runs"] + 1  # the first fills the buffer
    cfg = LanguageModelSAERunnerConfig(
        architecture=asked["architecture"],
        d_sae=2048,
        train_batch_size_tokens=rows,
        training_tokens=rows * asked["steps"] * turns,
        device=asked["device"],
        feature_stats_tokens=128,
    )
    ids = np.random.default_rng(0).integers(300, 2000, (512, cfg.context_size))
    runner = SAETrainingRunner(cfg, ids, report=lambda _: done.append(time.perf_counter()))
    runner.run()
    every = done[asked["steps"] - 1 :: asked["steps"]]
    rates = [asked["steps"] * rows / (b - a) for a, b in itertools.pairwise(every)]
    return {"rates": rates, "bytes": 0, "peak": _peak(ranks.device_for(asked["device"]))}


def _held(trainer: SAETrainer) -> int:
    """Bytes of parameters, gradients and moments."""
    parameters = list(trainer.sae.parameters())
    tensors: list[Tensor] = [*parameters, *(p.grad for p in parameters if p.grad is not None)]
    tensors += [t for state in trainer.optimizer.state.values() for t in state.values()]
    return sum(t.untyped_storage().nbytes() for t in tensors)


def _peak(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
