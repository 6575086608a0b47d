"""A short text through the model and an SAE: does the SAE do what was recorded of it?

An SAE of the right width for another model, or another hook point, loads and answers; what it
answers is noise. Its recorded L0 and explained variance give that away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.interventions import BoundSAE
from saekit_core.lm.model import LanguageModel
from saekit_core.sae import FeaturesFile
from saekit_core.sae.statistics import FeatureStats, explained_variance
from saekit_server.errors import precondition

CANARY_TEXT: Final = (
    "Once there was a small town by a river. Every morning the baker opened his shop, and the "
    "smell of fresh bread went down the street. A girl called Mia liked to sit by the window and "
    "watch the boats. One day she saw a grey cat on the bridge. It was wet and cold, so she took "
    "it home, gave it some milk and let it sleep near the fire. In the evening her father came "
    'back from work. "Who is this?" he asked. "A friend," said Mia. They laughed, and from '
    "that day on the cat stayed with them."
)
MAX_TOKENS: Final = 128

L0_FACTOR: Final = 4.0
"""How many times more or fewer features than recorded may be active, on so short a text."""
L0_SLACK: Final = 1.0
"""Features per token that L0 may be off besides, for SAEs with hardly any active."""
EXPLAINED_VARIANCE_SLACK: Final = 0.35
"""How far explained variance may lie below the recorded one; another text costs some of it."""


@dataclass(frozen=True)
class CanaryReading:
    """What an SAE does on the canary text, its special tokens apart."""

    l0: float
    """Mean number of active features per token."""
    explained_variance: float
    """Of what the SAE reconstructs, at the hook point where its output belongs."""


def read_canary(model: LanguageModel, bound: BoundSAE) -> CanaryReading:
    """Run the canary text; call it on the thread that owns the device."""
    tokenized = model.tokenizer.encode_text(CANARY_TEXT, _prepend_bos(model, bound))
    length = min(MAX_TOKENS, model.max_context, len(tokenized))
    ids = torch.from_numpy(tokenized.ids[:length])[None]
    usual = torch.from_numpy(~tokenized.special[:length])
    seen: dict[HookPoint, Tensor] = {}

    def reader(hook: HookPoint) -> Callable[[Tensor], None]:
        def read(h: Tensor) -> None:
            seen[hook] = h[0].flatten(1).clone()

        return read

    model.forward(ids, taps={hook: reader(hook) for hook in (bound.hook, bound.hook_out)})
    with torch.no_grad():
        # Of the whole text, which a temporal SAE needs; the special tokens are left out afterwards.
        x = bound.x_of(seen[bound.hook]).to(bound.sae.device)
        acts, state = bound.sae.encode_with_state(x)
        reconstruction = bound.sae.decode(acts, state).flatten(1).cpu()[usual]
        y = bound.y_of(seen[bound.hook_out]).cpu()[usual]
    features = FeatureStats()
    features.add(acts.cpu()[usual])
    return CanaryReading(
        l0=features.l0,
        explained_variance=explained_variance(y, reconstruction),
    )


def check_canary(reading: CanaryReading, recorded: FeaturesFile) -> None:
    """Hold a reading against what the features file records.

    Raises:
        DomainError: FAILED_PRECONDITION, naming both figures.
    """
    l0, ev = recorded.l0, recorded.explained_variance
    # Written so that NaN fails.
    if l0 is not None and not (
        l0 / L0_FACTOR - L0_SLACK <= reading.l0 <= l0 * L0_FACTOR + L0_SLACK
    ):
        raise precondition(_mismatch("L0", reading.l0, l0))
    if ev is not None and not reading.explained_variance >= ev - EXPLAINED_VARIANCE_SLACK:
        raise precondition(_mismatch("explained variance", reading.explained_variance, ev))


def _mismatch(figure: str, seen: float, recorded: float) -> str:
    return (
        f"{figure} is {seen:.3g} on a short text, but features.json records {recorded:.3g}; "
        "the SAE seems to belong to another model or hook point"
    )


def _prepend_bos(model: LanguageModel, bound: BoundSAE) -> bool | None:
    wanted = bound.sae.cfg.prepend_bos
    # Metadata that wants a BOS which this tokenizer lacks is no reason to fail here.
    return None if wanted and model.tokenizer.bos_id is None else wanted
