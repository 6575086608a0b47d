"""Whether an SAE fits the model that this server runs, and where in it."""

from __future__ import annotations

from saekit_core.lm.errors import LMError
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.placing import SAEPlace, find_place
from saekit_core.lm.processing import ProcessingError
from saekit_core.sae import SAEConfig
from saekit_server.errors import precondition


def fit(cfg: SAEConfig, model: LanguageModel) -> SAEPlace:
    """The place of an SAE in `model`, whose weights are as they are.

    Raises:
        DomainError: FAILED_PRECONDITION, if its metadata names no hook point of the model, or was
            trained on a model whose activations there cannot be had from this one.
    """
    try:
        return find_place(cfg, model)
    except ProcessingError as error:
        raise precondition(
            f"cfg.json: metadata.model_from_pretrained_kwargs: {error}; this server runs the "
            "model's weights as they are"
        ) from error
    except LMError as error:
        raise precondition(f"cfg.json: {error} (in {model.name})") from error
