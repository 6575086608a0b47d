"""A run from its first batch to the finished SAEs, whichever number of them it trains."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from saekit_core.heap import kept_heap
from saekit_core.lm.model import LanguageModel
from saekit_core.sae.disk import write_sae_folder
from saekit_core.sae.features_file import FeaturesFile
from saekit_core.sae.sae import SAE
from saekit_trainer.activations_store import ActivationsStore
from saekit_trainer.compiled_blocks import compiled_blocks
from saekit_trainer.disk_errors import why_not_written
from saekit_trainer.distributed.ranks import ALONE, Ranks
from saekit_trainer.errors import (
    CheckpointError,
    DatasetError,
    DivergedError,
    TrainingInterrupted,
)
from saekit_trainer.evaluation import evaluate
from saekit_trainer.evaluation_schedule import evaluation_due
from saekit_trainer.feature_stats import describe_briefly, describe_features
from saekit_trainer.going_on import go_on, go_on_slower
from saekit_trainer.plan import SAEPlan, total_steps
from saekit_trainer.results import RunObserver, RunStatus, TrainingResult
from saekit_trainer.resume_states import ResumeStates
from saekit_trainer.resuming import ResumePoint
from saekit_trainer.run_config import RunConfig
from saekit_trainer.run_folders import RunFolders
from saekit_trainer.run_identity import run_fields
from saekit_trainer.run_lock import alone_in
from saekit_trainer.sae_in_training import SAEInTraining
from saekit_trainer.stop_signals import StopSignals
from saekit_trainer.trainer import StepMetrics


class TrainingRun:
    """Trains SAEs side by side on the same batches.

    Attributes:
        cfg: what their configurations have in common.
        plans: the SAEs by name; a lone one has the name "".
        saes: the same in training, once the run has begun.
        step: steps done.
    """

    def __init__(
        self,
        cfg: RunConfig,
        plans: Mapping[str, SAEPlan],
        model: LanguageModel,
        store: ActivationsStore,
        *,
        folders: RunFolders,
        resume: ResumePoint | None = None,
        ranks: Ranks = ALONE,
        observers: Sequence[RunObserver] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            store: has the activations of every hook point of `plans`.
            folders: where the run writes.
            resume: what it goes on from.
            ranks: do the run together, each with all of this; the main one alone writes.
            observers: are told what happens.
            clock: seconds since some moment; `max_seconds` is measured by it.
        """
        self.cfg = cfg
        self.plans = plans
        self.saes: dict[str, SAEInTraining] = {}
        self.step = 0
        self._model = model
        self._store = store
        self._folders = folders
        self._resume = resume
        self._ranks = ranks
        self._observers = observers
        self._clock = clock
        self._began = self._stepping = 0.0
        self._total_steps = total_steps(next(iter(plans.values())).cfg)
        self._states = ResumeStates(
            folders.checkpoints,
            keep=cfg.n_resume_states,
            seconds=60 * cfg.resume_state_minutes,
            begun_from=None if resume is None else resume.folder,
            clock=clock,
            writes=ranks.is_main,
        )

    def run(self) -> dict[str, TrainingResult]:
        """Train, evaluate, and write the folders if there are to be any.

        Raises:
            CheckpointError: a folder cannot be written, the state to go on from cannot be read, or
                another process is training in the run's folder.
            DatasetError: the data set turns out to be broken or too small.
            DivergedError: a loss is not finite.
            TrainingInterrupted: SIGINT or SIGTERM came; the state is written.
        """
        self._began = self._stepping = self._clock()
        try:
            with (
                StopSignals() as stop,
                alone_in(self._folders.checkpoints if self._ranks.is_main else None),
                kept_heap(wanted=self._model.device.type == "cpu"),
            ):
                try:
                    return self._run(stop)
                except TrainingInterrupted as interrupt:
                    message = f"{interrupt} after step {self.step}; {go_on(self._states.known)}"
                    raise TrainingInterrupted(interrupt.signal, message) from None
        finally:
            for observer in self._observers:
                observer.closed()

    def _run(self, stop: StopSignals) -> dict[str, TrainingResult]:
        if self._resume is not None:
            self._load(self._resume)
        held_out = self._store.held_out_tokens()
        with self._compiled():
            try:
                first = None if self.saes else self._begin()
                with stop.deferred():
                    self._train(first, held_out, stop)
            finally:
                self._store.close()  # before the model is used, or changed, by anybody else
        seconds = self._clock() - self._began
        results = {
            name: self._finish(name, trained, held_out, seconds)
            for name, trained in self.saes.items()
        }
        self._states.prune(1)
        for observer in self._observers:
            observer.finished(results)
        return results

    def _begin(self) -> Tensor:
        """The first batch, by which the SAEs begin."""
        first = self._store.next_batch(self._total_steps)
        for name, plan in self.plans.items():
            self.saes[name] = SAEInTraining(plan, self._store, first, self._ranks)
        self._stepping = self._clock()
        return first

    def _compiled(self) -> AbstractContextManager[None]:
        wanted = self.cfg.compile or self.cfg.compile_llm
        mode = self.cfg.compilation_mode if wanted else None
        return compiled_blocks(self._model, self._store.hooks, mode)

    def _train(self, first: Tensor | None, held_out: Tensor, stop: StopSignals) -> None:
        batch = first
        total = self._length(self._clock())
        for observer in self._observers:
            observer.began(self.step, self.step * self.cfg.train_batch_size_tokens)
        if self.step:
            self._folders.go_on(self.step, total)
            self._between_steps(total, held_out)
        while self.step < total:
            batch = self._next_batch(total) if batch is None else batch
            metrics = {name: self._train_step(name, batch, total) for name in self.saes}
            batch = None
            self.step += 1
            now = self._clock()
            total = self._length(now)
            per_step = (now - self._stepping) / self.step
            status = RunStatus(
                metrics,
                total_steps=total,
                seconds=now - self._began,
                tokens_per_second=self.cfg.train_batch_size_tokens / per_step,
                seconds_left=(total - self.step) * per_step,
            )
            for observer in self._observers:
                observer.step_done(status)
            stopped, due = self._ranks.any_of(stop.requested is not None, self._states.due(now))
            if stopped:
                break
            if due:
                self._write_state(total)
            # After the state: a run that goes on from it does this first.
            self._between_steps(total, held_out)
        self._write_state(total)
        # A signal comes to each process at another step, or to one of them alone.
        (stopped,) = self._ranks.any_of(stop.requested is not None)
        if stopped:
            raise TrainingInterrupted(stop.requested or signal.SIGTERM)

    def _length(self, now: float) -> int:
        """Steps of the run, as far as that is known."""
        if self.cfg.max_seconds is None or not self.step:
            return self._total_steps
        left = max(self.cfg.max_seconds - (now - self._began), 0.0)
        per_step = (now - self._stepping) / self.step
        return min(self._total_steps, self.step + math.floor(left / per_step))

    def _next_batch(self, total: int) -> Tensor:
        try:
            return self._store.next_batch(total - self.step)
        except DatasetError as error:  # nothing of the steps done is lost by that
            # Others may not have come upon it, and would not take part.
            if self.step and self._ranks.count == 1:
                self._write_state(total)
            raise DatasetError(
                f"{error}. With that mended, {go_on(self._states.known)}", field=error.field
            ) from error

    def _train_step(self, name: str, batch: Tensor, total: int) -> StepMetrics:
        try:
            return self.saes[name].train_step(batch, total)
        except DivergedError as error:
            raise self._diverged(name, str(error)) from error

    def _diverged(self, name: str, what: str) -> DivergedError:
        of_sae = f"saes.{name}: " if name else ""
        advice = go_on_slower(self._states.known, self.plans[name])
        return DivergedError(f"{of_sae}{what}; {advice}", field="lr")

    def _between_steps(self, total: int, held_out: Tensor) -> None:
        self._evaluate_if_due(self.step, total, held_out)
        if self._folders.checkpoint_due(self.step, total):
            self._write_checkpoint(held_out)

    def _evaluate_if_due(self, step: int, total: int, held_out: Tensor) -> None:
        if evaluation_due(self.cfg, step, total):
            self._store.close()  # the model is not to run in two threads at once
            found = {
                name: evaluate(self._model, sae.to_sae(), held_out)
                for name, sae in self.saes.items()
            }
            for observer in self._observers:
                observer.evaluated(step, found)

    def _write_checkpoint(self, held_out: Tensor) -> None:
        self._store.close()  # the model is not to run in two threads at once
        for name, trained in self.saes.items():
            sae = trained.to_sae()
            folder = self._folders.of_checkpoint(name, trained.trainer.tokens)
            self._write(name, sae, folder, describe_briefly(self._model, sae, held_out))

    def _write_state(self, total: int) -> None:
        """Put on disk what the steps to come depend on, unless it is there."""
        (missing,) = self._ranks.any_of(self._states.missing(self.step))
        if not missing:
            return
        for name, trained in self.saes.items():
            if any(self._ranks.any_of(not trained.is_finite)):
                raise self._diverged(name, f"the weights after step {self.step} are not finite")
        now = self._clock()
        state: dict[str, Any] = {
            "step": self.step,
            "total_steps": total,
            "seconds": now - self._began,
            "stepping_seconds": now - self._stepping,
            "run": run_fields(self.plans),
            "model_revision": self._model.revision,
            "saes": {name: trained.state_dict() for name, trained in self.saes.items()},
            "store": self._store.state_dict(),
            "observers": {
                type(observer).__name__: memory
                for observer in self._observers
                if (memory := observer.memory())
            },
        }
        if not self._ranks.is_main:
            return
        folder = self._states.write(self.step, state)
        for observer in self._observers:
            observer.state_written(self.step, folder)

    def _load(self, point: ResumePoint) -> None:
        """Take up the run where a state was written."""
        state = point.load()
        self.step = state["step"]
        now = self._clock()
        self._began, self._stepping = now - state["seconds"], now - state["stepping_seconds"]
        self._store.load_state_dict(state["store"])
        for name, plan in self.plans.items():
            self.saes[name] = SAEInTraining(plan, self._store, None, self._ranks)
            self.saes[name].load_state_dict(state["saes"][name])

    def _finish(
        self, name: str, trained: SAEInTraining, held_out: Tensor, seconds: float
    ) -> TrainingResult:
        sae = trained.to_sae()
        evaluation = evaluate(self._model, sae, held_out)
        prompts = max(self.cfg.feature_stats_tokens // self.cfg.context_size, 1)
        features = describe_features(
            self._model, sae, self._store.get_batch_tokens(prompts), evaluation=evaluation
        )
        if features.density is not None:
            sae.sparsity = (torch.from_numpy(features.density) + 1e-10).log10()
        for observer in self._observers:
            observer.evaluated(trained.trainer.step, {name: evaluation})
        folders = self._folders.of_finished(name, trained.trainer.tokens)
        for folder in folders:
            self._write(name, sae, folder, features)
        assert trained.last_step is not None
        return TrainingResult(
            sae=sae,
            evaluation=evaluation,
            features=features,
            training_density=trained.trainer.density(),
            last_step=trained.last_step,
            seconds=seconds,
            folder=folders[0].resolve() if folders else None,
            skipped_samples=self._store.skipped_samples,
            report=self._folders.report,
        )

    def _write(
        self, name: str, sae: SAE, folder: Path, features: FeaturesFile | None = None
    ) -> None:
        if not self._ranks.is_main:
            return
        try:
            written = write_sae_folder(sae, folder, features=features)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"the SAE is not written: {why_not_written(folder, error)}. With that mended, "
                f"{go_on(self._states.known)}",
                field="checkpoint_path",
            ) from error
        for observer in self._observers:
            observer.folder_written(name, written)
