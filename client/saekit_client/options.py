"""What a call may be told besides its inputs. Names are those of the protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from saekit_client.positions import PositionSelector

Pooling = Literal["none", "max", "mean", "sum", "last"]
FloatType = Literal["float32", "float16", "bfloat16"]
OverLength = Literal["error", "truncate", "windows"]
Priority = Literal["interactive", "batch"]
LogitsRows = Literal["none", "last", "all"]


@dataclass(frozen=True)
class SAEQuery:
    """What is wanted of one SAE. Default: all non-zero features of every token, sparse."""

    sae: str
    """sae_id or sae_id@revision."""
    top_k: int | None = None
    """Only the k largest activations of each row (after pooling)."""
    features: Sequence[int] | None = None
    """Only these features. Not together with `top_k`."""
    dense: bool = False
    """Dense rows [rows, d_sae], or [rows, len(features)] in the order given. Not with `top_k`."""
    pooling: Pooling = "none"
    """How the rows of an input become one."""
    positions: PositionSelector | None = None
    """Positions that give rows. Default: with pooling all but a BOS, else every token."""
    value_dtype: FloatType = "float32"
    """Element type on the wire."""
    return_state: bool = False
    """Also what Decode needs for some normalisations. Not with pooling."""

    def __post_init__(self) -> None:
        if self.top_k is not None and self.features is not None:
            raise ValueError("expected at most one of top_k and features")


@dataclass(frozen=True)
class InputOptions:
    """How inputs are read."""

    prepend_bos: bool | None = None
    """Texts only: whether a BOS goes before the text (never a second one). None: as the SAEs were
    trained, else as the model does."""
    over_length: OverLength = "error"
    """What happens to inputs that are too long; "windows" for Encode only."""
    token_text: bool = False
    """Also return the text of each token."""
    priority: Priority | None = None
    """None: "batch" for encode and decode streams, else "interactive"."""


@dataclass(frozen=True)
class RunReturns:
    """What a run returns; at least one must be asked for."""

    logits: LogitsRows = "none"
    """Of no position, the last, or all."""
    top_k_logits: int | None = None
    """With `logits`: only the k largest of each row."""
    loss: bool = False
    """Mean cross-entropy of the next token, nats per token."""
    token_logprobs: bool = False
    """Log-probability of every token but the first."""
    features: Sequence[str | SAEQuery] = ()
    """Feature activations during this run."""
    activations: Sequence[str] = ()
    """Activations that leave these hook points."""
    compare: bool = False
    """Also run clean and with the spliced hook points ablated: KL, delta loss, CE loss score."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; None leaves the server's default."""

    temperature: float | None = None
    """>= 0; 0 is greedy. Default: 1."""
    top_k: int | None = None
    """Only the k likeliest tokens."""
    top_p: float | None = None
    """Only the likeliest tokens that together reach this probability."""
    min_p: float | None = None
    """Only tokens at least this likely relative to the likeliest."""
    frequency_penalty: float = 0.0
    """Subtracted per earlier generation of a token, -2 to 2."""
    presence_penalty: float = 0.0
    """Subtracted once if a token was generated, -2 to 2."""
    repetition_penalty: float | None = None
    """Divides positive, multiplies negative logits of tokens seen, > 0."""
    seed: int | None = None
    """None: chosen by the server and returned."""


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True)
class Watch:
    """Features reported at every generated token."""

    sae: str
    """sae_id or sae_id@revision."""
    features: Sequence[int]
    """Each below d_sae."""


DEFAULT_INPUT = InputOptions()
DEFAULT_RETURNS = RunReturns(loss=True)
DEFAULT_SAMPLING = Sampling()
