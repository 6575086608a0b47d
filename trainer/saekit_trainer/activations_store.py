"""`ActivationsStore`: a language model's activations at hook points, in random order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from saekit_core.lm.bridged import BridgedModel, TappedModel, as_tapped
from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.placing import bind_sae
from saekit_core.sae.sae import SAE
from saekit_trainer.cache.cache import ActivationCache
from saekit_trainer.cache.rows import CachedRows
from saekit_trainer.context_stream import ContextStream
from saekit_trainer.contexts import ContextFormat, ContextSource, Separator, open_contexts
from saekit_trainer.distributed.ranks import ALONE, Ranks
from saekit_trainer.errors import ConfigError, DatasetError
from saekit_trainer.hook_activations import HookActivations
from saekit_trainer.live_rows import LiveRows
from saekit_trainer.mixed_rows import MixedRows
from saekit_trainer.run_config import RunConfig
from saekit_trainer.store_config import StoreConfig, usable_device
from saekit_trainer.training_source import training_source

__all__ = ["ActivationsStore", "StoreConfig"]

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
    """

    def __init__(
        self,
        model: TappedModel,
        hook: HookPoint | Sequence[HookPoint],
        source: ContextSource,
        config: StoreConfig,
        *,
        read: Callable[[HookPoint, Tensor], Tensor] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """
        Args:
            hook: one place to read, or several, whose activations then lie side by side.
            source: an `ActivationCache` is also where `next_batch` takes the activations from.
            read: what is stored, ``[prompts, context, d_in]``, of the activations ``[prompts,
                context, *hook.shape]`` at a hook point; None: all of them, heads flattened.
            ranks: have a store each, of the same contexts, and ask it for the same things: each
                runs the model on a part of the contexts, and has all activations.
        """
        self.model = model
        self.hooks = (hook,) if isinstance(hook, HookPoint) else tuple(hook)
        self.hook = self.hooks[0]
        self.source = source
        self.config = config
        self._ranks = ranks
        self._activations = HookActivations(
            model,
            self.hooks,
            read=read,
            seqpos_slice=config.seqpos_slice,
            exclude=config.exclude_special_tokens,
            device=config.device,
            autocast=config.autocast,
        )
        self._rows = self._training_rows()
        self._held_out: Tensor | None = None

    @classmethod
    def from_config(
        cls,
        model: LanguageModel,
        cfg: RunConfig,
        hook: HookPoint | Sequence[HookPoint],
        dataset: Any = None,
        ranks: Ranks = ALONE,
    ) -> ActivationsStore:
        """The store of a training run; `dataset` (see `open_contexts`) overrides the config's.

        Raises:
            CacheError: the cached activations do not fit the run.
            ConfigError: there are two sources, or none that begins without BOS.
            DatasetError: the data set cannot be opened.
        """
        hooks = (hook,) if isinstance(hook, HookPoint) else tuple(hook)
        config = StoreConfig.of_run(cfg, model.device)
        return cls(model, hooks, training_source(model, cfg, hooks, dataset), config, ranks=ranks)

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
        return torch.from_numpy(self._rows.take_contexts(n)).to(self.model.device)

    def get_activations(self, tokens: Tensor) -> Tensor:
        """The model's activations, ``[prompts, positions, d_in]``.

        Heads are flattened, or there is the one that is read; the positions are those of
        `seqpos_slice`, all of the context by default. Those of several hook points lie side by
        side, in the order of `hooks`; see `columns`.

        Args:
            tokens: int64 ``[prompts, context]``.
        """
        return self._activations.of(tokens)

    def columns(self, hook: HookPoint) -> slice:
        """Where the activations of one of `hooks` lie in the last axis."""
        start = sum(other.d for other in self.hooks[: self.hooks.index(hook)])
        return slice(start, start + hook.d)

    def next_batch(self, batches_left: int | None = None) -> Tensor:
        """Activations ``[train_batch_size_tokens, d_in]`` of tokens from many contexts.

        Which ones, and their order, is determined by the source and the seed.

        Args:
            batches_left: how many will be asked for, this one included. The model then computes no
                more than those need, and the buffer is empty at the end. None: without end.
        """
        n = self.config.train_batch_size_tokens
        return self._rows.next_batch(n, None if batches_left is None else batches_left * n)

    @property
    def cached_dataset(self) -> str | None:
        """The data set that activations on disk are of; None without, or of the model's text."""
        rows = self._rows
        return rows.cache.index.origin.dataset if isinstance(rows, CachedRows) else None

    @property
    def passes(self) -> int:
        """How often the source has been begun."""
        return self._rows.passes

    @property
    def skipped_samples(self) -> int:
        """Broken samples left out so far, of all passes."""
        return self._rows.skipped_samples

    def state_dict(self) -> dict[str, Any]:
        """Everything that determines the batches to come.

        Returns:
            ``position``, JSON values, and ``buffer``, tensors by name, which are the store's own:
            write them down, or copy them, before the next batch.
        """
        return self._rows.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the `state_dict` of a store of the same configuration, with the same batches.

        Raises:
            DatasetError: it is of another data set.
            ValueError: it is of a buffer of another shape.
        """
        self._rows.load_state_dict(state)

    def close(self) -> None:
        """End the thread that runs the model ahead, if there is one; a next batch begins anew."""
        self._rows.close()

    def _training_rows(self) -> MixedRows | CachedRows:
        config = self.config
        if isinstance(self.source, ActivationCache) and self._activations.read is None:
            tokenizer = self.model.tokenizer
            return CachedRows(self.source, self.hooks, tokenizer, config, self.device)
        contexts = ContextStream(
            self.source, held_out=config.eval_contexts, expected_tokens=config.expected_tokens
        )
        live = LiveRows(
            contexts,
            self._activations.rows,
            n_prompts=config.store_batch_size_prompts,
            ahead=config.prefetch,
            ranks=self._ranks,
        )
        return MixedRows(live, config, self.device)

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
