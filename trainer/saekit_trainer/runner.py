"""`SAETrainingRunner`: a training run from configuration to finished SAE."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_core.sae.config import SAEConfig
from saekit_core.sae.disk import write_sae_folder
from saekit_core.sae.dtypes import torch_dtype
from saekit_core.sae.features_file import FeaturesFile
from saekit_core.sae.metadata import SAEMetadata
from saekit_core.sae.sae import SAE
from saekit_trainer.activation_scaling import ActivationScaling
from saekit_trainer.activations_store import ActivationsStore
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.errors import TrainerError
from saekit_trainer.evaluation import Evaluation, evaluate
from saekit_trainer.feature_stats import describe_features
from saekit_trainer.geometric_median import initial_decoder_bias
from saekit_trainer.plan import TrainingPlan, plan_training
from saekit_trainer.trainer import SAETrainer, StepMetrics
from saekit_trainer.training_sae import TrainingSAE, new_training_sae


@dataclass(frozen=True)
class RunStatus:
    """Where a run is, after a step."""

    metrics: StepMetrics
    total_steps: int
    """Length of the run in steps, an estimate where it ends by the clock."""
    seconds: float
    """Since the run began."""
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class TrainingResult:
    """A finished run."""

    sae: SAE
    evaluation: Evaluation
    """On held-out contexts."""
    features: FeaturesFile
    """Statistics over `feature_stats_tokens` tokens, and example snippets."""
    training_density: Tensor
    """Share of tokens of the last `feature_sampling_window` steps in which each feature fired,
    ``[d_sae]``."""
    last_step: StepMetrics
    seconds: float
    """Of the training steps, the writing of text included."""
    folder: Path | None
    """Where the SAE was written; None without checkpoint_path."""

    def summary(self) -> dict[str, Any]:
        """The final metrics as plain JSON values."""
        last, cfg = self.last_step, self.sae.cfg
        return {
            "architecture": cfg.architecture,
            "model_name": cfg.model_name,
            "hook_name": cfg.hook_name,
            "d_in": cfg.d_in,
            "d_sae": cfg.d_sae,
            "training_tokens": last.tokens,
            "steps": last.step,
            "seconds": round(self.seconds, 2),
            "tokens_per_second": round(last.tokens / self.seconds, 1),
            "loss": last.loss,
            **last.losses,
            "training_dead_features": last.dead_features,
            "training_density_median": float(self.training_density.median()),
            "evaluation": self.evaluation.to_dict(),
            "folder": None if self.folder is None else str(self.folder),
        }


Reporter = Callable[[RunStatus], None]


class SAETrainingRunner:
    """Trains one SAE.

    Attributes:
        cfg: what was asked for.
        model: the language model.
        plan: what that comes to on this model.
        store: the activations.
        result: everything about the finished run; None before.
    """

    def __init__(
        self,
        cfg: LanguageModelSAERunnerConfig,
        *,
        override_model: LanguageModel | None = None,
        override_dataset: Any = None,
        report: Reporter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            cfg: the run.
            override_model: a booted model, instead of the one that `cfg` names.
            override_dataset: a data set (see `contexts.open_contexts`), instead of cfg's.
            report: is called after each step.
            clock: seconds since some moment; `max_seconds` is measured by it.

        Raises:
            ConfigError: `cfg` does not fit the model.
            DatasetError: the data set cannot be opened.
            LMError: the model cannot be booted, or not on that device.
        """
        self.cfg = cfg
        self.model = override_model or boot_model(cfg.model_name, device=cfg.device)
        self.plan: TrainingPlan = plan_training(cfg, self.model)
        self.store = ActivationsStore.from_config(self.model, cfg, self.plan.hook, override_dataset)
        self.result: TrainingResult | None = None
        self._report = report
        self._clock = clock

    def run(self) -> SAE:
        """Train, evaluate, write the folder if there is to be one, and return the SAE.

        Raises:
            DivergedError: the loss is not finite.
            DatasetError: the data set turns out to be broken or too small.
        """
        began = self._clock()
        held_out = self.store.held_out_tokens()
        first = self.store.next_batch()
        scaling = ActivationScaling.fit(self.cfg.normalize_activations, first)
        trainer = SAETrainer(self._new_sae(scaling.apply(first)), self.plan.optimization)
        last = self._train(trainer, scaling, first, began)
        seconds = self._clock() - began
        sae = self._finish(trainer.sae, scaling)
        evaluation = evaluate(self.model, sae, held_out)
        prompts = max(self.cfg.feature_stats_tokens // self.cfg.context_size, 1)
        features = describe_features(
            self.model, sae, self.store.get_batch_tokens(prompts), evaluation=evaluation
        )
        if features.density is not None:
            sae.sparsity = (torch.from_numpy(features.density) + 1e-10).log10()
        folder = None
        if self.cfg.checkpoint_path is not None:
            folder = write_sae_folder(sae, self.cfg.checkpoint_path, features=features)
        self.result = TrainingResult(
            sae=sae,
            evaluation=evaluation,
            features=features,
            training_density=trainer.activity.density,
            last_step=last,
            seconds=seconds,
            folder=folder,
        )
        return sae

    def _new_sae(self, x: Tensor) -> TrainingSAE:
        return new_training_sae(
            self.plan.sae,
            generator=torch.Generator().manual_seed(self.cfg.seed),
            b_dec=initial_decoder_bias(x, self.cfg.b_dec_init_method).cpu(),
        ).to(self.model.device)

    def _train(
        self, trainer: SAETrainer, scaling: ActivationScaling, first: Tensor, began: float
    ) -> StepMetrics:
        stepping = self._clock()
        x: Tensor | None = first
        last: StepMetrics | None = None
        total = self.plan.total_steps
        while trainer.step < total:
            last = trainer.train_step(
                scaling.apply(self.store.next_batch() if x is None else x), total
            )
            x = None
            now = self._clock()
            per_step = (now - stepping) / trainer.step
            if self.cfg.max_seconds is not None:
                left = max(self.cfg.max_seconds - (now - began), 0.0)
                total = min(self.plan.total_steps, trainer.step + math.floor(left / per_step))
            if self._report is not None:
                self._report(
                    RunStatus(
                        last,
                        total_steps=total,
                        seconds=now - began,
                        tokens_per_second=trainer.tokens / (now - stepping),
                        seconds_left=(total - trainer.step) * per_step,
                    )
                )
        if last is None:
            raise TrainerError("training_tokens: no step was made", field="training_tokens")
        return last

    def _finish(self, trained: TrainingSAE, scaling: ActivationScaling) -> SAE:
        """The trained weights as an `SAE` for the model's own activations."""
        plan, cfg = self.plan, self.cfg
        dtype = torch_dtype(cfg.save_dtype)
        state = {
            name: tensor.to(dtype).contiguous()
            for name, tensor in scaling.fold(trained.state()).items()
        }
        metadata = SAEMetadata(
            model_name=self.model.name,
            hook_name=plan.hook.name,
            context_size=cfg.context_size,
            prepend_bos=cfg.prepend_bos,
            exclude_special_tokens=cfg.exclude_special_tokens,
            dataset_path=cfg.dataset_path,
            training_architecture=cfg.architecture,
        )
        config = SAEConfig(
            architecture=cfg.architecture,
            d_in=plan.sae.d_in,
            d_sae=plan.sae.d_sae,
            dtype=cfg.save_dtype,
            device=str(self.model.device),
            apply_b_dec_to_input=cfg.apply_b_dec_to_input,
            normalize_activations=scaling.saved_kind,
            reshape_activations="hook_z" if len(plan.hook.shape) > 1 else "none",
            k=plan.sae.k or None,
            metadata=metadata,
        )
        return SAE.from_state(config, state)
