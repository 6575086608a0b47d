"""One stream of generated tokens: what was asked for, and how far it has come."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saekit_core.lm.errors import LMError
from saekit_core.lm.intervention_rows import place
from saekit_core.lm.interventions import NO_INTERVENTIONS, Interventions, Watch
from saekit_core.lm.sampling import Sampled, SampleRow, SamplingParams
from saekit_core.lm.splicing import StopEvent
from saekit_core.lm.stop_strings import StopScanner
from saekit_core.lm.tokenizer import LMTokenizer, Tokenized


class FinishReason(enum.Enum):
    """Why a stream ended."""

    LENGTH = "length"
    """`max_new_tokens` were generated."""
    EOS = "eos"
    """The model ended its text; the end-of-sequence token is the last one of the stream."""
    STOP_STRING = "stop_string"
    """A stop string was met; it and what follows it are not in the text."""
    CONDITION = "condition"
    """A `Stop` condition fired; the token at which it did is the last one of the stream."""
    NON_FINITE = "non_finite"
    """The logits were no longer numbers, as edits far out of scale make them."""
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Finish:
    reason: FinishReason
    stop_string: str | None = None
    """Of STOP_STRING: the one that was met."""
    event: StopEvent | None = None
    """Of CONDITION: which condition, where, and its trigger's activation."""


@dataclass(frozen=True)
class StopRules:
    """When a stream ends, apart from conditions.

    Raises:
        LMError: `max_new_tokens` below 1, an empty stop string.
    """

    max_new_tokens: int
    stop_strings: tuple[str, ...] = ()
    ignore_eos: bool = False
    """Go on behind an end-of-sequence token, as measurements want."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise LMError(
                f"max_new_tokens is {self.max_new_tokens}; it must be at least 1",
                field="max_new_tokens",
            )
        for index, stop in enumerate(self.stop_strings):
            if not stop:
                raise LMError("a stop string is empty", field=f"stop_strings[{index}]")


@dataclass(frozen=True)
class NewToken:
    """One token of a stream."""

    position: int
    """Absolute; the first one of a stream stands at the length of its prompt."""
    sampled: Sampled


@dataclass(frozen=True, eq=False)
class StepOutput:
    """What one step brought to one stream.

    A feature's activation at a token is known when that token has been run, which is one step
    after it was drawn: `watched` is about earlier positions than `token`. A stream that watches
    runs its last token too, so that none goes without.
    """

    generation: Generation
    token: NewToken | None
    """None while the prompt is not through, and where the stream ends without another token."""
    text: str
    """Text that is now certain: whole characters, and no beginning of a stop string."""
    watched_start: int
    """Absolute position of the first row of `watched`."""
    watched: NDArray[np.float32]
    """`[positions run, n_watch]`."""
    finish: Finish | None


class Generation:
    """A stream: prompt, parameters, interventions, and its state between steps.

    The n choices of one prompt are n streams that differ in `choice`; an unsteered twin is
    `baseline()`. Interventions change the prompt's keys and values where their positions say so,
    hence each stream has a slot of its own.

    Raises:
        InterventionError: positions that do not fit the prompt.

    Attributes:
        slot: the KV slot that holds its positions; None until it is given one, and not to be
            changed while it runs.
        n_run: positions that have been run; the next step starts there.
        generated: ids drawn so far.
        finish: why it ended, or None.
    """

    def __init__(
        self,
        tokenizer: LMTokenizer,
        prompt: Tokenized,
        rules: StopRules,
        sampling: SamplingParams | None = None,
        interventions: Interventions = NO_INTERVENTIONS,
        *,
        watch: Sequence[Watch] = (),
        choice: int = 0,
        slot: int | None = None,
    ) -> None:
        self.prompt = prompt
        self.n_prompt = len(prompt.ids)
        self.n_run = 0
        self.rules = rules
        self.sampling = SamplingParams() if sampling is None else sampling
        self.interventions = interventions
        self.watch = tuple(watch)
        self.choice = choice
        self.slot = slot
        self.generated: list[int] = []
        self.finish: Finish | None = None
        self.row = place(interventions, prompt, watch=watch, n_generated=rules.max_new_tokens)
        self._tokenizer = tokenizer
        self._closing: Finish | None = None
        self._detokenizer = tokenizer.new_detokenizer()
        self._scanner = StopScanner(rules.stop_strings)

    def baseline(self) -> Generation:
        """A fresh stream that differs in having no interventions: same seed, same choice."""
        return Generation(
            self._tokenizer,
            self.prompt,
            self.rules,
            self.sampling,
            watch=self.watch,
            choice=self.choice,
        )

    @property
    def n_pending(self) -> int:
        """Tokens that are known but have not been run: what is left of the prompt, then 1."""
        return self.n_prompt + len(self.generated) - self.n_run

    @property
    def max_positions(self) -> int:
        """Positions that a slot must have room for."""
        return self.n_prompt + self.rules.max_new_tokens

    def cancel(self) -> None:
        """End the stream from outside; its slot may be given away at once."""
        if self.finish is None:
            self.finish = Finish(FinishReason.CANCELLED)

    def next_tokens(self, count: int) -> NDArray[np.int64]:
        """`[count]`: the ids of the next positions to run."""
        first = self.n_run
        if first < self.n_prompt:
            return self.prompt.ids[first : first + count]
        return np.array(self.generated[first - self.n_prompt :][:count], np.int64)

    def samples_after(self, count: int) -> bool:
        """Whether a token is to be drawn once the next `count` positions have been run."""
        return self._closing is None and count == self.n_pending

    def sample_row(self) -> SampleRow:
        """What the draw of the next token depends on."""
        return SampleRow(
            params=self.sampling,
            choice=self.choice,
            position=self.n_prompt + len(self.generated),
            prompt=self.prompt.ids,
            generated=self.generated,
        )

    def advance(
        self,
        count: int,
        watched: NDArray[np.float32],
        stop: StopEvent | None,
        sampled: Sampled | None,
    ) -> StepOutput:
        """Take the results of a step that ran the next `count` positions.

        Args:
            watched: `[count, n_watch]`.
            stop: the first `Stop` that fired among these positions.
            sampled: the token drawn; looked at if `samples_after(count)`, and then None says
                that the logits were not finite.
        """
        start = self.n_run
        draws = self.samples_after(count)
        self.n_run += count
        token, text = None, ""
        if self._closing is not None:
            self.finish = self._closing
        elif stop is not None:
            self.finish = Finish(FinishReason.CONDITION, event=stop)
            text = self._rest_of_text()
        elif draws and sampled is None:
            self.finish = Finish(FinishReason.NON_FINITE)
            text = self._rest_of_text()
        elif draws and sampled is not None:
            token = NewToken(self.n_prompt + len(self.generated), sampled)
            self.generated.append(sampled.token)
            text, finish = self._take_text(sampled.token)
            if self.watch:
                self._closing = finish
            else:
                self.finish = finish
        return StepOutput(self, token, text, start, watched, self.finish)

    def _take_text(self, token: int) -> tuple[str, Finish | None]:
        """The text that a new token makes certain, and whether it ends the stream."""
        if token in self._tokenizer.eos_ids and not self.rules.ignore_eos:
            return self._rest_of_text(), self._ended(Finish(FinishReason.EOS))
        text = self._scanner.push(self._detokenizer.push(token))
        if self._scanner.found is not None:
            return text, self._ended(Finish(FinishReason.STOP_STRING))
        if len(self.generated) == self.rules.max_new_tokens:
            text += self._rest_of_text()
            return text, self._ended(Finish(FinishReason.LENGTH))
        return text, None

    def _rest_of_text(self) -> str:
        return self._scanner.push(self._detokenizer.flush()) + self._scanner.flush()

    def _ended(self, finish: Finish) -> Finish:
        # The last half of a character may complete a stop string as well.
        if self._scanner.found is not None:
            return Finish(FinishReason.STOP_STRING, stop_string=self._scanner.found)
        return finish
