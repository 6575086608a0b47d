"""Trains sparse autoencoders on a language model's activations."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saekit_core.sae.upload import upload_saes_to_huggingface as upload_saes_to_huggingface
    from saekit_trainer.activations_store import ActivationsStore as ActivationsStore
    from saekit_trainer.cache.config import (
        CacheActivationsRunnerConfig as CacheActivationsRunnerConfig,
    )
    from saekit_trainer.cache.making import CacheActivationsRunner as CacheActivationsRunner
    from saekit_trainer.config import LanguageModelSAERunnerConfig as LanguageModelSAERunnerConfig
    from saekit_trainer.display import TrainingDisplay as TrainingDisplay
    from saekit_trainer.errors import TrainingInterrupted as TrainingInterrupted
    from saekit_trainer.evaluation import Evaluation as Evaluation
    from saekit_trainer.evaluation import ReconstructionFigures as ReconstructionFigures
    from saekit_trainer.evaluation import evaluate as evaluate
    from saekit_trainer.evaluation import evaluate_reconstruction as evaluate_reconstruction
    from saekit_trainer.multi_config import (
        MultiSAETrainingRunnerConfig as MultiSAETrainingRunnerConfig,
    )
    from saekit_trainer.nested_config import AbsTopKTrainingSAEConfig as AbsTopKTrainingSAEConfig
    from saekit_trainer.nested_config import (
        BatchTopKTrainingSAEConfig as BatchTopKTrainingSAEConfig,
    )
    from saekit_trainer.nested_config import GatedTrainingSAEConfig as GatedTrainingSAEConfig
    from saekit_trainer.nested_config import (
        JumpReLUSkipTranscoderTrainingConfig as JumpReLUSkipTranscoderTrainingConfig,
    )
    from saekit_trainer.nested_config import JumpReLUTrainingSAEConfig as JumpReLUTrainingSAEConfig
    from saekit_trainer.nested_config import (
        JumpReLUTranscoderTrainingConfig as JumpReLUTranscoderTrainingConfig,
    )
    from saekit_trainer.nested_config import LoggingConfig as LoggingConfig
    from saekit_trainer.nested_config import (
        MatchingPursuitTrainingSAEConfig as MatchingPursuitTrainingSAEConfig,
    )
    from saekit_trainer.nested_config import (
        MatryoshkaBatchTopKTrainingSAEConfig as MatryoshkaBatchTopKTrainingSAEConfig,
    )
    from saekit_trainer.nested_config import (
        SkipTranscoderTrainingConfig as SkipTranscoderTrainingConfig,
    )
    from saekit_trainer.nested_config import StandardTrainingSAEConfig as StandardTrainingSAEConfig
    from saekit_trainer.nested_config import TopKTrainingSAEConfig as TopKTrainingSAEConfig
    from saekit_trainer.nested_config import TranscoderTrainingConfig as TranscoderTrainingConfig
    from saekit_trainer.publish import CheckpointPublisher as CheckpointPublisher
    from saekit_trainer.results import RunObserver as RunObserver
    from saekit_trainer.results import RunStatus as RunStatus
    from saekit_trainer.runner import MultiSAETrainingRunner as MultiSAETrainingRunner
    from saekit_trainer.runner import SAETrainingRunner as SAETrainingRunner
    from saekit_trainer.trainer import SAETrainer as SAETrainer

_NAMES = {
    "saekit_core.sae.upload": ["upload_saes_to_huggingface"],
    ".activations_store": ["ActivationsStore"],
    ".cache.config": ["CacheActivationsRunnerConfig"],
    ".cache.making": ["CacheActivationsRunner"],
    ".config": ["LanguageModelSAERunnerConfig"],
    ".display": ["TrainingDisplay"],
    ".errors": ["TrainingInterrupted"],
    ".evaluation": ["Evaluation", "ReconstructionFigures", "evaluate", "evaluate_reconstruction"],
    ".multi_config": ["MultiSAETrainingRunnerConfig"],
    ".nested_config": [
        "AbsTopKTrainingSAEConfig",
        "BatchTopKTrainingSAEConfig",
        "GatedTrainingSAEConfig",
        "JumpReLUSkipTranscoderTrainingConfig",
        "JumpReLUTrainingSAEConfig",
        "JumpReLUTranscoderTrainingConfig",
        "LoggingConfig",
        "MatchingPursuitTrainingSAEConfig",
        "MatryoshkaBatchTopKTrainingSAEConfig",
        "SkipTranscoderTrainingConfig",
        "StandardTrainingSAEConfig",
        "TopKTrainingSAEConfig",
        "TranscoderTrainingConfig",
    ],
    ".publish": ["CheckpointPublisher"],
    ".results": ["RunObserver", "RunStatus"],
    ".runner": ["MultiSAETrainingRunner", "SAETrainingRunner"],
    ".trainer": ["SAETrainer"],
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOMES)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    # `saekit train --help` should not wait for torch and transformers.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
