"""What two processes do together for `test_ranks`, which has torchrun start them.

Each writes what came out into a file of its own. Beside that the first half of what the test
compares with, every second case each, is done here too, by a process alone.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.models import story
from tests.trainer.loss_cases import CONFIGS, OPTIMIZATION, trainer_and_batch
from tests.trainer.small_run import SMALL
from torch import Tensor

from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_core.sae.sae import SAE
from saekit_trainer.activations_store import ActivationsStore
from saekit_trainer.cli import train
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.distributed import process_group
from saekit_trainer.distributed.joining import join_ranks
from saekit_trainer.distributed.ranks import ALONE, Ranks
from saekit_trainer.errors import DivergedError, TrainingInterrupted
from saekit_trainer.multi_config import MultiSAETrainingRunnerConfig
from saekit_trainer.results import RunObserver, RunStatus
from saekit_trainer.runner import MultiSAETrainingRunner, SAETrainingRunner
from saekit_trainer.trainer import SAETrainer, StepMetrics

STEPS = 20
ROWS = [name for name, config in CONFIGS.items() if name == config.architecture]
ROWS += ["pursuit", "matryoshka", "topk-rescaled", "standard-ghost"]
OF_NO_OTHER_KIND = (
    "standard-no-b_dec",
    "standard-mean",
    "gated-ghost",
    "topk-ghost",
    "batchtopk-all",
    "batchtopk-rescaled",
    "transcoder",
    "jumprelu_transcoder",
)
FEATURES = [
    name
    for name, config in CONFIGS.items()
    if config.architecture != "matching_pursuit" and name not in OF_NO_OTHER_KIND
]
MOVED = ["topk", "batchtopk", "jumprelu"]
# Many features die, and come back, all the time.
OFTEN_DEAD = replace(OPTIMIZATION, dead_feature_window=1, dead_feature_threshold=2.0)

RUNS = {
    # Special tokens left out: runs of the model with other numbers of rows.
    "rows": replace(SMALL, architecture="topk", k=8, exclude_special_tokens=True, dtype="float64"),
    "features": replace(
        SMALL,
        architecture="jumprelu",
        normalize_activations="layer_norm",
        prefetch_llm_batches=0,
        shard_features=True,
    ),
}
SEVERAL: dict[str, Any] = {
    "a": {"architecture": "gated", "d_sae": 48, "hook_name": "blocks.2.attn.hook_z"},
    "b": {"architecture": "batchtopk", "d_sae": 64, "k": 4.5},
    "c": {
        "architecture": "skip_transcoder",
        "d_sae": 40,
        "hook_name": "blocks.1.hook_resid_pre",
        "hook_name_out": "blocks.1.hook_mlp_out",
    },
}


def main(scratch: Path, model_folder: str, text: str) -> None:
    ranks = join_ranks("cpu")
    steps: dict[str, dict[str, Any]] = {}
    for n, name in enumerate(sorted({*ROWS, *FEATURES})):
        steps[name] = {}
        # Weights go in place for every other one, as large ones do, and side by side for the rest.
        process_group.BUCKET_NUMBERS = 100 if n % 2 else 2**18  # type: ignore[misc]
        if name in ROWS:
            steps[name]["rows"] = take_steps(name, ranks, "rows")
        if name in FEATURES:
            steps[name]["features"] = take_steps(name, ranks, "features")
        if name in MOVED:
            steps[name]["moved"] = move(name, ranks)
        if n % ranks.count == ranks.index:
            steps[name]["alone"] = take_steps(name, ALONE, "rows")
    model = boot_model(model_folder, device="cpu")
    runs = {name: run(cfg, model, text) for name, cfg in RUNS.items()}
    results = {
        "steps": steps,
        "diverged": diverge(ranks),
        "numbers": numbers_held(ranks),
        "batches": batches(model, text, ranks),
        "runs": {**runs, "several": run_several(model, text)},
        "taken_up": stop_and_go_on(model, text, scratch / "stopped"),
        "command": command(model_folder, text, scratch / "out"),
        "failed": fail(model_folder, scratch, ranks),
    }
    torch.save(results, scratch / f"{ranks.index}.pt")


def take_steps(name: str, ranks: Ranks, shared: str, steps: int = STEPS) -> dict[str, Any]:
    """Steps on other batches each, of a number of rows that does not divide."""
    trainer, x, y = _trainer(name, ranks, shared)
    state = trainer.state_dict()
    state["activity"]["silent_steps"][5:9] = 100  # of one rank's features only
    trainer.load_state_dict(state)
    return _outcome(trainer, [_step(trainer, x, y, i) for i in range(steps)])


def move(name: str, ranks: Ranks) -> dict[str, Any]:
    """The same, taken up after half of the steps by ranks that share something else."""
    half = take_steps(name, ranks, "features", STEPS // 2)
    trainer, x, y = _trainer(name, ranks, "rows")
    trainer.load_state_dict(half["state"])
    rest = [_step(trainer, x, y, i) for i in range(STEPS // 2, STEPS)]
    moved = _outcome(trainer, rest)
    return {**moved, "metrics": half["metrics"] + moved["metrics"]}


def diverge(ranks: Ranks) -> list[str]:
    """What is said of a number that only the last rank sees."""
    said = []
    for name in ("standard", "batchtopk"):
        trainer, x, _ = _trainer(name, ranks, "rows")
        before = [p.clone() for p in trainer.sae.parameters()]
        x = x.clone()
        x[-1, 0] = torch.nan
        try:
            trainer.train_step(x, STEPS)
        except DivergedError as error:
            said.append(str(error))
        same = all(map(torch.equal, trainer.sae.parameters(), before))
        said.append("as before" if same else "changed")
    return said


def numbers_held(ranks: Ranks) -> dict[str, int]:
    """How many numbers parameters, gradients and Adam hold here, by what is shared."""
    held = {}
    for shared, group in (("nothing", ALONE), ("features", ranks)):
        trainer, x, y = _trainer("standard", group, shared)
        _step(trainer, x, y, 0)
        parameters = list(trainer.sae.parameters())
        tensors: list[Tensor] = [*parameters]
        tensors += [p.grad for p in parameters if p.grad is not None]
        tensors += [t for s in trainer.optimizer.state.values() for t in s.values()]
        held[shared] = sum(t.untyped_storage().nbytes() // t.itemsize for t in tensors)
    return held


def run(cfg: LanguageModelSAERunnerConfig, model: LanguageModel, text: str) -> dict[str, Any]:
    seen: list[StepMetrics] = []
    runner = SAETrainingRunner(
        replace(cfg, dataset_path=text),
        override_model=model,
        report=lambda status: seen.append(status.metrics),
    )
    sae = runner.run()
    assert runner.result is not None
    return {
        "weights": {"": sae.weights()},
        "metrics": [m.to_dict() for m in seen],
        "evaluation": runner.result.evaluation.to_dict(),
        "density": runner.result.training_density,
        "maximum": torch.from_numpy(runner.result.features.max_activation),
    }


def batches(model: LanguageModel, text: str, ranks: Ranks) -> list[Tensor]:
    """What a store hands out, with everything in between that breaks into its reading ahead."""
    cfg = replace(
        SMALL,
        dataset_path=text,
        exclude_special_tokens=True,
        n_batches_in_buffer=1,
        store_batch_size_prompts=7,
    )
    hook = model.hook_point("blocks.1.hook_resid_pre")
    store = ActivationsStore.from_config(model, cfg, hook, ranks=ranks)
    given = [store.next_batch() for _ in range(3)]
    state = copy.deepcopy(store.state_dict())
    given.append(store.next_batch())
    store.close()
    given += [store.next_batch(), store.next_batch(), store.get_batch_tokens(3), store.next_batch()]
    store.load_state_dict(state)
    given += [store.next_batch() for _ in range(3)]
    store.close()
    return given


def run_several(model: LanguageModel, text: str) -> dict[str, Any]:
    seen: list[dict[str, float]] = []
    cfg = MultiSAETrainingRunnerConfig(
        saes=SEVERAL, dataset_path=text, **{f: getattr(SMALL, f) for f in _SIZES}
    )
    runner = MultiSAETrainingRunner(
        cfg,
        override_model=model,
        report=lambda status: seen.extend(m.to_dict() for m in status.saes.values()),
    )
    saes: dict[str, SAE] = runner.run()
    return {"weights": {name: sae.weights() for name, sae in saes.items()}, "metrics": seen}


class _Terminated(RunObserver):
    """Ends the process that it is called in, and that one alone, after three steps."""

    def step_done(self, status: RunStatus) -> None:
        if status.metrics.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def stop_and_go_on(model: LanguageModel, text: str, folder: Path) -> dict[str, Any]:
    """The run "rows", stopped by a signal to one process, and gone on with in another way."""
    cfg = replace(RUNS["rows"], dataset_path=text, checkpoint_path=str(folder))
    said = ""
    try:
        SAETrainingRunner(cfg, override_model=model, observers=[_Terminated()]).run()
    except TrainingInterrupted as interrupt:
        said = str(interrupt)
    again = replace(cfg, resume_from_checkpoint="latest", shard_features=True)
    runner = SAETrainingRunner(again, override_model=model)
    begun_at = None if runner.resume is None else runner.resume.step
    return {"said": said, "begun_at": begun_at, "weights": {"": runner.run().weights()}}


def command(model_folder: str, text: str, out: Path) -> dict[str, Any]:
    """`saekit train`: its status, and what it says here on stdout and stderr."""
    flags = {
        "model-name": model_folder,
        "dataset-path": text,
        "d-sae": 64,
        "context-size": 24,
        "train-batch-size-tokens": 128,
        "training-tokens": 640,
        "eval-contexts": 4,
        "feature-stats-tokens": 96,
        "checkpoint-path": out.parent / "checkpoints",
        "n-checkpoints": 1,
        "out": out,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    said, explained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(explained):
        status = train([*words, "--json"])
    return {"status": status, "said": said.getvalue(), "explained": explained.getvalue()}


def fail(model_folder: str, scratch: Path, ranks: Ranks) -> dict[str, Any]:
    """The command where the last rank comes upon a broken line; nothing can follow it."""
    lines = [json.dumps({"text": story(40, seed)}) for seed in range(60)]
    if ranks.index == ranks.count - 1:
        lines[40] = "{"
    file = scratch / f"{ranks.index}.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return command(model_folder, str(file), scratch / "failed")


def _trainer(name: str, ranks: Ranks, shared: str) -> tuple[SAETrainer, Tensor, Tensor]:
    trainer, x, y = trainer_and_batch(name)
    if shared == "features":
        trainer.sae.share_features(ranks)
    else:
        trainer.sae.share_rows(ranks)
    return SAETrainer(trainer.sae, OFTEN_DEAD), x[:-1], y[:-1]


def _step(trainer: SAETrainer, x: Tensor, y: Tensor, i: int) -> StepMetrics:
    return trainer.train_step(x.roll(i, 1), STEPS, y.roll(i, 1))


def _outcome(trainer: SAETrainer, metrics: list[StepMetrics]) -> dict[str, Any]:
    return {
        "state": trainer.state_dict(),
        "saved": trainer.sae.saved_state(),
        "density": trainer.density(),
        "metrics": [m.to_dict() for m in metrics],
    }


_SIZES = (
    "context_size",
    "train_batch_size_tokens",
    "store_batch_size_prompts",
    "training_tokens",
    "eval_contexts",
    "feature_stats_tokens",
)

if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
