"""From a model's activations to those that an SAE learns on, and back into the saved weights."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from saekit_core.sae.normalization import normalize
from saekit_core.sae.statistics import to_float64

_INPUT_SIZED = frozenset({"b_enc", "b_gate", "b_mag", "threshold"})


@dataclass(frozen=True)
class ActivationScaling:
    """One of the normalisations of `saekit_core.sae.normalization`, fitted to activations."""

    kind: str
    factor: float = 1.0
    """expected_average_only_in: √d_in over the mean norm; 1 otherwise."""
    factor_out: float = 1.0
    """The same of what is reconstructed: for an autoencoder the same number."""

    @classmethod
    def fit(cls, kind: str, x: Tensor, y: Tensor | None = None) -> ActivationScaling:
        """Measure what `kind` needs on activations ``[rows, d]``.

        Args:
            x: what is encoded.
            y: what a transcoder reconstructs; x itself without it.
        """
        if kind != "expected_average_only_in":
            return cls(kind)
        factor = _to_root_width(x)
        return cls(kind, factor, factor if y is None else _to_root_width(y))

    @property
    def saved_kind(self) -> str:
        """Normalisation that the saved SAE still has to do: a constant factor is in its weights."""
        return "none" if self.kind == "expected_average_only_in" else self.kind

    def apply(self, x: Tensor) -> Tensor:
        """Normalised activations, of x's shape ``[..., d_in]``."""
        if self.kind == "expected_average_only_in":
            return x * self.factor
        return normalize(x, self.kind)[0]

    def apply_out(self, y: Tensor) -> Tensor:
        """What a transcoder learns to reconstruct, of y's shape ``[..., d_out]``."""
        return y if self.factor_out == 1.0 else y * self.factor_out

    def fold(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights for the model's own activations, from weights for normalised ones.

        With x̃ = s·x and ỹ = t·y, features of 1/s the size have the same encoder columns, with
        biases and thresholds over s. Their decoder rows are s/t times as long (the same, for an
        autoencoder), as is a skip connection, and b_dec is divided by t. So feature activations
        are in the units of the model's activations.
        """
        if self.factor == self.factor_out == 1.0:
            return state
        folded = dict(state)
        for name, tensor in state.items():
            if name in _INPUT_SIZED:
                folded[name] = tensor / self.factor
            elif name == "b_dec":
                folded[name] = tensor / self.factor_out
            elif name in ("W_dec", "W_skip") and self.factor != self.factor_out:
                folded[name] = tensor * (self.factor / self.factor_out)
        return folded


def _to_root_width(x: Tensor) -> float:
    """The factor that gives the rows of `x` a mean norm of √d."""
    mean_norm = float(to_float64(x).norm(dim=1).mean())
    return float(x.shape[1] ** 0.5 / mean_norm) if mean_norm > 0 else 1.0
