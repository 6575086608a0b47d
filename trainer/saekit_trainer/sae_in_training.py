"""One SAE of a run: what it sees of a batch, its scale, its steps, and the finished `SAE`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from saekit_core.sae.config import SAEConfig
from saekit_core.sae.dtypes import torch_dtype
from saekit_core.sae.metadata import SAEMetadata
from saekit_core.sae.sae import SAE
from saekit_trainer.activation_scaling import ActivationScaling
from saekit_trainer.activations_store import ActivationsStore
from saekit_trainer.architectures import new_training_sae
from saekit_trainer.distributed.ranks import ALONE, Ranks
from saekit_trainer.geometric_median import initial_decoder_bias
from saekit_trainer.plan import SAEPlan
from saekit_trainer.trainer import SAETrainer, StepMetrics


class SAEInTraining:
    """An SAE between its first batch and its last.

    Attributes:
        plan: what it is to become.
        scaling: fitted to the first batch.
        trainer: its steps.
        last_step: what the last of them saw; None before the first.
    """

    def __init__(
        self, plan: SAEPlan, store: ActivationsStore, first: Tensor | None, ranks: Ranks = ALONE
    ) -> None:
        """
        Args:
            plan: sizes, losses, optimisation.
            store: says which columns of a batch are whose.
            first: a batch ``[rows, width]``, by which scale and decoder bias are chosen; None where
                `load_state_dict` brings them.
            ranks: train it together, as `shard_features` says.
        """
        self.plan = plan
        self._model = store.model
        self._dataset_path = plan.cfg.dataset_path or store.cached_dataset
        self._columns = store.columns(plan.hook)
        self._columns_out = store.columns(plan.hook_out)
        cfg = plan.cfg
        self.scaling = ActivationScaling(cfg.normalize_activations)
        b_dec = None
        if first is not None:
            x, y = self._sides(first)
            self.scaling = ActivationScaling.fit(cfg.normalize_activations, x, y)
            target = self.scaling.apply(x) if y is None else self.scaling.apply_out(y)
            b_dec = initial_decoder_bias(target, cfg.b_dec_init_method).cpu()
        sae = new_training_sae(
            plan.sae, generator=torch.Generator().manual_seed(cfg.seed), b_dec=b_dec
        )
        if cfg.shard_features:
            sae.share_features(ranks)  # before any of it is on the device
        else:
            sae.share_rows(ranks)
        self.trainer = SAETrainer(sae.to(store.device), plan.optimization)
        self.last_step: StepMetrics | None = None

    def train_step(self, batch: Tensor, total_steps: int) -> StepMetrics:
        """One step on the activations ``[rows, width]`` of all hook points of the run.

        Raises:
            DivergedError: the loss is not finite.
        """
        x, y = self._sides(batch)
        self.last_step = self.trainer.train_step(
            self.scaling.apply(x), total_steps, None if y is None else self.scaling.apply_out(y)
        )
        return self.last_step

    def to_sae(self) -> SAE:
        """The SAE as it stands, for the model's own activations; its weights are copies.

        Every rank has to ask, and has the whole SAE then.
        """
        plan, cfg = self.plan, self.plan.cfg
        state = self.scaling.fold(self.trainer.sae.saved_state())
        dtype = torch_dtype(cfg.save_dtype)
        sae = SAE.from_state(
            SAEConfig(
                architecture=cfg.preset.saved_as or cfg.architecture,
                d_in=plan.sae.d_in,
                d_sae=plan.sae.d_sae,
                dtype=cfg.save_dtype,
                device=str(self._model.device),
                apply_b_dec_to_input=plan.sae.apply_b_dec_to_input,
                normalize_activations=self.scaling.saved_kind,
                reshape_activations=self._reshaping(),
                metadata=self._metadata(),
                **self._own_keys(),
            ),
            {name: tensor.to(dtype).contiguous() for name, tensor in state.items()},
        )
        sae.sparsity = (self.trainer.density() + 1e-10).log10()
        return sae

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on besides the batches and the plan; the tensors are
        those in use."""
        return {
            "trainer": self.trainer.state_dict(),
            "scaling": asdict(self.scaling),
            "last_step": None if self.last_step is None else asdict(self.last_step),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.scaling = ActivationScaling(**state["scaling"])
        self.trainer.load_state_dict(state["trainer"])
        last = state["last_step"]
        self.last_step = None if last is None else StepMetrics(**last)

    @property
    def is_finite(self) -> bool:
        """Whether weights and their moments are numbers to go on with."""
        moments = (
            value for state in self.trainer.optimizer.state.values() for value in state.values()
        )
        return all(
            bool(tensor.isfinite().all()) for tensor in (*self.trainer.sae.parameters(), *moments)
        )

    def _sides(self, batch: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is encoded, and for a transcoder what is reconstructed."""
        y = batch[:, self._columns_out] if self.plan.sae.transcodes else None
        return batch[:, self._columns], y

    def _reshaping(self) -> str:
        heads = len(self.plan.hook.shape) > 1 and not self.plan.sae.transcodes
        return "hook_z" if heads else "none"

    def _metadata(self) -> SAEMetadata:
        plan, cfg = self.plan, self.plan.cfg
        return SAEMetadata(
            model_name=self._model.name,
            hook_name=plan.hook.name,
            hook_name_out=plan.hook_out.name if plan.sae.transcodes else None,
            context_size=cfg.context_size,
            prepend_bos=cfg.prepend_bos,
            exclude_special_tokens=cfg.exclude_special_tokens,
            seqpos_slice=None if cfg.seqpos_slice == (None,) else cfg.seqpos_slice,
            dataset_path=self._dataset_path,
            training_architecture=cfg.architecture,
        )

    def _own_keys(self) -> dict[str, Any]:
        """What only this architecture's configuration says."""
        config = self.plan.sae
        if config.architecture in ("topk", "abstopk"):
            return {"k": int(config.k)}
        if config.architecture == "matching_pursuit":
            return {
                "residual_threshold": config.residual_threshold / self.scaling.factor,
                "max_iterations": config.max_iterations,
                "stop_on_duplicate_support": config.stop_on_duplicate_support,
            }
        return {"d_out": config.d_out} if config.transcodes else {}
