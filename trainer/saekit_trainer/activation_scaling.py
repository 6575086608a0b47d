"""From a model's activations to those that an SAE learns on, and back into the saved weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from saekit_core.sae.normalization import normalize
from saekit_core.sae.statistics import to_float64


@dataclass(frozen=True)
class ActivationScaling:
    """One of the normalisations of `saekit_core.sae.normalization`, fitted to activations."""

    kind: str
    factor: float = 1.0
    """expected_average_only_in: √d_in over the mean norm; 1 otherwise."""

    @classmethod
    def fit(cls, kind: str, x: Tensor) -> ActivationScaling:
        """Measure what `kind` needs on activations `x` ``[rows, d_in]``."""
        if kind != "expected_average_only_in":
            return cls(kind)
        mean_norm = float(to_float64(x).norm(dim=1).mean())
        return cls(kind, x.shape[1] ** 0.5 / mean_norm if mean_norm > 0 else 1.0)

    @property
    def saved_kind(self) -> str:
        """Normalisation that the saved SAE still has to do: a constant factor is in its weights."""
        return "none" if self.kind == "expected_average_only_in" else self.kind

    def apply(self, x: Tensor) -> Tensor:
        """Normalised activations, of x's shape ``[..., d_in]``."""
        if self.kind == "expected_average_only_in":
            return x * self.factor
        return normalize(x, self.kind)[0]

    def fold(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights for the model's own activations, from weights for normalised ones.

        With x̃ = s·x, features of 1/s the size on the same decoder rows give the same
        reconstruction: W_enc and W_dec stay, biases and thresholds are divided by s. So feature
        activations are in the units of the model's activations.
        """
        if self.factor == 1.0:
            return state
        scaled = ("b_enc", "b_dec", "threshold")
        return {
            name: tensor / self.factor if name in scaled else tensor
            for name, tensor in state.items()
        }
