"""A trainer and a batch for every loss there is, in float64 and small."""

from __future__ import annotations

import torch
from torch import Tensor

from saekit_trainer.architectures import TrainingSAEConfig, new_training_sae
from saekit_trainer.plan import OptimizationConfig
from saekit_trainer.schedules import LearningRateSchedule
from saekit_trainer.trainer import SAETrainer

D_IN, D_OUT, D_SAE, ROWS = 12, 10, 40, 64
OPTIMIZATION = OptimizationConfig(
    schedule=LearningRateSchedule(peak=1e-2, end=1e-4),
    betas=(0.9, 0.999),
    sparsity_warm_up_steps=2,
    dead_feature_threshold=0.0,
    dead_feature_window=5,
    feature_sampling_window=10,
)


def config(architecture: str, **values: object) -> TrainingSAEConfig:
    d_out = D_OUT if architecture.endswith("transcoder") else None
    shared = {"apply_b_dec_to_input": d_out is None, "dtype": torch.float64}
    return TrainingSAEConfig(
        architecture, D_IN, D_SAE, d_out=d_out, decoder_init_norm=0.8, **{**shared, **values}
    )


JUMP = {
    "sparsity_coefficient": 0.3,
    "jumprelu_init_threshold": 0.4,
    "jumprelu_bandwidth": 0.5,
    "pre_act_loss_coefficient": 0.02,
}
CONFIGS = {
    "standard": config("standard", sparsity_coefficient=0.7),
    "standard-l2": config("standard", sparsity_coefficient=0.7, lp_norm=2.0),
    "standard-mean": config(
        "standard", sparsity_coefficient=0.1, mse_reduction="mean", use_ghost_grads=True
    ),
    "standard-no-b_dec": config("standard", sparsity_coefficient=0.7, apply_b_dec_to_input=False),
    "standard-ghost": config("standard", sparsity_coefficient=0.7, use_ghost_grads=True),
    "gated": config("gated", sparsity_coefficient=0.7),
    "gated-ghost": config("gated", sparsity_coefficient=0.7, use_ghost_grads=True),
    "topk": config("topk", k=5),
    "topk-rescaled": config("topk", k=5, rescale_acts_by_decoder_norm=True),
    "topk-ghost": config("topk", k=5, use_ghost_grads=True, aux_k_coefficient=0.5),
    "abstopk": config("abstopk", k=5),
    "batchtopk": config("batchtopk", k=3.7),
    "batchtopk-rescaled": config("batchtopk", k=5, rescale_acts_by_decoder_norm=True),
    "batchtopk-all": config("batchtopk", k=39),
    "matryoshka": config("matryoshka_batchtopk", k=6, matryoshka_widths=(5, 6, 20, 40)),
    "jumprelu": config("jumprelu", **JUMP),
    "jumprelu-tanh": config("jumprelu", **JUMP, jumprelu_sparsity_loss_mode="tanh"),
    "jumprelu-quadratic": config(
        "jumprelu", **JUMP, jumprelu_sparsity_loss_mode="quadratic", target_l0=4.0
    ),
    "pursuit": config("matching_pursuit", max_iterations=6, residual_threshold=0.9),
    "pursuit-on": config(
        "matching_pursuit",
        max_iterations=9,
        residual_threshold=0.0,
        stop_on_duplicate_support=False,
    ),
    "transcoder": config("transcoder", sparsity_coefficient=0.7),
    "skip_transcoder": config("skip_transcoder", sparsity_coefficient=0.7, use_ghost_grads=True),
    "jumprelu_transcoder": config("jumprelu_transcoder", **JUMP),
    "jumprelu_skip_transcoder": config("jumprelu_skip_transcoder", **JUMP),
}


def trainer_and_batch(name: str, seed: int = 0) -> tuple[SAETrainer, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sae = new_training_sae(CONFIGS[name], generator=generator)
    with torch.no_grad():
        for parameter in sae.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise)
    x = torch.randn(ROWS, D_IN, generator=generator, dtype=torch.float64)
    y = torch.randn(ROWS, D_OUT, generator=generator, dtype=torch.float64)
    return SAETrainer(sae, OPTIMIZATION), x, y if CONFIGS[name].transcodes else x


def kill(trainer: SAETrainer, n: int) -> Tensor:
    """Let the first `n` features have been silent for longer than the window."""
    state = trainer.activity.state_dict()
    state["silent_steps"][:n] = 100
    trainer.activity.load_state_dict(state)
    return trainer.activity.dead
