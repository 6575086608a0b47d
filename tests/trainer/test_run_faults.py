"""Runs that diverge, run out of disk, or meet a broken sample: what to do is said, what was there
stays good, and the run goes on from it."""

from __future__ import annotations

import json
import re
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.models import story
from tests.trainer.small_run import SMALL

from saekit_core.lm.model import LanguageModel
from saekit_core.sae.sae import SAE
from saekit_trainer.cli import train
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.errors import CheckpointError, ConfigError, DivergedError
from saekit_trainer.results import RunObserver, RunStatus
from saekit_trainer.runner import SAETrainingRunner


def config(text: str, tmp_path: Path, **values: Any) -> LanguageModelSAERunnerConfig:
    places = {"dataset_path": text, "checkpoint_path": str(tmp_path / "runs")}
    return replace(SMALL, **{**places, "resume_state_minutes": 0, "n_resume_states": 3, **values})


def states(tmp_path: Path) -> list[Path]:
    found = tmp_path.glob("runs/*/resume/*")
    return sorted(found, key=lambda place: int(place.name.removeprefix("step-")))


class Minutes:
    """A clock by which every step takes a minute, so that every other one has its state."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def step_done(self, _: RunStatus) -> None:
        self.now += 60


def run(cfg: LanguageModelSAERunnerConfig, model: LanguageModel) -> SAETrainingRunner:
    clock = Minutes()
    runner = SAETrainingRunner(cfg, override_model=model, clock=clock, report=clock.step_done)
    runner.run()
    return runner


def weights_of(sae: SAE) -> dict[str, bytes]:
    return {name: t.detach().numpy().tobytes() for name, t in sae.weights().items()}


def test_a_run_that_diverges_says_from_where_to_go_on_and_how(
    model: LanguageModel, text: str, tmp_path: Path
) -> None:
    begun = run(config(text, tmp_path, training_tokens=256 * 3), model)
    (good,) = states(tmp_path)
    wild = config(
        text,
        tmp_path / "wild",
        resume_from_checkpoint=str(good),
        resume_changes=["lr", "training_tokens"],
        lr=1e18,
        lr_warm_up_steps=0,
    )
    with pytest.raises(ConfigError, match="lr_warm_up_steps"):
        run(wild, model)
    wild = replace(wild, resume_changes=["lr", "training_tokens", "lr_warm_up_steps"])
    with pytest.raises(DivergedError) as caught:
        run(wild, model)
    assert caught.value.field == "lr"
    said = str(caught.value)
    assert re.match(r"the (loss at|weights after) step \d", said)
    newest = [good, *states(tmp_path / "wild")][-1]
    assert f'resume_from_checkpoint="{newest}", resume_changes=["lr"], lr=2.5e+17' in said
    assert str(good) in said
    for place in states(tmp_path / "wild"):  # nothing that is not finite is there to go on from
        tensors = load_file(place / "tensors.safetensors")
        assert all(t.isfinite().all() for name, t in tensors.items() if ".trainer.sae." in name)
    calm = run(replace(wild, lr=1e-3), model)
    assert calm.resume is not None
    assert calm.resume.step == 3
    assert begun.result is not None
    assert calm.result is not None
    assert calm.result.last_step.loss < begun.result.last_step.loss


def test_a_full_disk_leaves_the_last_state_and_the_run_goes_on_from_it(
    model: LanguageModel, text: str, tmp_path: Path
) -> None:
    whole = run(config(text, tmp_path / "whole", n_checkpoints=1), model)
    cfg = config(text, tmp_path)

    class Filling(RunObserver):
        def state_written(self, step: int, folder: Path) -> None:
            if step == 3:
                size = (folder / "tensors.safetensors").stat().st_size
                resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    clock = Minutes()
    runner = SAETrainingRunner(
        cfg, override_model=model, clock=clock, report=clock.step_done, observers=[Filling()]
    )
    try:
        with pytest.raises(CheckpointError) as caught:
            runner.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = str(caught.value)
    assert said.startswith("the state after step 5 is lost: cannot write ")
    assert said.endswith(f"goes on from {states(tmp_path)[-1]}")
    (run_folder,) = (tmp_path / "runs").iterdir()
    assert [place.name for place in states(tmp_path)] == ["step-1", "step-3"]
    assert len(list((run_folder / "resume").iterdir())) == 2  # nothing half written beside them
    resumed = run(replace(cfg, resume_from_checkpoint="latest"), model)
    assert whole.result is not None
    assert resumed.result is not None
    assert weights_of(resumed.result.sae) == weights_of(whole.result.sae)


def test_a_disk_without_room_for_the_sae_is_named_and_costs_no_step(
    model: LanguageModel, text: str, tmp_path: Path
) -> None:
    cfg = config(text, tmp_path, output_path=str(tmp_path / "out"), n_resume_states=1)

    class Filling(RunObserver):
        def evaluated(self, *_: object) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(CheckpointError, match=r"^the SAE is not written: .*/out") as caught:
            SAETrainingRunner(cfg, override_model=model, observers=[Filling()]).run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value).endswith("step-8")
    assert not (tmp_path / "out").exists()
    resumed = run(replace(cfg, resume_from_checkpoint="latest"), model)
    assert resumed.resume is not None
    assert resumed.resume.step == 8
    assert SAE.load_from_disk(tmp_path / "out").cfg.d_sae == 96


@pytest.mark.filterwarnings("ignore:left out")
def test_a_broken_sample_costs_no_step(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"text": story(40, seed)}) for seed in range(80)]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join([*lines[:60], "{broken", *lines[60:]]))
    flags = {
        "model-name": folder,
        "device": "cpu",
        "dataset-path": data,
        "checkpoint-path": tmp_path / "runs",
        "architecture": "topk",
        "d-sae": 64,
        "context-size": 24,
        "train-batch-size-tokens": 128,
        "store-batch-size-prompts": 8,
        "n-batches-in-buffer": 2,
        "training-tokens": 128 * 60,
        "eval-contexts": 4,
        "feature-stats-tokens": 96,
    }
    argv = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    assert train(argv) == 1
    said = capsys.readouterr().err
    assert "data.jsonl, line 61: not JSON" in said
    assert 'on_broken_sample="skip" leaves such samples out' in said
    (state,) = states(tmp_path)
    assert state.name != "step-60"
    assert str(state) in said
    skip = ["--on-broken-sample", "skip"]
    assert train([*argv, "--resume", *skip, "--json"]) == 0
    resumed = capsys.readouterr()
    assert f"going on from {state}, after step {state.name.removeprefix('step-')} of 60" in (
        resumed.err
    )
    summary = json.loads(resumed.out)
    assert summary["steps"] == 60
    assert summary["skipped_samples"] >= 1
    argv[argv.index(str(tmp_path / "runs"))] = str(tmp_path / "whole")
    assert train([*argv, *skip, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == summary["loss"]
