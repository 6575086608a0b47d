"""The events of a steered generation, and the texts that they add up to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from saekit.v1 import sae_service_pb2
from saekit_client.interventions import FeatureRef
from saekit_client.results import ServedBy, Tokens
from saekit_client.run_results import SAERevision

FinishReason = Literal["length", "eos", "stop_string", "condition", "non_finite"]


@dataclass(frozen=True, eq=False)
class SteerStart:
    """The first event of a stream, once for all choices."""

    tokens: Tokens
    """The input's tokens."""
    seed: int
    served_by: ServedBy
    saes: tuple[SAERevision, ...]
    truncated: bool


@dataclass(frozen=True)
class TokenLogprob:
    """A likely token."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True, eq=False)
class SteerToken:
    """One generated token."""

    choice: int
    baseline: bool
    """Of the unsteered twin of the choice."""
    id: int
    text: str
    """Text that is certain since the last event; may be empty."""
    position: int
    """Position in the sequence; the input's first token is 0."""
    logprob: float
    """Under the (steered) model, before temperature and penalties."""
    top_logprobs: tuple[TokenLogprob, ...]
    """Likeliest first."""
    watched: npt.NDArray[np.float32]
    """[watched features]: unedited activations at the position before, which predicted it."""


@dataclass(frozen=True, eq=False)
class SteerFinish:
    """A choice has ended."""

    choice: int
    baseline: bool
    reason: FinishReason
    trigger: FeatureRef | None
    """With "condition": the feature that fired."""
    stop_string: str
    """With "stop_string": which."""
    text: str
    """Text that was held back and is now certain."""
    prompt_tokens: int
    generated_tokens: int
    watched: npt.NDArray[np.float32]
    """[watched features]: unedited activations at the last token."""


SteerEvent: TypeAlias = SteerStart | SteerToken | SteerFinish


@dataclass(frozen=True, eq=False)
class Generation:
    """All of one choice."""

    choice: int
    baseline: bool
    text: str
    token_ids: npt.NDArray[np.uint32]
    """[generated]."""
    logprobs: npt.NDArray[np.float32]
    """[generated]."""
    watched: npt.NDArray[np.float32]
    """[generated + 1, watched features]: row i is what token i was predicted from; the last row is
    the last token's."""
    finish: SteerFinish


def event_of(message: sae_service_pb2.SteerResponse) -> SteerEvent:
    """An event from the wire.

    Raises:
        ValueError: none that this client knows.
    """
    match message.WhichOneof("event"):
        case "start":
            start = message.start
            return SteerStart(
                Tokens.of(start.tokens),
                start.seed,
                ServedBy.of(start.served_by),
                tuple(SAERevision.of(s) for s in start.saes),
                start.truncated,
            )
        case "token":
            token = message.token
            return SteerToken(
                message.choice,
                message.baseline,
                token.id,
                token.text,
                token.position,
                token.logprob,
                tuple(TokenLogprob(t.id, t.text, t.logprob) for t in token.top_logprobs),
                np.array(token.watched, dtype=np.float32),
            )
        case "finish":
            end = message.finish
            reason = sae_service_pb2.FinishReason.Name(end.reason).removeprefix("FINISH_REASON_")
            return SteerFinish(
                message.choice,
                message.baseline,
                cast(FinishReason, reason.lower()),
                FeatureRef(end.trigger.sae, end.trigger.index) if end.HasField("trigger") else None,
                end.stop_string,
                end.text,
                end.prompt_tokens,
                end.generated_tokens,
                np.array(end.watched, dtype=np.float32),
            )
    raise ValueError("an event of a kind that this version of saekit does not know")


def generations(events: Iterable[SteerEvent]) -> list[Generation]:
    """The choices that events add up to, each followed by its baseline if there is one."""
    tokens: dict[tuple[int, bool], list[SteerToken]] = {}
    done: dict[tuple[int, bool], SteerFinish] = {}
    for event in events:
        if isinstance(event, SteerToken):
            tokens.setdefault((event.choice, event.baseline), []).append(event)
        elif isinstance(event, SteerFinish):
            done[event.choice, event.baseline] = event
    return [_generation(tokens.get(key, []), done[key]) for key in sorted(done)]


def _generation(tokens: list[SteerToken], finish: SteerFinish) -> Generation:
    # A generation that ended before its first token may report nothing at its last.
    rows = [t.watched for t in tokens] + ([finish.watched] if len(finish.watched) else [])
    watched = np.stack(rows) if rows else np.zeros((0, 0), np.float32)
    return Generation(
        finish.choice,
        finish.baseline,
        "".join(t.text for t in tokens) + finish.text,
        np.array([t.id for t in tokens], dtype=np.uint32),
        np.array([t.logprob for t in tokens], dtype=np.float32),
        watched,
        finish,
    )
