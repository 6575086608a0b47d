"""`ActivationsStore`: a language model's activations at hook points, in random order."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from saekit_core.lm.bridged import BridgedModel, TappedModel, as_tapped
from saekit_core.lm.hook_points import HookPoint, Tap
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.placing import bind_sae
from saekit_core.sae.sae import SAE
from saekit_trainer.contexts import ContextFormat, ContextSource, Separator, open_contexts
from saekit_trainer.errors import ConfigError, DatasetError
from saekit_trainer.mixing_buffer import MixingBuffer
from saekit_trainer.run_config import RunConfig
from saekit_trainer.self_text import SelfTextContexts
from saekit_trainer.special_tokens import left_out
from saekit_trainer.store_config import StoreConfig, usable_device

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


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
        model: TappedModel,
        hook: HookPoint | Sequence[HookPoint],
        source: ContextSource,
        config: StoreConfig,
        *,
        read: Callable[[HookPoint, Tensor], Tensor] | None = None,
    ) -> None:
        """
        Args:
            hook: one place to read, or several, whose activations then lie side by side.
            read: what is stored, ``[prompts, context, d_in]``, of the activations ``[prompts,
                context, *hook.shape]`` at a hook point; None: all of them, heads flattened.
        """
        self.model = model
        self._read = read or (lambda _, h: h.flatten(2))
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
        model: LanguageModel | BridgedModel | TransformerBridge,
        sae: SAE,
        dataset: Any = None,
        *,
        dataset_trust_remote_code: bool | None = None,
        context_size: int | None = None,
        streaming: bool = True,
        store_batch_size_prompts: int = 8,
        n_batches_in_buffer: int = 8,
        train_batch_size_tokens: int = 4096,
        total_tokens: int | None = None,
        device: str | torch.device | None = None,
        disable_concat_sequences: bool = False,
        sequence_separator_token: Separator = "bos",
        split: str = "train",
        seed: int = 42,
    ) -> ActivationsStore:
        """A store of the activations that `sae` reads; those a transcoder encodes.

        What the SAE's metadata say of its training is kept to: hook point and head, positions
        (seqpos_slice), tokens left out (exclude_special_tokens), BOS.

        Args:
            model: a `LanguageModel`, or any TransformerBridge (a HookedSAETransformer).
            sae: its metadata name the hook point, the data set and the context.
            dataset: another data set (see `open_contexts`).
            dataset_trust_remote_code: refused if True: data sets are read, never run.
            context_size: another length of contexts; 128 where neither says.
            streaming, split: how a named Hugging Face data set is opened.
            store_batch_size_prompts, n_batches_in_buffer, train_batch_size_tokens, seed: as in
                `StoreConfig`.
            total_tokens: tokens that are going to be read; warns if the data set has fewer.
            device: where the activations go, if not to the model's device.
            disable_concat_sequences: give each document that is long enough one context, and
                leave out the others.
            sequence_separator_token: what stands between documents of text that share a context.

        Raises:
            DatasetError: no data set is given or recorded, or it cannot be opened.
            ConfigError: a value cannot be used.
            LMError: the SAE names no hook point, or does not fit the model there.
        """
        if dataset_trust_remote_code:
            raise ConfigError(
                "dataset_trust_remote_code: code that comes with a data set is never run; load it "
                "yourself and pass the rows as dataset",
                field="dataset_trust_remote_code",
            )
        metadata = sae.cfg.metadata
        tapped = as_tapped(model)
        bound = bind_sae(tapped, sae)
        chosen = metadata.dataset_path if dataset is None else dataset
        if chosen is None:
            raise DatasetError("dataset: none given, and the SAE records none", field="dataset")
        prepend_bos = metadata.prepend_bos
        if prepend_bos is None:
            prepend_bos = tapped.tokenizer.default_prepend_bos
        size = context_size or metadata.context_size or 128
        if not 2 <= size <= tapped.max_context:
            raise ConfigError(
                f"context_size: {size} is not in 2..{tapped.max_context}", field="context_size"
            )
        format_ = ContextFormat(
            size, prepend_bos, sequence_separator_token, not disable_concat_sequences
        )
        config = StoreConfig(
            store_batch_size_prompts=store_batch_size_prompts,
            train_batch_size_tokens=train_batch_size_tokens,
            n_batches_in_buffer=n_batches_in_buffer,
            exclude_special_tokens=metadata.exclude_special_tokens or False,
            seqpos_slice=metadata.seqpos_slice or (None,),
            dtype=sae.dtype,
            device=None if device is None else usable_device(device),
            expected_tokens=total_tokens,
            seed=seed,
        )
        return cls(
            tapped,
            bound.hook,
            open_contexts(chosen, tapped.tokenizer, format_, split=split, streaming=streaming),
            config,
            read=lambda _, h: bound.x_of(h.flatten(2)),
        )

    @property
    def device(self) -> torch.device:
        """Where the activations are."""
        return self.config.device or self.model.device

    def get_batch_tokens(self, batch_size: int | None = None) -> Tensor:
        """The next contexts: int64 ``[prompts, context]``, `store_batch_size_prompts` of them
        unless told otherwise, on the model's device.

        Raises:
            DatasetError: the data set has no context that is not held out.
        """
        n = batch_size or self.config.store_batch_size_prompts
        rows = list(itertools.islice(self._contexts, n))
        return torch.from_numpy(np.stack(rows)).to(self.model.device)

    def get_activations(self, tokens: Tensor) -> Tensor:
        """The model's activations at the hook point, ``[prompts, positions, d_in]``.

        Heads are flattened, or there is the one that is read; the positions are those of
        `seqpos_slice`, all of the context by default.

        Those of several hook points lie side by side, in the order of `hooks`; see `columns`.

        Args:
            tokens: int64 ``[prompts, context]``.
        """
        positions = slice(*self.config.seqpos_slice)
        seen: dict[HookPoint, Tensor] = {}

        def reader(hook: HookPoint) -> Tap:
            def read(h: Tensor) -> None:
                seen[hook] = self._read(hook, h[:, positions]).to(self.device)

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

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        return self.next_batch()

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

    def _endless_contexts(self) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
        read = 0
        while True:
            self.passes += 1
            if self.passes > 1:
                self._warn_of_end(read)
            seen = False
            for context in itertools.islice(
                self.source.contexts(), self.config.eval_contexts, None
            ):
                seen = True
                read += len(context)
                yield context
            if not seen:
                raise DatasetError(
                    f"dataset_path: the data set has no context beyond the "
                    f"{self.config.eval_contexts} that are kept for evaluation",
                    field="dataset_path",
                )

    def _warn_of_end(self, read: int) -> None:
        expected = self.config.expected_tokens
        if self.passes == 2 and expected is not None and read < expected:
            warnings.warn(
                f"the data set ended after {read:,} tokens, of {expected:,} expected; it is read "
                "again from its beginning",
                stacklevel=2,
            )

    def _new_buffer(self) -> MixingBuffer:
        first = self.get_batch_tokens()
        positions = first[:, slice(*self.config.seqpos_slice)]
        rows = self._activation_rows(first)
        chunk = next(rows)
        return MixingBuffer(
            itertools.chain([chunk], rows),
            capacity=max(
                self.config.n_batches_in_buffer * positions.numel(),
                2 * self.config.train_batch_size_tokens,
            ),
            d_in=chunk.shape[1],
            dtype=self.config.dtype,
            device=self.device,
            seed=self.config.seed,
        )

    def _activation_rows(self, first: Tensor) -> Iterator[Tensor]:
        exclude, tokens = self.config.exclude_special_tokens, first
        while True:
            rows = self.get_activations(tokens).flatten(0, 1)
            if exclude:
                read = tokens[:, slice(*self.config.seqpos_slice)].flatten().to(rows.device)
                rows = rows[~left_out(self.model.tokenizer, read, exclude)]
            yield rows
            tokens = self.get_batch_tokens()
