"""Sizes of an `ActivationsStore`, and where its activations go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from saekit_trainer.errors import ConfigError
from saekit_trainer.run_config import RunConfig


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
    exclude_special_tokens: bool | Sequence[int] = False
    """Tokens at which `next_batch` leaves out activations: True for all special ones, or ids."""
    seqpos_slice: tuple[int | None, ...] = (None,)
    """The positions of a context whose activations are read, as the arguments of ``slice``."""
    device: torch.device | None = None
    """Where the activations go; None: the model's."""
    expected_tokens: int | None = None
    """Warn if the data set has fewer, at its end."""
    prefetch: int = 0
    """Runs of the model that a thread of its own does ahead of the batches that need them."""
    dtype: torch.dtype = torch.float32
    """Of the buffer."""
    autocast: bool = False
    """Whether the model's matrix products are done in bfloat16."""
    seed: int = 42

    @classmethod
    def of_run(cls, cfg: RunConfig, model_device: torch.device) -> StoreConfig:
        """What a training run asks for, behind a model on `model_device`."""
        ahead = cfg.prefetch_llm_batches
        if ahead is None:
            # Beside training steps on the same cores, both take longer than one after the other. A
            # disk is read meanwhile.
            ahead = model_device.type != "cpu" or cfg.use_cached_activations
        return cls(
            store_batch_size_prompts=cfg.store_batch_size_prompts,
            train_batch_size_tokens=cfg.train_batch_size_tokens,
            n_batches_in_buffer=cfg.n_batches_in_buffer,
            eval_contexts=cfg.eval_contexts,
            exclude_special_tokens=cfg.exclude_special_tokens,
            seqpos_slice=cfg.seqpos_slice,
            prefetch=int(ahead),
            dtype=getattr(torch, cfg.dtype),
            autocast=cfg.autocast_lm,
            seed=cfg.seed,
        )

    def buffer_rows(self, context_size: int) -> int:
        """Activations that the buffer holds, of contexts of `context_size` tokens."""
        positions = len(range(context_size)[slice(*self.seqpos_slice)])
        return max(
            self.n_batches_in_buffer * self.store_batch_size_prompts * positions,
            2 * self.train_batch_size_tokens,
        )


def usable_device(device: str | torch.device) -> torch.device:
    """`device`, if there is one.

    Raises:
        ConfigError: this torch has none.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # as torch says that it has none
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"device: {device} is not available to this torch ({reason}); leave it out for the "
            "model's own",
            field="device",
        ) from None
