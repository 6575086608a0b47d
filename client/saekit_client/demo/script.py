"""What the demo says to the embedded model; the one place to change when the model is made anew."""

from dataclasses import dataclass

STORY = (
    "Once upon a time, there was a little girl named Lily. She had a big brown dog named Max. "
    "One day, Lily and the dog went to the park to play with a ball. Then it started to rain, "
    "so they ran home. Mom gave Lily a cookie, and the dog was very happy."
)
PROMPT = "Once upon a time, there was a little girl. She went to the park. There she saw a"


@dataclass(frozen=True)
class NamedFeature:
    """A feature of the embedded model's SAEs."""

    sae: str
    label: str
    """As GetFeatures finds it."""


@dataclass(frozen=True)
class Theme:
    """What a steered text is to be about."""

    feature: NamedFeature
    word: str
    """What the steered text then mentions."""
    strength: float
    """Added to the feature, in units of its recorded maximum."""


IN_THE_STORY = NamedFeature(sae="blocks.2.hook_resid_pre", label="dog or cat")
THEME = Theme(
    NamedFeature(sae="blocks.3.hook_resid_pre", label="boats, fish and lakes"),
    word="boat",
    strength=1.1,
)
SEED = 3
NEW_TOKENS = 60
FRESH = "demo/fresh"
"""sae_id of the SAE that the demo trains."""
LEAST_EXPLAINED_VARIANCE = 0.5
"""Below this a decoded story counts as lost."""
