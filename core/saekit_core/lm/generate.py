"""Generation to completion, for library users; a server drives `Stepper` itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from saekit_core.lm.generation import Finish, Generation, NewToken, StepOutput, StopRules
from saekit_core.lm.interventions import NO_INTERVENTIONS, Interventions, Watch
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.sampling import SamplingParams
from saekit_core.lm.stepper import Stepper
from saekit_core.lm.tokenizer import Tokenized


@dataclass(frozen=True, eq=False)
class Generated:
    """A finished stream."""

    text: str
    """Without the prompt, and without the stop string that ended it."""
    tokens: tuple[NewToken, ...]
    finish: Finish
    watched: NDArray[np.float32]
    """`[positions run, n_watch]`, the prompt's first."""

    @property
    def ids(self) -> list[int]:
        return [token.sampled.token for token in self.tokens]


@dataclass(eq=False)
class _Collected:
    text: list[str] = field(default_factory=list)
    tokens: list[NewToken] = field(default_factory=list)
    watched: list[NDArray[np.float32]] = field(default_factory=list)

    def take(self, output: StepOutput) -> None:
        self.text.append(output.text)
        self.watched.append(output.watched)
        if output.token is not None:
            self.tokens.append(output.token)


def generate(
    model: LanguageModel,
    prompts: Sequence[str | Tokenized],
    rules: StopRules,
    sampling: SamplingParams | None = None,
    interventions: Interventions | Sequence[Interventions] = NO_INTERVENTIONS,
    *,
    watch: Sequence[Watch] = (),
    n_slots: int = 16,
) -> list[Generated]:
    """Continue every prompt, up to `n_slots` of them together.

    Args:
        model: the model.
        prompts: texts, which get the model's default BOS, or rows of tokens.
        rules: when a stream ends.
        sampling: how tokens are chosen. None: `SamplingParams()`.
        interventions: the same for every prompt, or one for each.
        watch: features whose activations are recorded.
        n_slots: streams that run at a time.

    Returns:
        One result per prompt, in their order.

    Raises:
        LMError: a prompt that does not fit the model, or whatever its parameters raise.
        ValueError: another number of interventions than of prompts.
    """
    if not prompts:
        return []
    each = (
        [interventions] * len(prompts)
        if isinstance(interventions, Interventions)
        else list(interventions)
    )
    if len(each) != len(prompts):
        raise ValueError(f"{len(each)} interventions for {len(prompts)} prompts")
    streams = [
        Generation(
            model.tokenizer,
            model.tokenizer.encode_text(prompt) if isinstance(prompt, str) else prompt,
            rules,
            sampling,
            own,
            watch=watch,
        )
        for prompt, own in zip(prompts, each, strict=True)
    ]
    n_slots = min(n_slots, len(streams))
    longest = max(stream.max_positions for stream in streams)
    return run_to_end(Stepper(model, model.new_slots(n_slots, longest)), streams, n_slots)


def run_to_end(stepper: Stepper, streams: Sequence[Generation], n_slots: int) -> list[Generated]:
    """Run streams in slots `0 .. n_slots`, each slot taking the next one when its own has ended."""
    collected = {stream: _Collected() for stream in streams}
    waiting, free = deque(streams), deque(range(n_slots))
    running: list[Generation] = []
    while waiting or running:
        fresh: list[Generation] = []
        while waiting and free:
            stream = waiting.popleft()
            stream.slot = free.popleft()
            fresh.append(stream)
        outputs = stepper.decode(running)
        outputs += stepper.prefill([(stream, stream.n_pending) for stream in fresh])
        for output in outputs:
            collected[output.generation].take(output)
        running = [stream for stream in (*running, *fresh) if stream.finish is None]
        free.extend(
            output.generation.slot
            for output in outputs
            if output.finish is not None and output.generation.slot is not None
        )
    return [_result(stream, collected[stream]) for stream in streams]


def _result(stream: Generation, got: _Collected) -> Generated:
    assert stream.finish is not None
    watched = np.concatenate([*got.watched, np.zeros((0, len(stream.watch)), np.float32)])
    return Generated("".join(got.text), tuple(got.tokens), stream.finish, watched)
