"""`ActivationsStore`: a language model's activations at hook points, in random order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saekit_core.lm.hook_points import HookPoint, Tap
from saekit_core.lm.model import LanguageModel
from saekit_core.sae.sae import SAE
from saekit_trainer.contexts import ContextFormat, ContextSource, open_contexts
from saekit_trainer.errors import ConfigError, DatasetError
from saekit_trainer.mixing_buffer import MixingBuffer
from saekit_trainer.run_config import RunConfig
from saekit_trainer.self_text import SelfTextContexts


@dataclass(frozen=True)
class StoreConfig:
    """Sizes of an `ActivationsStore`."""

    store_batch_size_prompts: int = 8
    """Contexts per run of the model."""
    train_batch_size_tokens: int = 4096
    """Activations per `next_batch`."""
    n_batches_in_buffer: int = 8
    """Runs of the model that the mixing buffer holds, two training batches at least."""
    eval_contexts: int = 0
    """First contexts of each pass, which `held_out_tokens` has and training never sees."""
    exclude_special_tokens: bool = False
    """Whether `next_batch` leaves out activations at special tokens."""
    dtype: torch.dtype = torch.float32
    """Of the buffer."""
    autocast: bool = False
    """Whether the model's matrix products are done in bfloat16."""
    seed: int = 42


class ActivationsStore:
    """Runs the model over contexts and hands out its activations.

    Attributes:
        model: the language model.
        hook: where the activations are read, or the first such place.
        hooks: all of them; the model stops at the deepest.
        source: where the tokens come from; read again from its start when it ends.
        config: sizes.
        passes: how often the source has been begun.
    """

    def __init__(
        self,
        model: LanguageModel,
        hook: HookPoint | Sequence[HookPoint],
        source: ContextSource,
        config: StoreConfig,
    ) -> None:
        """
        Args:
            hook: one place to read, or several, whose activations then lie side by side.
        """
        self.model = model
        self.hooks = (hook,) if isinstance(hook, HookPoint) else tuple(hook)
        self.hook = self.hooks[0]
        self.source = source
        self.config = config
        self.passes = 0
        self._contexts = self._endless_contexts()
        self._held_out: Tensor | None = None
        self._buffer: MixingBuffer | None = None

    @classmethod
    def from_config(
        cls,
        model: LanguageModel,
        cfg: RunConfig,
        hook: HookPoint | Sequence[HookPoint],
        dataset: Any = None,
    ) -> ActivationsStore:
        """The store of a training run; `dataset` (see `open_contexts`) overrides the config's.

        Raises:
            DatasetError: the data set cannot be opened.
        """
        format_ = ContextFormat(cfg.context_size, cfg.prepend_bos)
        chosen = cfg.dataset_path if dataset is None else dataset
        if chosen is None:
            if not cfg.prepend_bos:
                raise ConfigError(
                    "prepend_bos: the model's own text begins with BOS; give a data set",
                    field="prepend_bos",
                )
            source: ContextSource = SelfTextContexts(
                model,
                cfg.context_size,
                cfg.self_text_tokens,
                cfg.self_text_temperature,
                cfg.seed,
                max_seconds=None if cfg.max_seconds is None else cfg.max_seconds / 5,
                min_contexts=2 * cfg.eval_contexts,
            )
        else:
            source = open_contexts(
                chosen,
                model.tokenizer,
                format_,
                split=cfg.dataset_split,
                streaming=cfg.streaming,
            )
        config = StoreConfig(
            store_batch_size_prompts=cfg.store_batch_size_prompts,
            train_batch_size_tokens=cfg.train_batch_size_tokens,
            n_batches_in_buffer=cfg.n_batches_in_buffer,
            eval_contexts=cfg.eval_contexts,
            exclude_special_tokens=cfg.exclude_special_tokens,
            dtype=getattr(torch, cfg.dtype),
            autocast=cfg.autocast_lm,
            seed=cfg.seed,
        )
        return cls(model, hook, source, config)

    @classmethod
    def from_sae(
        cls,
        model: LanguageModel,
        sae: SAE,
        dataset: Any = None,
        *,
        context_size: int | None = None,
        streaming: bool = True,
        store_batch_size_prompts: int = 8,
        train_batch_size_tokens: int = 4096,
        n_batches_in_buffer: int = 8,
        device: str | torch.device | None = None,
        seed: int = 42,
    ) -> ActivationsStore:
        """A store of the activations that `sae` reads.

        Args:
            model: the model of the SAE.
            sae: its metadata name the hook point, the data set and the context.
            dataset: another data set (see `open_contexts`).
            context_size: another length of contexts; 128 where neither says.
            streaming: whether a named Hugging Face data set is streamed.
            store_batch_size_prompts, train_batch_size_tokens, n_batches_in_buffer, seed: as in
                `StoreConfig`.
            device: only checked: activations stay on the model's device.

        Raises:
            DatasetError: no data set is given or recorded, or it cannot be opened.
            ConfigError: the SAE names no hook point, or `device` is not the model's.
        """
        metadata = sae.cfg.metadata
        if metadata.hook_name is None:
            raise ConfigError("sae: its metadata name no hook point", field="hook_name")
        if device is not None and torch.device(device).type != model.device.type:
            raise ConfigError(
                f"device: {device}, but the model is on {model.device}", field="device"
            )
        chosen = metadata.dataset_path if dataset is None else dataset
        if chosen is None:
            raise DatasetError("dataset: none given, and the SAE records none", field="dataset")
        prepend_bos = metadata.prepend_bos
        if prepend_bos is None:
            prepend_bos = model.tokenizer.default_prepend_bos
        size = context_size or metadata.context_size or 128
        source = open_contexts(
            chosen, model.tokenizer, ContextFormat(size, prepend_bos), streaming=streaming
        )
        config = StoreConfig(
            store_batch_size_prompts=store_batch_size_prompts,
            train_batch_size_tokens=train_batch_size_tokens,
            n_batches_in_buffer=n_batches_in_buffer,
            exclude_special_tokens=bool(metadata.exclude_special_tokens),
            dtype=sae.dtype,
            seed=seed,
        )
        return cls(model, model.hook_point(metadata.hook_name), source, config)

    def get_batch_tokens(self, n_prompts: int | None = None) -> Tensor:
        """The next contexts: int64 ``[n_prompts, context]``, `store_batch_size_prompts` of them
        unless told otherwise, on the model's device.

        Raises:
            DatasetError: the data set has no context that is not held out.
        """
        n = n_prompts or self.config.store_batch_size_prompts
        rows = list(itertools.islice(self._contexts, n))
        return torch.from_numpy(np.stack(rows)).to(self.model.device)

    def get_activations(self, tokens: Tensor) -> Tensor:
        """The model's activations at the hook point, ``[prompts, context, d_in]``, heads flattened.

        Those of several hook points lie side by side, in the order of `hooks`; see `columns`.

        Args:
            tokens: int64 ``[prompts, context]``.
        """
        seen: dict[HookPoint, Tensor] = {}

        def reader(hook: HookPoint) -> Tap:
            def read(h: Tensor) -> None:
                seen[hook] = h.flatten(2)

            return read

        with torch.autocast(
            self.model.device.type, dtype=torch.bfloat16, enabled=self.config.autocast
        ):
            self.model.forward(tokens, taps={hook: reader(hook) for hook in self.hooks})
        if len(self.hooks) == 1:
            return seen[self.hook]
        return torch.cat([seen[hook] for hook in self.hooks], dim=2)

    def columns(self, hook: HookPoint) -> slice:
        """Where the activations of one of `hooks` lie in the last axis."""
        start = sum(other.d for other in self.hooks[: self.hooks.index(hook)])
        return slice(start, start + hook.d)

    def next_batch(self) -> Tensor:
        """Activations ``[train_batch_size_tokens, d_in]`` of tokens from many contexts.

        Which ones, and their order, is determined by the source and the seed.
        """
        if self._buffer is None:
            self._buffer = self._new_buffer()
        return self._buffer.next_batch(self.config.train_batch_size_tokens)

    def held_out_tokens(self) -> Tensor:
        """The contexts kept out of training: int64 ``[eval_contexts, context]``.

        Raises:
            DatasetError: the data set has fewer.
        """
        if self._held_out is None:
            rows = list(itertools.islice(self.source.contexts(), self.config.eval_contexts))
            if len(rows) < self.config.eval_contexts:
                raise DatasetError(
                    f"eval_contexts: {self.config.eval_contexts}, but the data set has only "
                    f"{len(rows)} contexts",
                    field="eval_contexts",
                )
            self._held_out = torch.from_numpy(np.stack(rows)).to(self.model.device)
        return self._held_out

    def special(self, tokens: Tensor) -> Tensor:
        """Which tokens are special ones, bool of the shape of `tokens`."""
        flat = self.model.tokenizer.is_special(tokens.flatten().cpu().numpy())
        return torch.from_numpy(flat).view(tokens.shape).to(tokens.device)

    def _endless_contexts(self) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
        while True:
            self.passes += 1
            seen = False
            for context in itertools.islice(
                self.source.contexts(), self.config.eval_contexts, None
            ):
                seen = True
                yield context
            if not seen:
                raise DatasetError(
                    f"dataset_path: the data set has no context beyond the "
                    f"{self.config.eval_contexts} that are kept for evaluation",
                    field="dataset_path",
                )

    def _new_buffer(self) -> MixingBuffer:
        first = self.get_batch_tokens()
        wanted = self.config.n_batches_in_buffer * first.numel()
        return MixingBuffer(
            self._activation_rows(first),
            capacity=max(wanted, 2 * self.config.train_batch_size_tokens),
            d_in=sum(hook.d for hook in self.hooks),
            dtype=self.config.dtype,
            device=self.model.device,
            seed=self.config.seed,
        )

    def _activation_rows(self, first: Tensor) -> Iterator[Tensor]:
        tokens = first
        while True:
            rows = self.get_activations(tokens).flatten(0, 1)
            if self.config.exclude_special_tokens:
                rows = rows[~self.special(tokens).flatten()]
            yield rows
            tokens = self.get_batch_tokens()
