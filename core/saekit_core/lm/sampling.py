"""From logits to token ids, for rows with different parameters, reproducibly.

A draw depends on (seed, choice, position) and on the row's own logits alone, so that a text does
not depend on what else runs in its batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saekit_core.lm.errors import LMError

MAX_TOP_LOGPROBS = 100
DRAWS_PER_BLOCK = 256


class SamplingError(LMError):
    """A sampling parameter out of its range."""


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen.

    In this order: repetition penalty, frequency and presence penalties, temperature, top_k, top_p,
    min_p, each on what the one before it left; then one draw.

    Raises:
        SamplingError: naming the parameter, its value and its range.
    """

    temperature: float = 1.0
    """At least 0; 0 takes the likeliest token, whatever top_k, top_p, min_p and seed are."""
    top_k: int | None = None
    """Keep the k likeliest tokens, at least 1; of equals the lower id. None keeps all."""
    top_p: float | None = None
    """Keep the likeliest tokens up to the one that brings their share to p, in (0, 1]."""
    min_p: float | None = None
    """Drop tokens less likely than this fraction of the likeliest, in [0, 1]."""
    frequency_penalty: float = 0.0
    """Taken off a token's logit for each time that it was generated."""
    presence_penalty: float = 0.0
    """Taken off a token's logit once if it was generated."""
    repetition_penalty: float = 1.0
    """Above 0: positive logits of tokens in prompt or output are divided by it, negative ones
    multiplied (Keskar et al. 2019, as transformers applies it)."""
    seed: int = 0
    """0 to 2**64 - 1."""
    top_logprobs: int = 0
    """How many of the likeliest tokens to report with each token, 0 to 100."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise SamplingError(f"{item.name} is {value}; it must be finite", field=item.name)
        checks = (
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_k", self.top_k is None or self.top_k >= 1, "at least 1"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", self.min_p is None or 0 <= self.min_p <= 1, "from 0 to 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
            ("seed", 0 <= self.seed < 2**64, "from 0 to 2**64 - 1"),
            (
                "top_logprobs",
                0 <= self.top_logprobs <= MAX_TOP_LOGPROBS,
                f"from 0 to {MAX_TOP_LOGPROBS}",
            ),
        )
        for name, holds, expected in checks:
            if not holds:
                raise SamplingError(
                    f"{name} is {getattr(self, name)}; it must be {expected}", field=name
                )

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def penalises(self) -> bool:
        return (
            self.repetition_penalty != 1
            or self.frequency_penalty != 0
            or self.presence_penalty != 0
        )


@dataclass(frozen=True, eq=False)
class SampleRow:
    """One row of a batch of draws."""

    params: SamplingParams
    choice: int
    """Index among the choices drawn for one prompt; part of the draw's key."""
    position: int
    """Absolute position of the token that is drawn; part of the draw's key."""
    prompt: NDArray[np.int64]
    """`[n]` ids before the generated ones; read by the repetition penalty."""
    generated: Sequence[int]


@dataclass(frozen=True)
class Sampled:
    """One drawn token.

    Log-probabilities are those of the model's own distribution: before penalties, temperature and
    filters.
    """

    token: int
    logprob: float
    top_logprobs: tuple[tuple[int, float], ...]
    """The likeliest tokens and their log-probabilities, likeliest first."""


def uniform(seed: int, choice: int, position: int) -> float:
    """The draw keyed (seed, choice, position), in [0, 1) with 53 bits.

    It is output number `position` of Philox4x64-10 (Salmon et al. 2011) under the key
    (seed, choice), so that no state is kept and no draw depends on which others were made.
    """
    block, index = divmod(position, DRAWS_PER_BLOCK)
    return float(_draws(seed, choice, block)[index])


@lru_cache(maxsize=1024)
def _draws(seed: int, choice: int, block: int) -> NDArray[np.float64]:
    key = np.array([seed, choice], np.uint64)
    # A counter step gives four outputs.
    counter = np.array([block * DRAWS_PER_BLOCK // 4, 0, 0, 0], np.uint64)
    raw = np.random.Philox(key=key, counter=counter).random_raw(DRAWS_PER_BLOCK)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53


def sample(logits: Tensor, rows: Sequence[SampleRow]) -> list[Sampled | None]:
    """Draw one token for each row.

    Args:
        logits: float32 `[n, V]`.
        rows: n of them.

    Returns:
        Per row the token, or None where logits are NaN or +inf, or all -inf: then the model's
        activations have left the range of its dtype, and no token would mean anything.
    """
    if logits.device.type == "mps":
        logits = logits.cpu()  # no float64 there
    logits = logits.float()
    own = logits.log_softmax(dim=1)
    peak, likeliest = logits.max(dim=1)
    chosen = _choose(likeliest, logits, rows)
    logprobs = own.gather(1, chosen[:, None])[:, 0]
    n_top = min(max((row.params.top_logprobs for row in rows), default=0), logits.shape[1])
    tops: list[list[tuple[int, float]]] = [[] for _ in rows]
    if n_top:
        ids = logits.topk(n_top, dim=1).indices
        pairs = zip(ids.tolist(), own.gather(1, ids).tolist(), strict=True)
        tops = [list(zip(ids, values, strict=True)) for ids, values in pairs]
    results: list[Sampled | None] = []
    for index, (row, token, logprob, highest) in enumerate(
        zip(rows, chosen.tolist(), logprobs.tolist(), peak.tolist(), strict=True)
    ):
        top = tuple(tops[index][: row.params.top_logprobs])
        results.append(Sampled(token, logprob, top) if math.isfinite(highest) else None)
    return results


def _penalised(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    if not any(row.params.penalises for row in rows):
        return logits
    logits = logits.clone()
    for index, row in enumerate(rows):
        params = row.params
        if not params.penalises:
            continue
        generated = np.asarray(row.generated, np.int64)
        if params.repetition_penalty != 1:
            seen = np.unique(np.concatenate([row.prompt, generated]))
            ids = torch.from_numpy(seen).to(logits.device)
            values = logits[index, ids]
            logits[index, ids] = torch.where(
                values > 0,
                values / params.repetition_penalty,
                values * params.repetition_penalty,
            )
        tokens, counts = np.unique(generated, return_counts=True)
        if len(tokens):
            off = params.frequency_penalty * counts + params.presence_penalty
            ids = torch.from_numpy(tokens).to(logits.device)
            logits[index, ids] -= torch.from_numpy(off).to(logits)
    return logits


def _choose(likeliest: Tensor, logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """`[n]` ids: the likeliest for greedy rows, a draw for the others.

    Args:
        likeliest: `[n]` ids, of `logits` as the model gave them.
    """
    drawn = [index for index, row in enumerate(rows) if not row.params.greedy]
    penalised = _penalised(logits, rows)
    chosen = likeliest if penalised is logits else penalised.argmax(dim=1)
    if len(drawn) == len(rows):
        return _draw(penalised, rows)
    if drawn:
        index = torch.tensor(drawn, device=logits.device)
        chosen[index] = _draw(penalised[index], [rows[i] for i in drawn])
    return chosen


def _draw(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """`[n]` ids by the inverse of the cumulative distribution, in float64 and order of ids."""

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    temperature = column([row.params.temperature for row in rows])
    scaled = (logits - logits.max(dim=1, keepdim=True).values).double() / temperature
    weights = torch.nan_to_num(scaled.exp())
    filtered = [
        index
        for index, row in enumerate(rows)
        if row.params.top_k is not None or row.params.top_p is not None
    ]
    if filtered:
        index = torch.tensor(filtered, device=logits.device)
        weights[index] = _head(weights[index], [rows[i].params for i in filtered])
    if any(row.params.min_p for row in rows):
        # The likeliest token weighs exp(0) = 1.
        weights = weights.where(weights >= column([row.params.min_p or 0.0 for row in rows]), 0.0)
    cumulative = weights.cumsum(dim=1)
    total = cumulative[:, -1:].contiguous()
    draws = column([uniform(row.params.seed, row.choice, row.position) for row in rows])
    picked = torch.searchsorted(cumulative, draws * total, right=True)
    # Rounding may take the product up to the total, behind which nothing is left to pick.
    last = torch.searchsorted(cumulative, total)
    return torch.minimum(picked, last).clamp(max=logits.shape[1] - 1)[:, 0]


def _head(weights: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Weights with all but the tokens that top_k and top_p keep set to 0."""
    n_tokens = weights.shape[1]
    ordered, ids = weights.sort(dim=1, descending=True, stable=True)
    rank = torch.arange(n_tokens, device=weights.device)
    k = torch.tensor([[p.top_k or n_tokens] for p in params], device=weights.device)
    ordered = ordered.where(rank < k, 0.0)
    p = torch.tensor(
        [[1.0 if p.top_p is None else p.top_p] for p in params],
        dtype=weights.dtype,
        device=weights.device,
    )
    before = ordered.cumsum(dim=1) - ordered
    ordered = ordered.where((before < p * ordered.sum(dim=1, keepdim=True)) | (p == 1), 0.0)
    return torch.zeros_like(weights).scatter(1, ids, ordered)
