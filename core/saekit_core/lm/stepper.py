"""Driving many streams through the model, one step at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from saekit_core.lm.errors import LMError
from saekit_core.lm.generation import Generation, StepOutput
from saekit_core.lm.intervention_rows import InterventionRow
from saekit_core.lm.kv_slots import KVSlots
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.sampling import Sampled, sample
from saekit_core.lm.splicing import BatchedInterventions


class Stepper:
    """Runs steps of streams that lie in one model's KV slots.

    It keeps no list of streams: who runs, and in which slot, is the caller's to say from step to
    step, so that streams may come and go between any two.
    """

    def __init__(self, model: LanguageModel, slots: KVSlots) -> None:
        self._model = model
        self._slots = slots
        self._prepared: BatchedInterventions | None = None
        self._prepared_rows: tuple[InterventionRow, ...] = ()

    def check(self, generation: Generation) -> None:
        """Raise LMError unless the stream fits a slot from beginning to end."""
        if generation.max_positions > self._slots.max_length:
            raise LMError(
                f"a prompt of {generation.n_prompt} tokens and max_new_tokens of"
                f" {generation.rules.max_new_tokens} need {generation.max_positions} positions;"
                f" a slot has {self._slots.max_length}",
                field="max_new_tokens",
            )

    def prefill(self, parts: Sequence[tuple[Generation, int]]) -> list[StepOutput]:
        """Run the next n tokens of each prompt in one ragged pass.

        A stream whose prompt is through gets its first token.

        Raises:
            LMError: a stream without a slot or that does not fit it.
            ValueError: a stream that has ended, or fewer tokens left than asked for.
        """
        for generation, _ in parts:
            self.check(generation)
        return self._step(parts)

    def decode(self, generations: Sequence[Generation]) -> list[StepOutput]:
        """Run one token of each stream, and draw the next.

        Raises:
            LMError, ValueError: as `prefill`; and ValueError for a prompt that is not through.
        """
        for generation in generations:
            if generation.n_pending != 1:
                raise ValueError(
                    f"{generation.n_pending} tokens have not been run; prefill them first"
                )
        return self._step([(generation, 1) for generation in generations])

    @torch.inference_mode()
    def _step(self, parts: Sequence[tuple[Generation, int]]) -> list[StepOutput]:
        if not parts:
            return []
        for generation, count in parts:
            if generation.finish is not None:
                raise ValueError(f"a stream that ended ({generation.finish.reason}) cannot go on")
            if generation.slot is None:
                raise LMError("a stream has no slot", field="slot")
            if not 1 <= count <= generation.n_pending:
                raise ValueError(f"{count} tokens asked for, {generation.n_pending} are left")
        # Neighbouring slots in order are read in place.
        order = sorted(range(len(parts)), key=lambda index: parts[index][0].slot or 0)
        outputs = self._run([parts[index] for index in order])
        back = sorted(range(len(parts)), key=lambda place: order[place])
        return [outputs[place] for place in back]

    def _run(self, parts: Sequence[tuple[Generation, int]]) -> list[StepOutput]:
        generations = [generation for generation, _ in parts]
        starts = [generation.n_run for generation in generations]
        counts = [count for _, count in parts]
        width = max(counts)
        tokens = np.zeros((len(parts), width), np.int64)
        for row, (generation, count) in zip(tokens, parts, strict=True):
            row[:count] = generation.next_tokens(count)
        drawing = [index for index, (g, count) in enumerate(parts) if g.samples_after(count)]
        last = [index * width + counts[index] - 1 for index in drawing]
        interventions = self._interventions([generation.row for generation in generations])
        special = self._model.tokenizer.is_special(tokens) if interventions.reads_special else None
        logits = self._model.forward_slots(
            self._slots,
            torch.from_numpy(tokens),
            slot_ids=torch.tensor([generation.slot for generation in generations]),
            start=torch.tensor(starts),
            n_new=torch.tensor(counts),
            taps=interventions.taps(starts, counts, width, special),
            logits_at=torch.tensor(last) if last else None,
        )
        interventions.finish()
        drawn: dict[int, Sampled | None] = {}
        if logits is not None:
            rows = [generations[index].sample_row() for index in drawing]
            drawn = dict(zip(drawing, sample(logits, rows), strict=True))
        return [
            generation.advance(
                count, interventions.watched[index], interventions.stops[index], drawn.get(index)
            )
            for index, (generation, count) in enumerate(parts)
        ]

    def _interventions(self, rows: Sequence[InterventionRow]) -> BatchedInterventions:
        """The rows as buffers; kept while the same rows go on together."""
        known = self._prepared
        if known is None or self._prepared_rows != tuple(rows):
            known = BatchedInterventions(rows, self._model.device)
            self._prepared, self._prepared_rows = known, tuple(rows)
        return known
