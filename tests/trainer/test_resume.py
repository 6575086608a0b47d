"""A run that is told to stop goes on to the very same SAE, and only the same run does."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.faults.scenarios import SCENARIOS, build_model, flags, outcome
from tests.trainer.small_run import SMALL

from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_trainer.cli import train
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    TrainingInterrupted,
)
from saekit_trainer.options import parse_options
from saekit_trainer.results import RunObserver, RunStatus
from saekit_trainer.resume_states import ResumeStates
from saekit_trainer.runner import MultiSAETrainingRunner, SAETrainingRunner

STEPS = 30


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resumed")
    build_model(folder)
    return folder


@pytest.fixture(scope="module")
def own_model(place: Path) -> LanguageModel:
    return boot_model(place / "model", device="cpu")


def stop_at(*steps: int, by: int = signal.SIGTERM) -> Callable[[RunStatus], None]:
    """A reporter that sends the signal after these steps, as many times as they are given."""

    def report(status: RunStatus) -> None:
        for _ in range(steps.count(status.metrics.step)):
            os.kill(os.getpid(), by)

    return report


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_stopped_run_ends_like_an_unbroken_one(
    scenario: str, place: Path, own_model: LanguageModel
) -> None:
    folder = place / scenario
    folder.mkdir()
    SCENARIOS[scenario].write(folder, STEPS, eval_every_n_steps=10, wandb_log_frequency=4)

    def run(name: str, report: Callable[[RunStatus], None] | None = None) -> Any:
        options = parse_options([*flags(folder, name), "--resume"])
        several = hasattr(options.run, "saes")
        kind: Any = MultiSAETrainingRunner if several else SAETrainingRunner
        runner = kind(options.run, override_model=own_model, report=report)
        runner.run()
        return runner

    whole = run("whole")
    assert whole.resume is None
    for step in (1, 10, 25):  # a checkpoint and an evaluation are due after step 10
        torch.manual_seed(step)  # which no step depends on
        with pytest.raises(TrainingInterrupted, match=f"SIGTERM after step {step}; .*step-{step}$"):
            run("stopped", stop_at(step))
    resumed = run("stopped")
    assert resumed.resume.step == 25
    assert outcome(folder, "stopped") == outcome(folder, "whole")


def small(text: str, tmp_path: Path, **values: Any) -> LanguageModelSAERunnerConfig:
    """Eight steps with a state after each, or as many as are kept."""
    return replace(
        SMALL,
        **{
            "dataset_path": text,
            "checkpoint_path": str(tmp_path / "runs"),
            "resume_state_minutes": 0,
            "n_resume_states": 99,
            **values,
        },
    )


def run_of(
    cfg: LanguageModelSAERunnerConfig, model: LanguageModel, **how: Any
) -> SAETrainingRunner:
    """A run to its end."""
    runner = SAETrainingRunner(cfg, override_model=model, **how)
    runner.run()
    return runner


def stopped(
    cfg: LanguageModelSAERunnerConfig, model: LanguageModel, *steps: int, by: int = signal.SIGINT
) -> TrainingInterrupted:
    with pytest.raises(TrainingInterrupted) as caught:
        run_of(cfg, model, report=stop_at(*steps, by=by))
    return caught.value


def states(tmp_path: Path) -> list[str]:
    return sorted(place.name for place in tmp_path.glob("runs/*/resume/*"))


def test_the_first_signal_ends_the_step_and_the_second_ends_it_at_once(
    model: LanguageModel, text: str, tmp_path: Path
) -> None:
    cfg = small(text, tmp_path, resume_state_minutes=9)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    gentle = stopped(cfg, model, 3)
    assert (gentle.signal, gentle.exit_code) == (signal.SIGINT, 130)
    assert str(gentle).startswith("stopped by SIGINT after step 3; the same run with resume_from_")
    assert states(tmp_path) == ["step-3"]
    latest = replace(cfg, resume_from_checkpoint="latest")
    rude = stopped(latest, model, 5, 5)
    assert str(rude).endswith("step-3")  # step 5 was not waited for
    assert states(tmp_path) == ["step-3"]
    assert stopped(latest, model, 6, 6, by=signal.SIGTERM).exit_code == 143
    assert states(tmp_path) == ["step-3", "step-6"]  # asked twice, but not to hurry
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_while_features_are_described_loses_no_step(
    model: LanguageModel, text: str, tmp_path: Path
) -> None:
    class AtTheEnd(RunObserver):
        def evaluated(self, *_: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    cfg = small(text, tmp_path)
    with pytest.raises(TrainingInterrupted, match=r"after step 8; .*step-8$"):
        run_of(cfg, model, observers=[AtTheEnd()])
    seen: list[RunStatus] = []
    again = run_of(
        replace(cfg, resume_from_checkpoint="latest"),
        model,
        report=seen.append,
    )
    assert seen == []
    assert again.result is not None
    assert again.result.last_step.step == 8
    whole = run_of(small(text, tmp_path / "other"), model)
    assert outcome(tmp_path, "runs") == outcome(tmp_path / "other", "runs")
    assert whole.result is not None
    assert whole.result.summary()["loss"] == again.result.summary()["loss"]


def test_a_run_without_a_place_for_states_says_so(model: LanguageModel, text: str) -> None:
    cfg = replace(SMALL, dataset_path=text)
    assert "nothing to go on from is kept without checkpoint_path" in str(stopped(cfg, model, 2))


def test_other_threads_train_without_touching_signals(model: LanguageModel, text: str) -> None:
    found: list[SAETrainingRunner] = []
    thread = threading.Thread(
        target=lambda: found.append(run_of(replace(SMALL, dataset_path=text), model))
    )
    thread.start()
    thread.join()
    assert found


def test_states_are_pruned_and_seldom(model: LanguageModel, text: str, tmp_path: Path) -> None:
    ticks = itertools.count(step=0.001)
    seen: dict[int, list[str]] = {}

    class Watching(RunObserver):
        steps = 0

        def step_done(self, status: RunStatus) -> None:
            self.steps = status.metrics.step

        def state_written(self, step: int, folder: Path) -> None:
            assert folder.name == f"step-{step}"
            seen[step] = states(tmp_path)

    watching = Watching()
    cfg = small(text, tmp_path, resume_state_minutes=1, n_resume_states=2)
    run_of(cfg, model, observers=[watching], clock=lambda: 40 * watching.steps + next(ticks))
    # When step 4 ends, 120 seconds are over.
    assert seen == {3: ["step-3"], 6: ["step-3", "step-6"], 8: ["step-6", "step-8"]}
    assert states(tmp_path) == ["step-8"]
    none = small(text, tmp_path / "none", n_resume_states=0)
    run_of(none, model)
    assert states(tmp_path / "none") == []


def test_writing_states_takes_a_small_share_of_the_time(tmp_path: Path) -> None:
    now = [0.0]

    class Slow(dict[str, Any]):
        def items(self) -> Any:
            now[0] += 3
            return super().items()

    kept = ResumeStates(tmp_path, keep=2, seconds=60, begun_from=None, clock=lambda: now[0])
    assert not kept.due(59)
    assert kept.due(60)
    kept.write(1, Slow())
    assert not kept.due(3 + 146)
    assert kept.due(3 + 147)


def test_what_an_earlier_attempt_left_is_replaced(
    model: LanguageModel, text: str, tmp_path: Path
) -> None:
    cfg = small(text, tmp_path, resume_state_minutes=9)
    stopped(cfg, model, 6)
    with pytest.warns(UserWarning, match="step-6 is left of this run, which begins anew"):
        stopped(cfg, model, 2)
    assert states(tmp_path) == ["step-2"]
    (run,) = (tmp_path / "runs").iterdir()
    for left in (run / "resume" / ".step-5.0123abcd.new", run / ".512.0123abcd.new"):
        left.mkdir()
    stopped(replace(cfg, resume_from_checkpoint="latest"), model, 4)
    assert states(tmp_path) == ["step-2", "step-4"]
    assert {p.name for p in run.iterdir()} == {"resume", "metrics.jsonl", ".lock"}
    # From an earlier state on, the later ones no longer count.
    stopped(replace(cfg, resume_from_checkpoint=str(run / "resume" / "step-2")), model, 3)
    assert states(tmp_path) == ["step-2", "step-3"]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"lr": 1e-3}, "lr"),
        ({"seed": 1}, "seed"),
        ({"d_sae": 64}, "d_sae"),
        ({"architecture": "topk"}, "architecture"),
        ({"context_size": 20}, "context_size"),
        ({"n_batches_in_buffer": 4}, "n_batches_in_buffer"),
        ({"dataset_path": None}, "dataset_path"),
        ({"training_tokens": 256 * 5}, "training_tokens"),
        ({"resume_changes": ["l1_coefficient"], "lr": 1e-3}, "lr"),
    ],
)
def test_a_run_that_would_become_other_weights_is_refused(
    values: dict[str, Any], field: str, model: LanguageModel, text: str, tmp_path: Path
) -> None:
    stopped(small(text, tmp_path, lr_warm_up_steps=0), model, 6)
    (run,) = (tmp_path / "runs").iterdir()
    begun = small(text, tmp_path, lr_warm_up_steps=0, resume_from_checkpoint=str(run))
    with pytest.raises(ConfigError, match=f"^{field}: .* when the run began") as caught:
        SAETrainingRunner(replace(begun, **values), override_model=model)
    assert caught.value.field == field
    # By a name of its own the run has the same folder, whatever it is.
    named = small(text, tmp_path, wandb_id="mine", lr_warm_up_steps=0)
    stopped(named, model, 6)
    latest = replace(named, **{"resume_from_checkpoint": "latest", **values})
    with pytest.raises(ConfigError, match=f"^{field}: "):
        SAETrainingRunner(latest, override_model=model)
    # Otherwise it has another, and nothing to go on from in it.
    latest = replace(begun, **{"resume_from_checkpoint": "latest", **values})
    with pytest.warns(UserWarning, match=f"has no state of this run.*\\({field}: "):
        assert SAETrainingRunner(latest, override_model=model).resume is None


def test_what_changes_no_weights_may_differ(
    model: LanguageModel, text: str, tmp_path: Path
) -> None:
    stopped(small(text, tmp_path), model, 3)
    whole = run_of(small(text, tmp_path / "whole"), model)
    other = small(
        text,
        tmp_path,
        resume_from_checkpoint="latest",
        prefetch_llm_batches=0,
        on_broken_sample="skip",
        feature_stats_tokens=24 * 4,
        output_path=str(tmp_path / "out"),
        n_checkpoints=1,
        resume_state_minutes=5,
    )
    resumed = run_of(other, model)
    assert resumed.resume is not None
    assert resumed.resume.step == 3
    assert whole.result is not None
    assert resumed.result is not None
    for name, weights in whole.result.sae.weights().items():
        assert torch.equal(weights, resumed.result.sae.weights()[name])


def test_a_run_may_become_longer_before_its_schedules_notice(
    model: LanguageModel, text: str, tmp_path: Path
) -> None:
    # A buffer of two batches.
    schedules = {
        "lr_warm_up_steps": 2,
        "l1_warm_up_steps": 2,
        "lr_decay_steps": 3,
        "n_batches_in_buffer": 1,
    }
    longer = {**schedules, "training_tokens": 256 * 12}
    stopped(small(text, tmp_path, **schedules), model, 5)
    whole = run_of(small(text, tmp_path / "whole", **longer), model)
    resumed = run_of(small(text, tmp_path, **longer, resume_from_checkpoint="latest"), model)
    assert resumed.resume is not None
    assert resumed.resume.step == 5
    assert resumed.resume.total_steps == 8
    assert whole.result is not None
    assert resumed.result is not None
    assert torch.equal(whole.result.sae.W_dec, resumed.result.sae.W_dec)
    # The sixth step was the first with another learning rate.
    finished = run_of(small(text, tmp_path / "finished", **schedules), model)
    assert finished.result is not None
    (run,) = (tmp_path / "finished" / "runs").iterdir()
    cfg = small(text, tmp_path / "finished", **longer, resume_from_checkpoint=str(run))
    with pytest.raises(ConfigError, match=r"training_tokens: 3072, but 2048 .*step 6 would"):
        SAETrainingRunner(cfg, override_model=model)
    seen: list[float] = []
    run_of(
        replace(cfg, resume_changes=("training_tokens",)),
        model,
        report=lambda status: seen.append(status.metrics.learning_rate),
    )
    assert len(seen) == 4


def test_a_run_may_become_longer_before_the_last_rows_of_its_buffer(
    model: LanguageModel, text: str, tmp_path: Path
) -> None:
    # Of eight batches the buffer holds six: the fourth is drawn with none to come for its place.
    schedules = {"lr_warm_up_steps": 0, "l1_warm_up_steps": 0, "lr_decay_steps": 0}
    longer = {**schedules, "training_tokens": 256 * 12}
    whole = run_of(small(text, tmp_path / "whole", **longer), model)
    assert whole.result is not None
    for after in (3, 4):
        place = tmp_path / str(after)
        stopped(small(text, place, **schedules), model, after)
        (run,) = (place / "runs").iterdir()
        cfg = small(text, place, **longer, resume_from_checkpoint=str(run))
        if after == 4:
            with pytest.raises(ConfigError, match=r"and data were fitted to: step 3 would"):
                run_of(cfg, model)
            cfg = replace(cfg, resume_changes=("training_tokens",))
        resumed = run_of(cfg, model)
        assert resumed.result is not None
        same = torch.equal(whole.result.sae.W_dec, resumed.result.sae.W_dec)
        assert same == (after == 3)


def test_one_process_at_a_time_trains_a_run(
    model: LanguageModel, text: str, tmp_path: Path
) -> None:
    cfg = small(text, tmp_path)
    second = SAETrainingRunner(cfg, override_model=model)
    refused = []

    def intrude(status: RunStatus) -> None:
        if status.metrics.step == 3:
            for begin in (second.run, lambda: SAETrainingRunner(cfg, override_model=model)):
                with pytest.raises(CheckpointError, match="another process is training in") as e:
                    begin()
                refused.append(e.value.field)

    first = run_of(cfg, model, report=intrude)
    assert refused == ["checkpoint_path"] * 2
    # Once it has ended, the place is free.
    second.run()
    assert first.result is not None
    assert second.result is not None
    assert torch.equal(first.result.sae.W_dec, second.result.sae.W_dec)


def test_a_run_that_ends_before_it_writes_leaves_no_folder(
    model: LanguageModel, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{\n")
    with pytest.raises(DatasetError):
        run_of(small(str(broken), tmp_path), model)
    assert list((tmp_path / "runs").glob("*")) == []


def test_a_place_without_a_state_is_refused(
    model: LanguageModel, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(small(text, tmp_path, n_checkpoints=1), model)
    (run,) = (tmp_path / "runs").iterdir()
    for place, what in ((run / "1024", "an SAE without a state"), (tmp_path, "no state")):
        with pytest.raises(CheckpointError, match=what) as caught:
            run_of(small(text, tmp_path, resume_from_checkpoint=str(place)), model)
        assert caught.value.field == "resume_from_checkpoint"
    (state,) = (run / "resume").iterdir()
    tensors = state / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"tensors\.safetensors: "):
        run_of(small(text, tmp_path, resume_from_checkpoint=str(run)), model)
    values = json.loads((state / "state.json").read_text())
    (state / "state.json").write_text(json.dumps({**values, "version": 99}))
    with pytest.raises(CheckpointError, match="version 99; this version reads"):
        run_of(small(text, tmp_path, resume_from_checkpoint=str(run)), model)
    assert train(["--out", "x", "--resume"]) == 2
    assert "resume: give --checkpoint-path" in capsys.readouterr().err
