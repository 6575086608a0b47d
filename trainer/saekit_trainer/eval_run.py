"""What `saekit eval` does: an SAE, its model and some text, measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saekit_core.assets import default_model_dir, default_sae_root
from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_core.sae import SAE, SAENotFoundError, parse_spec, read_sae_folder, resolve_spec
from saekit_trainer.activations_store import ActivationsStore
from saekit_trainer.errors import ConfigError, DatasetError
from saekit_trainer.eval_options import EvalOptions
from saekit_trainer.evaluation import ReconstructionFigures, evaluate, evaluate_reconstruction
from saekit_trainer.self_text import SelfTextContexts


@dataclass(frozen=True)
class EvalReport:
    """Figures, and what they are of."""

    sae: SAE
    model: LanguageModel
    tokens: Tensor
    """int64 ``[contexts, context_size]``."""
    figures: ReconstructionFigures
    """An `Evaluation`, unless only the reconstruction was asked for."""

    def to_dict(self, *, density: bool = False) -> dict[str, Any]:
        """Everything as JSON values; None for a figure that has no value.

        Args:
            density: that of every feature as well.
        """
        figures: dict[str, Any] = {
            name: None if math.isnan(value) else value
            for name, value in self.figures.to_dict().items()
        }
        if density:
            figures["density"] = self.figures.density.tolist()
        cfg = self.sae.cfg
        return {
            "model": self.model.name,
            "hook_name": cfg.hook_name,
            "hook_name_out": cfg.metadata.hook_name_out,
            "architecture": cfg.architecture,
            "d_sae": cfg.d_sae,
            "contexts": self.tokens.shape[0],
            "context_size": self.tokens.shape[1],
            **figures,
        }


def run_evaluation(options: EvalOptions, show: Callable[[int, int], None]) -> EvalReport:
    """Measure what `options` ask for.

    Args:
        show: is told how many contexts have been done, and of how many.

    Raises:
        SAEError, LMError, TrainerError: something is missing, broken, or does not fit.
    """
    sae = load_sae(options.sae)
    model = boot_model(_model_name(options, sae), device=options.device, dtype=options.dtype)
    sae = sae.to(model.device)
    tokens = contexts_of(options, model, sae)
    done = 0

    def progress(n: int) -> None:
        nonlocal done
        done += n
        show(done, len(tokens))

    show(0, len(tokens))
    measure = evaluate_reconstruction if options.reconstruction_only else evaluate
    figures = measure(
        model,
        sae,
        tokens,
        batch_size_prompts=options.batch_size_prompts,
        exclude_special_tokens=not options.special_tokens,
        progress=progress,
    )
    return EvalReport(sae, model, tokens, figures)


def load_sae(source: str) -> SAE:
    """The SAE of a folder or file, of a spec (`saekit_core.sae.specs`), or of the embedded model.

    Raises:
        SAENotFoundError: nothing is there, or the network is needed and missing.
        SAEFormatError: what is there is broken.
    """
    if Path(source).exists():
        return read_sae_folder(source)
    spec = parse_spec(source)
    try:
        _, path, origin = resolve_spec(spec, default_sae_root())
    except SAENotFoundError as error:
        if spec.kind != "file":
            raise
        raise SAENotFoundError(
            f"sae: {source} is neither a folder nor an SAE of the embedded model ({error})",
            field="sae",
        ) from None
    return read_sae_folder(path, origin=origin)


def contexts_of(options: EvalOptions, model: LanguageModel, sae: SAE) -> Tensor:
    """The contexts to measure on: int64 ``[contexts, context_size]``, fewer if there are fewer.

    Raises:
        DatasetError: there is no data set, or not one context in it.
    """
    size = options.context_size or sae.cfg.context_size or 128
    dataset: Any = options.dataset
    if options.self_text:
        dataset = SelfTextContexts(
            model, size, options.contexts * size, temperature=1.0, seed=options.seed
        )
    try:
        store = ActivationsStore.from_sae(
            model, sae, dataset, context_size=size, split=options.split
        )
    except DatasetError as error:
        if dataset is None:
            hint = "give --dataset FILE, or --self-text for text that the model writes"
            raise DatasetError(f"{error}; {hint}", field=error.field) from error
        raise
    rows = list(itertools.islice(store.source.contexts(), options.contexts))
    if not rows:
        raise DatasetError(f"dataset: not one context of {size} tokens", field="dataset")
    return torch.from_numpy(np.stack(rows))


def _model_name(options: EvalOptions, sae: SAE) -> str | None:
    name = options.model or sae.cfg.model_name
    if name is None:
        raise ConfigError("model: give one, as the SAE's metadata name none", field="model")
    return None if name == default_model_dir().name else name
