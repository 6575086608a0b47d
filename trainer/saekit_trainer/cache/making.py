"""`CacheActivationsRunner`: a model's activations over a data set, put on disk."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_trainer.cache.config import CacheActivationsRunnerConfig
from saekit_trainer.cache.index import CachedHook, CacheIndex, CacheOrigin
from saekit_trainer.cache.writer import CacheWriter
from saekit_trainer.context_stream import ContextStream
from saekit_trainer.contexts import ContextFormat, ContextSource, open_contexts
from saekit_trainer.errors import ConfigError, DatasetError
from saekit_trainer.hook_activations import HookActivations
from saekit_trainer.self_text import SelfTextContexts


class CacheActivationsRunner:
    """Runs the model over the data set, once, and writes what the hook points see.

    Attributes:
        cfg: what was asked for.
        model: the language model.
        origin: what the activations are of.
    """

    def __init__(
        self,
        cfg: CacheActivationsRunnerConfig,
        override_dataset: Any = None,
        override_model: LanguageModel | None = None,
        *,
        show: Callable[[int, int], None] | None = None,
    ) -> None:
        """
        Args:
            cfg: what to cache.
            override_dataset: a data set (see `open_contexts`), instead of cfg's.
            override_model: a booted model, instead of the one that `cfg` names.
            show: is told how many tokens there are, and of how many.

        Raises:
            ConfigError: `cfg` does not fit the model.
            DatasetError: the data set cannot be opened.
            LMError: the model cannot be booted, or has no such hook point.
        """
        self.cfg = cfg
        self.model = override_model or boot_model(cfg.model_name, device=cfg.device)
        names = cfg.hook_name or (f"blocks.{self.model.n_layers // 2}.hook_resid_pre",)
        hooks = tuple({self.model.hook_point(name): None for name in names})
        for hook in hooks:
            if not hook.d:
                raise ConfigError(
                    f"hook_name: {hook.name} has no activations per position", field="hook_name"
                )
        if cfg.context_size > self.model.max_context:
            raise ConfigError(
                f"context_size: {cfg.context_size} is beyond the model's {self.model.max_context}",
                field="context_size",
            )
        self._hooks = hooks
        self._source = self._open(override_dataset)
        self._show = show
        given = cfg.dataset_path if override_dataset is None else "(given in Python)"
        self.origin = CacheOrigin(
            model_name=self.model.name,
            model_revision=self.model.revision,
            hooks=tuple(CachedHook(hook.name, hook.canonical, hook.d) for hook in hooks),
            dataset=given,
            dataset_split=cfg.dataset_split,
            dataset_column=cfg.dataset_column,
            context_size=cfg.context_size,
            prepend_bos=cfg.prepend_bos,
            sequence_separator_token=cfg.sequence_separator_token,
            disable_concat_sequences=cfg.disable_concat_sequences,
            autocast_lm=cfg.autocast_lm,
            batch_size_prompts=cfg.model_batch_size,
            dtype=cfg.dtype,
            seed=cfg.seed,
        )

    def run(self) -> CacheIndex:
        """Cache what is not cached yet.

        Returns:
            What the folder holds then.

        Raises:
            CacheError: the folder holds something else, or cannot be written; what is in it stays
                usable.
            DatasetError: a sample is broken.
        """
        writer = CacheWriter(Path(self.cfg.new_cached_activations_path), self.origin)
        stream = ContextStream(self._source, once=True)
        if writer.index.position is not None:
            stream.expect({"identity": self._source.identity, "memory": writer.index.memory})
            stream.go_to(writer.index.position)
        wanted = self.cfg.training_tokens // self.cfg.context_size
        self._warn_of_space(wanted - writer.contexts)
        read = HookActivations(self.model, self._hooks, autocast=self.cfg.autocast_lm)
        behind = stream.position()
        try:
            while writer.contexts < wanted:
                self._report(writer.contexts, wanted)
                n = min(self.cfg.model_batch_size, writer.room, wanted - writer.contexts)
                tokens = torch.from_numpy(stream.take(n))
                if not len(tokens):
                    break
                found = read.by_hook(tokens.to(self.model.device))
                writer.add(tokens, {hook.name: found[hook] for hook in self._hooks})
                behind = stream.position()
                if not writer.room:
                    writer.write_shard(behind, stream.origin()["memory"])
        except (KeyboardInterrupt, DatasetError):  # what was computed until then is good
            writer.write_shard(behind, stream.origin()["memory"])
            raise
        writer.write_shard(behind, stream.origin()["memory"])
        self._report(writer.contexts, wanted)
        return writer.index

    def _report(self, done: int, wanted: int) -> None:
        if self._show is not None:
            self._show(done * self.cfg.context_size, wanted * self.cfg.context_size)

    def _open(self, dataset: Any) -> ContextSource:
        cfg = self.cfg
        chosen = cfg.dataset_path if dataset is None else dataset
        if chosen is not None:
            return open_contexts(
                chosen,
                self.model.tokenizer,
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
            self.model, cfg.context_size, cfg.training_tokens, temperature=1.0, seed=cfg.seed
        )

    def _warn_of_space(self, contexts: int) -> None:
        per_token = sum(hook.d for hook in self._hooks) * getattr(torch, self.cfg.dtype).itemsize
        needed = contexts * self.cfg.context_size * (per_token + 4)
        free = shutil.disk_usage(self.cfg.new_cached_activations_path).free
        if needed > free:
            warnings.warn(
                f"the cache will take another {needed / 1e6:,.0f} MB, but the disk has only "
                f"{free / 1e6:,.0f} MB free",
                stacklevel=3,
            )
