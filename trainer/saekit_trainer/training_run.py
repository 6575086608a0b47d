"""A run from its first batch to the finished SAEs, whichever number of them it trains."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from saekit_core.lm.model import LanguageModel
from saekit_core.sae.disk import write_sae_folder
from saekit_core.sae.features_file import FeaturesFile
from saekit_core.sae.sae import SAE
from saekit_trainer.activations_store import ActivationsStore
from saekit_trainer.compiled_blocks import compiled_blocks
from saekit_trainer.evaluation import evaluate
from saekit_trainer.evaluation_schedule import evaluation_due
from saekit_trainer.feature_stats import describe_briefly, describe_features
from saekit_trainer.plan import SAEPlan, total_steps
from saekit_trainer.results import RunObserver, RunStatus, TrainingResult
from saekit_trainer.run_config import RunConfig
from saekit_trainer.run_folders import RunFolders
from saekit_trainer.sae_in_training import SAEInTraining


class TrainingRun:
    """Trains SAEs side by side on the same batches.

    Attributes:
        cfg: what their configurations have in common.
        plans: the SAEs by name; a lone one has the name "".
        saes: the same in training, once the run has begun.
    """

    def __init__(
        self,
        cfg: RunConfig,
        plans: Mapping[str, SAEPlan],
        model: LanguageModel,
        store: ActivationsStore,
        *,
        observers: Sequence[RunObserver] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            store: has the activations of every hook point of `plans`.
            observers: are told what happens.
            clock: seconds since some moment; `max_seconds` is measured by it.
        """
        self.cfg = cfg
        self.plans = plans
        self.saes: dict[str, SAEInTraining] = {}
        self._model = model
        self._store = store
        self._observers = observers
        self._clock = clock
        self._folders = RunFolders(cfg, plans)
        self._total_steps = total_steps(next(iter(plans.values())).cfg)

    def run(self) -> dict[str, TrainingResult]:
        """Train, evaluate, and write the folders if there are to be any.

        Raises:
            DivergedError: a loss is not finite.
            DatasetError: the data set turns out to be broken or too small.
            OSError: a folder cannot be written.
        """
        began = self._clock()
        try:
            held_out = self._store.held_out_tokens()
            with self._compiled():
                first = self._store.next_batch()
                for name, plan in self.plans.items():
                    self.saes[name] = SAEInTraining(plan, self._store, first)
                try:
                    self._train(first, began, held_out)
                finally:
                    self._store.close()  # before the model is used, or changed, by anybody else
            seconds = self._clock() - began
            results = {
                name: self._finish(name, trained, held_out, seconds)
                for name, trained in self.saes.items()
            }
            for observer in self._observers:
                observer.finished(results)
            return results
        finally:
            for observer in self._observers:
                observer.closed()

    def _compiled(self) -> AbstractContextManager[None]:
        wanted = self.cfg.compile or self.cfg.compile_llm
        mode = self.cfg.compilation_mode if wanted else None
        return compiled_blocks(self._model, self._store.hooks, mode)

    def _train(self, first: Tensor, began: float, held_out: Tensor) -> None:
        stepping = self._clock()
        batch: Tensor | None = first
        total, step = self._total_steps, 0
        for observer in self._observers:
            observer.began(step)
        while step < total:
            batch = self._store.next_batch() if batch is None else batch
            metrics = {n: sae.train_step(batch, total) for n, sae in self.saes.items()}
            batch = None
            step += 1
            now = self._clock()
            per_step = (now - stepping) / step
            if self.cfg.max_seconds is not None:
                left = max(self.cfg.max_seconds - (now - began), 0.0)
                total = min(self._total_steps, step + math.floor(left / per_step))
            status = RunStatus(
                metrics,
                total_steps=total,
                seconds=now - began,
                tokens_per_second=step * self.cfg.train_batch_size_tokens / (now - stepping),
                seconds_left=(total - step) * per_step,
            )
            for observer in self._observers:
                observer.step_done(status)
            self._evaluate_if_due(step, total, held_out)
            if self._folders.checkpoint_due(step, total):
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
            training_density=trained.trainer.activity.density,
            last_step=trained.last_step,
            seconds=seconds,
            folder=folders[0].resolve() if folders else None,
            skipped_samples=self._store.skipped_samples,
            report=self._folders.report,
        )

    def _write(
        self, name: str, sae: SAE, folder: Path, features: FeaturesFile | None = None
    ) -> None:
        written = write_sae_folder(sae, folder, features=features)
        for observer in self._observers:
            observer.folder_written(name, written)
