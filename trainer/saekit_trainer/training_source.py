"""Where a training run's contexts, and perhaps its activations, come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.model import LanguageModel
from saekit_trainer.cache.cache import ActivationCache
from saekit_trainer.contexts import ContextFormat, ContextSource, open_contexts
from saekit_trainer.errors import ConfigError
from saekit_trainer.run_config import RunConfig
from saekit_trainer.self_text import SelfTextContexts


def training_source(
    model: LanguageModel,
    cfg: RunConfig,
    hooks: Sequence[HookPoint],
    dataset: Any = None,
) -> ContextSource:
    """The source of a run: its cached activations, its data set, or text that the model writes.

    Args:
        dataset: overrides that of `cfg`; see `open_contexts`.

    Raises:
        CacheError: the cached activations do not fit the run.
        ConfigError: there are two sources, or none that begins without BOS.
        DatasetError: the data set cannot be opened.
    """
    if cfg.use_cached_activations:
        return _cache(model, cfg, hooks, dataset)
    chosen = cfg.dataset_path if dataset is None else dataset
    if chosen is not None:
        return open_contexts(
            chosen,
            model.tokenizer,
            ContextFormat(
                cfg.context_size,
                cfg.prepend_bos,
                cfg.sequence_separator_token,
                not cfg.disable_concat_sequences,
            ),
            split=cfg.dataset_split,
            streaming=cfg.streaming,
            column=cfg.dataset_column,
            on_broken=cfg.on_broken_sample,
        )
    if not cfg.prepend_bos:
        raise ConfigError(
            "prepend_bos: the model's own text begins with BOS; give a data set",
            field="prepend_bos",
        )
    return SelfTextContexts(
        model,
        cfg.context_size,
        cfg.self_text_tokens,
        cfg.self_text_temperature,
        cfg.seed,
        max_seconds=None if cfg.max_seconds is None else cfg.max_seconds / 5,
        min_contexts=2 * cfg.eval_contexts,
    )


def _cache(
    model: LanguageModel,
    cfg: RunConfig,
    hooks: Sequence[HookPoint],
    dataset: Any,
) -> ActivationCache:
    assert cfg.cached_activations_path is not None
    if dataset is not None:
        raise ConfigError(
            "use_cached_activations: the cache is of a data set of its own; give no other",
            field="use_cached_activations",
        )
    cache = ActivationCache(cfg.cached_activations_path)
    cache.check_fits(
        model,
        hooks,
        context_size=cfg.context_size,
        prepend_bos=cfg.prepend_bos,
        dataset=cfg.dataset_path,
    )
    return cache
