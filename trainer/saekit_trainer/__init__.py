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
    from saekit_trainer.evaluation import Evaluation as Evaluation
    from saekit_trainer.evaluation import ReconstructionFigures as ReconstructionFigures
    from saekit_trainer.evaluation import evaluate as evaluate
    from saekit_trainer.evaluation import evaluate_reconstruction as evaluate_reconstruction
    from saekit_trainer.runner import SAETrainingRunner as SAETrainingRunner
    from saekit_trainer.trainer import SAETrainer as SAETrainer

__all__ = [
    "ActivationsStore",
    "CacheActivationsRunner",
    "CacheActivationsRunnerConfig",
    "Evaluation",
    "LanguageModelSAERunnerConfig",
    "ReconstructionFigures",
    "SAETrainer",
    "SAETrainingRunner",
    "evaluate",
    "evaluate_reconstruction",
    "upload_saes_to_huggingface",
]

_HOMES = {
    "ActivationsStore": ".activations_store",
    "CacheActivationsRunner": ".cache.making",
    "CacheActivationsRunnerConfig": ".cache.config",
    "Evaluation": ".evaluation",
    "LanguageModelSAERunnerConfig": ".config",
    "ReconstructionFigures": ".evaluation",
    "SAETrainer": ".trainer",
    "SAETrainingRunner": ".runner",
    "evaluate": ".evaluation",
    "evaluate_reconstruction": ".evaluation",
    "upload_saes_to_huggingface": "saekit_core.sae.upload",
}


def __getattr__(name: str) -> Any:
    # `saekit train --help` should not wait for torch and transformers.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
