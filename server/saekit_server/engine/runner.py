"""What the device thread does with a batch: runs it, and never fails as a whole for one."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from saekit_core.lm.generation import Generation, StepOutput
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.stepper import Stepper
from saekit_core.sae import SAEConfig
from saekit_server.engine.forward import ForwardBatch
from saekit_server.engine.memory import (
    DeviceMemoryError,
    in_halves,
    is_out_of_memory,
    release_cache,
)
from saekit_server.engine.sae_batch import Floats, decode_batch, encode_batch
from saekit_server.engine.threads import StepThreads
from saekit_server.engine.work import (
    DecodeWork,
    EncodeActivationsWork,
    Encoding,
    ForwardResult,
    ForwardWork,
)
from saekit_server.errors import DomainError, exhausted, from_core
from saekit_server.metrics import Metrics

_log = logging.getLogger(__name__)
W = TypeVar("W")
R = TypeVar("R")

Part = tuple[Generation, int]


class Runner:
    """Runs batches on the device; for its one thread only.

    Every method gives one result, or one DomainError, for each thing that it was given. All but
    `decode` raise DeviceMemoryError, for the scheduler to make smaller batches.
    """

    def __init__(self, model: LanguageModel, stepper: Stepper | None, metrics: Metrics) -> None:
        self._model = model
        self._stepper = stepper
        self._metrics = metrics
        self._threads = StepThreads(model)

    def forward(self, works: Sequence[ForwardWork]) -> list[ForwardResult | DomainError]:
        """Inputs through the model."""
        tokens = sum(len(work.tokenized.ids) for work in works)
        self._threads.for_step(tokens, sum(_encode_flops(work) for work in works))

        def run(part: Sequence[ForwardWork]) -> list[ForwardResult]:
            batch = ForwardBatch(self._model, part)
            self._metrics.padded_tokens.inc(batch.padding)
            return batch.run()

        return self._guarded(run, works)

    def sae(
        self, works: Sequence[EncodeActivationsWork] | Sequence[DecodeWork]
    ) -> list[Encoding | DomainError] | list[Floats | DomainError]:
        """Rows through one SAE; all works do the same with the same SAE."""
        self._threads.for_step(0, sum(_sae_flops(work) for work in works))
        if isinstance(works[0], DecodeWork):
            return self._guarded(decode_batch, [w for w in works if isinstance(w, DecodeWork)])
        return self._guarded(
            encode_batch, [w for w in works if isinstance(w, EncodeActivationsWork)]
        )

    def prefill(self, parts: Sequence[Part]) -> list[StepOutput | DomainError]:
        """The next tokens of some prompts."""
        assert self._stepper is not None
        self._threads.for_step(sum(count for _, count in parts))
        return self._guarded(self._stepper.prefill, parts)

    def decode(self, generations: Sequence[Generation]) -> list[StepOutput | DomainError]:
        """One token of every generation."""
        assert self._stepper is not None
        stepper = self._stepper
        self._threads.for_step(len(generations))
        try:
            return in_halves(lambda part: self._guarded(stepper.decode, part), generations)
        except DeviceMemoryError:
            return [exhausted("the device has too little memory")] * len(generations)

    def _guarded(
        self, run: Callable[[Sequence[W]], list[R]], works: Sequence[W]
    ) -> list[R | DomainError]:
        try:
            with torch.inference_mode():
                return list(run(works))
        except Exception as error:
            no_memory = is_out_of_memory(error)
            mapped = from_core(error)
            if mapped.code == "INTERNAL" and not no_memory:
                _log.exception("a batch of %d failed", len(works))
        # Out of the handler, whose traceback keeps the tensors of the failed batch alive.
        if no_memory:
            self._metrics.oom_retries.inc()
            release_cache()
            raise DeviceMemoryError
        if len(works) == 1:
            return [mapped]
        # One of them is at fault; alone, it fails alone.
        return [self._guarded(run, [work])[0] for work in works]


def _encode_flops(work: ForwardWork) -> float:
    return sum(len(r.positions) * _flops_per_row(r.loaded.sae.cfg) for r in work.reads)


def _sae_flops(work: EncodeActivationsWork | DecodeWork) -> float:
    rows = len(work.x) if isinstance(work, EncodeActivationsWork) else work.acts.shape[0]
    return rows * _flops_per_row(work.loaded.sae.cfg)


def _flops_per_row(cfg: SAEConfig) -> float:
    """Of an encode; a decode of sparse rows takes fewer."""
    return 2.0 * cfg.d_in * cfg.d_sae
