"""The SAEs while they are trained, one module for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from saekit_trainer.architectures.base import TrainingOutput, TrainingSAE
from saekit_trainer.architectures.batchtopk import BatchTopKSAE, MatryoshkaBatchTopKSAE
from saekit_trainer.architectures.config import TrainingSAEConfig
from saekit_trainer.architectures.gated import GatedSAE
from saekit_trainer.architectures.jumprelu import JumpReLUSAE
from saekit_trainer.architectures.matching_pursuit import MatchingPursuitSAE
from saekit_trainer.architectures.standard import StandardSAE
from saekit_trainer.architectures.topk import AbsTopKSAE, TopKSAE

__all__ = [
    "TRAINING_SAES",
    "TrainingOutput",
    "TrainingSAE",
    "TrainingSAEConfig",
    "new_training_sae",
]

TRAINING_SAES: Final[Mapping[str, type[TrainingSAE]]] = {
    "standard": StandardSAE,
    "gated": GatedSAE,
    "topk": TopKSAE,
    "abstopk": AbsTopKSAE,
    "jumprelu": JumpReLUSAE,
    "batchtopk": BatchTopKSAE,
    "matryoshka_batchtopk": MatryoshkaBatchTopKSAE,
    "matching_pursuit": MatchingPursuitSAE,
    "transcoder": StandardSAE,
    "skip_transcoder": StandardSAE,
    "jumprelu_transcoder": JumpReLUSAE,
    "jumprelu_skip_transcoder": JumpReLUSAE,
}
"""Every architecture that can be trained, by the name that a configuration gives it."""


def new_training_sae(
    config: TrainingSAEConfig,
    *,
    generator: torch.Generator | None = None,
    b_dec: Tensor | None = None,
) -> TrainingSAE:
    """The `TrainingSAE` of `config.architecture`; arguments as its constructor."""
    return TRAINING_SAES[config.architecture](config, generator=generator, b_dec=b_dec)
