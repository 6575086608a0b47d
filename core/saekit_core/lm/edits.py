"""The edits that can be made to activations, and what they are made with.

Every kind of edit is an `AffineClip` of a feature's activation, or of the coordinate along a
direction, so that an edit is four numbers in a buffer.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from saekit_core.lm.errors import LMError
from saekit_core.lm.positions import PositionSelector

if TYPE_CHECKING:
    from saekit_core.lm.hook_points import HookPoint
    from saekit_core.sae import SAE
    from saekit_core.sae.features_file import FeaturesFile


FLOAT32_MAX = float(torch.finfo(torch.float32).max)


class InterventionError(LMError):
    """An intervention that cannot be carried out; `field` names the part of it that is wrong."""

    def within(self, parent: str) -> Self:
        """The same error told from one level up: field "feature" within "edits[2]"."""
        path = f"{parent}.{self.field}" if self.field else parent
        return type(self)(str(self), field=path)


class InterventionPreconditionError(InterventionError):
    """A sound intervention that asks for something which is not there, as a recorded maximum."""


def check_finite(value: float, name: str) -> None:
    """Raise InterventionError unless `value`, that of the field `name`, is finite as a float32."""
    if not abs(value) <= FLOAT32_MAX:
        raise InterventionError(f"{name} is {value}; it must be a finite float32", field=name)


@dataclass(frozen=True)
class AffineClip:
    """The map a -> clip(scale * a + shift, lo, hi), a float32 scalar.

    Raises:
        InterventionError: a scale or shift that is not finite, a bound that is NaN, lo > hi.
    """

    scale: float = 1.0
    shift: float = 0.0
    lo: float = -math.inf
    hi: float = math.inf

    def __post_init__(self) -> None:
        check_finite(self.scale, "scale")
        check_finite(self.shift, "shift")
        for name, bound in (("lo", self.lo), ("hi", self.hi)):
            if math.isnan(bound):
                raise InterventionError(f"{name} is NaN; it must be a number", field=name)
        if self.lo > self.hi:
            raise InterventionError(f"lo is {self.lo}, above hi which is {self.hi}", field="lo")
        if self.lo == math.inf or self.hi == -math.inf:
            name, bound = ("lo", self.lo) if self.lo == math.inf else ("hi", self.hi)
            raise InterventionError(f"{name} is {bound}; nothing lies within", field=name)

    @classmethod
    def add(cls, amount: float) -> AffineClip:
        """ADD: a + amount; on a direction h + amount * v, v as given."""
        return cls(shift=amount)

    @classmethod
    def set_to(cls, value: float) -> AffineClip:
        """SET (clamp): value, whatever a is."""
        return cls(scale=0.0, shift=value)

    @classmethod
    def ablate(cls) -> AffineClip:
        """ABLATE: 0."""
        return cls.set_to(0.0)

    @classmethod
    def multiply(cls, factor: float) -> AffineClip:
        """SCALE of a feature, PROJECT of a direction (0 removes, 1 nothing, -1 reflects)."""
        return cls(scale=factor)

    @classmethod
    def clip(cls, lo: float, hi: float) -> AffineClip:
        """CLIP of a feature, CAP of a direction."""
        return cls(lo=lo, hi=hi)

    @property
    def only_adds(self) -> bool:
        return self.scale == 1.0 and self.lo == -math.inf and self.hi == math.inf


@dataclass(frozen=True, eq=False)
class BoundSAE:
    """An SAE at the hook points of a model that it reads and writes.

    Raises:
        InterventionError: an SAE that does not fit the hook points.
    """

    sae: SAE
    sae_id: str
    revision: str
    hook: HookPoint
    """Where it reads x."""
    hook_out: HookPoint
    """Where its output belongs; the same as `hook` but for transcoders."""
    key: Hashable
    """Its identity: rows of a batch whose SAEs have equal keys are run together."""
    reads_centred: bool = False
    """Trained on processed weights: x is what the model has at `hook`, less its mean."""
    writes_centred: bool = False
    """The same of what it reconstructs, at `hook_out`."""

    def __post_init__(self) -> None:
        cfg = self.sae.cfg
        for side, hook, width in (
            ("reads", self.hook, cfg.d_in),
            ("writes", self.hook_out, cfg.d_out),
        ):
            at = self.columns(hook)
            if at.stop - at.start != width:
                raise InterventionError(
                    f"{self.sae_id} {side} {width} values; {hook.name} has {at.stop - at.start}",
                    field="sae",
                )
        if self.hook_out.depth < self.hook.depth:
            raise InterventionError(
                f"{self.sae_id} reads {self.hook.name} and writes {self.hook_out.name}, which"
                " runs before it",
                field="sae",
            )

    def columns(self, hook: HookPoint) -> slice:
        """The part of the flattened activations at `hook` that is this SAE's: one head, or all."""
        head = self.sae.cfg.metadata.hook_head_index
        if head is None or len(hook.shape) != 2:
            return slice(0, hook.d)
        n_heads, d_head = hook.shape
        if not 0 <= head < n_heads:
            raise InterventionError(
                f"{self.sae_id} is of head {head}; {hook.name} has {n_heads}", field="sae"
            )
        return slice(head * d_head, (head + 1) * d_head)

    def x_of(self, h: Tensor, rows: Tensor | None = None) -> Tensor:
        """What the SAE encodes of the activations at `hook`: the one way to its input.

        Args:
            h: `[..., d]` as the model has them, flattened over heads; or `[..., d_in]`, this
                SAE's part of them. Taking the mean out twice does nothing, so activations of
                processed weights will do as well.
            rows: LongTensor `[r]`, those wanted of h's first axis; None: all.

        Returns:
            x `[..., d_in]` for `SAE.encode_with_state`; float32 at least where a mean is taken.
        """
        if h.shape[-1] != self.sae.cfg.d_in:
            h = h[..., self.columns(self.hook)]
        if rows is not None:
            h = h[rows]
        return _less_mean(h, owned=rows is not None) if self.reads_centred else h

    def y_of(self, h: Tensor) -> Tensor:
        """What the SAE reconstructs of the activations `[..., d]` at `hook_out`, `[..., d_out]`."""
        y = h[..., self.columns(self.hook_out)]
        return _less_mean(y, owned=False) if self.writes_centred else y

    def stand_in(self, reconstruction: Tensor, h: Tensor) -> Tensor:
        """What stands in for h at `hook_out` without the error term, both `[..., d_out]`.

        It is h + (D(a) - y): D(a), and where y has no mean the mean of h besides. Later layers
        take a mean out before they read, so log-probabilities are those of D(a) alone either way.
        With it the activations from here on stay comparable with those of an unspliced run, and
        with what SAEs of raw weights were trained on further down.
        """
        if not self.writes_centred:
            return reconstruction
        return reconstruction + h.mean(dim=-1, keepdim=True)

    def check_feature(self, feature: int) -> None:
        """Raise InterventionError unless `feature` is one of this SAE's."""
        if not 0 <= feature < self.sae.cfg.d_sae:
            raise InterventionError(
                f"feature is {feature}; {self.sae_id} has features 0 to {self.sae.cfg.d_sae - 1}",
                field="feature",
            )


@dataclass(frozen=True, eq=False)
class FeatureEdit:
    """Change one feature's activation.

    With `unit_norm` the op's shift s, of an ADD, is in residual norm: the activations move by
    s * w / |w| for the feature's decoder row w, outside of any normalisation of the SAE.

    Raises:
        InterventionError: no such feature, `unit_norm` for an op that does more than add or for
            a decoder row of zeros.
    """

    sae: BoundSAE
    feature: int
    op: AffineClip
    unit_norm: bool = False
    positions: PositionSelector | None = None
    """None: every position but a BOS."""

    def __post_init__(self) -> None:
        self.sae.check_feature(self.feature)
        if not self.unit_norm:
            return
        if not self.op.only_adds:
            raise InterventionError("UNIT_NORM is a unit of ADD alone", field="unit")
        row = self.sae.sae.decoder_rows(torch.tensor([self.feature], device=self.sae.sae.device))
        if not bool(row.any()):
            raise InterventionError(
                f"feature {self.feature} of {self.sae.sae_id} has a decoder row of zeros, which"
                " has no direction to add a norm along",
                field="unit",
            )

    @property
    def reads(self) -> HookPoint:
        return self.sae.hook


@dataclass(frozen=True, eq=False)
class DirectionEdit:
    """Change the activations, as the model has them, along a direction v, with v^ = v/|v|.

    The op acts on the coordinate t = h . v^, so h' = h + (op(t) - t) v^; its shift counts in
    units of |v|, so that `AffineClip.add(s)` is h + s * v.

    Raises:
        InterventionError: a vector that does not fit the hook point, is zero or not finite; a
            move beyond float32.
    """

    hook: HookPoint
    vector: torch.Tensor
    """`[d]` for the hook point's d, flattened over heads."""
    op: AffineClip
    positions: PositionSelector | None = None
    """None: every position but a BOS."""

    def __post_init__(self) -> None:
        if tuple(self.vector.shape) != (self.hook.d,):
            raise InterventionError(
                f"vector has shape {list(self.vector.shape)}; {self.hook.name} needs"
                f" [{self.hook.d}]",
                field="vector",
            )
        if not bool(torch.isfinite(self.vector).all()):
            raise InterventionError("vector has values that are not finite", field="vector")
        if not bool(self.vector.any()):
            raise InterventionError("vector is zero and has no direction", field="vector")
        if abs(self.op.shift) * self.norm > FLOAT32_MAX:
            raise InterventionError(
                f"{self.op.shift} times a vector of norm {self.norm:.3g} is beyond float32",
                field="vector",
            )

    @property
    def norm(self) -> float:
        """|v|, computed in float64."""
        return float(self.vector.to("cpu", torch.float64).norm())

    @property
    def reads(self) -> HookPoint:
        return self.hook


Edit = FeatureEdit | DirectionEdit


def _less_mean(h: Tensor, *, owned: bool) -> Tensor:
    """h less its mean over the last axis, in float32 at least; in h's own memory if `owned`."""
    mean = h.mean(dim=-1, keepdim=True, dtype=torch.promote_types(h.dtype, torch.float32))
    return h.sub_(mean) if owned and h.dtype == mean.dtype else h - mean


def in_maximum_activations(
    amount: float, features: FeaturesFile | None, feature: int, sae_id: str
) -> float:
    """An amount given in recorded maxima of the feature (MAX_ACTIVATION), as a plain amount.

    Raises:
        InterventionPreconditionError: no features file, or no positive maximum for the feature.
    """
    if features is None or features.max_activation is None:
        raise InterventionPreconditionError(
            f"unit is MAX_ACTIVATION, but {sae_id} has no recorded maxima (features file)",
            field="unit",
        )
    maximum = float(features.max_activation[feature])
    if not (math.isfinite(maximum) and maximum > 0):
        raise InterventionPreconditionError(
            f"unit is MAX_ACTIVATION, but feature {feature} of {sae_id} never fired where maxima"
            f" were recorded (recorded: {maximum})",
            field="unit",
        )
    return amount * maximum
