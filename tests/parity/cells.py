"""The grid: every architecture under every normalisation in every dtype, with its options."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

DTYPES: Final = ("float32", "float16", "bfloat16")
NORMALIZATIONS: Final = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")
SCALAR: Final = "constant_scalar_rescale"

AUTOENCODERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "standard": {},
    "gated": {},
    "jumprelu": {},
    "topk": {"k": 6},
    "topk rescaled": {"k": 6, "rescale_acts_by_decoder_norm": True},
    "abstopk": {"k": 6},
    "abstopk rescaled": {"k": 6, "rescale_acts_by_decoder_norm": True},
    "matching_pursuit": {"residual_threshold": 2.0},
    "matching_pursuit to threshold": {
        "residual_threshold": 2.0,
        "stop_on_duplicate_support": False,
    },
    "matching_pursuit to duplicate": {"residual_threshold": 0.0},
    "matching_pursuit of 4 steps": {
        "residual_threshold": 0.0,
        "max_iterations": 4,
        "stop_on_duplicate_support": False,
    },
}
"""By the row of the table that they fill: the keys of ``cfg.json`` that they have."""

TRANSCODERS: Final = (
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)
_TEMPORAL: Final = {"n_heads": 2, "bottleneck_factor": 4}
TEMPORAL: Final[Mapping[str, Mapping[str, Any]]] = {
    "temporal": {**_TEMPORAL, "kval_topk": 6},
    "temporal dense": {**_TEMPORAL, "kval_topk": None},
    "temporal relu": {**_TEMPORAL, "sae_diff_type": "relu"},
    "temporal untied": {**_TEMPORAL, "tied_weights": False, "kval_topk": 6, "n_attn_layers": 2},
}
TRAINED: Final[Mapping[str, Mapping[str, Any]]] = {
    "batchtopk": {"k": 6},
    "batchtopk rescaled": {"k": 6, "rescale_acts_by_decoder_norm": True},
    "matryoshka_batchtopk": {"k": 6, "matryoshka_widths": [16, 32]},
}
"""Architectures that sae-lens trains and saves as another one."""


@dataclass(frozen=True)
class Sizes:
    """How large the SAEs of a grid are."""

    d_in: int
    d_sae: int
    d_out: int
    n_heads: int
    batch: tuple[int, int]
    """Rows and positions of the activations."""


LARGE: Final = Sizes(d_in=32, d_sae=128, d_out=24, n_heads=4, batch=(4, 8))
GOLDEN: Final = Sizes(d_in=16, d_sae=32, d_out=12, n_heads=4, batch=(1, 3))


@dataclass(frozen=True)
class Cell:
    """One SAE of the grid."""

    kind: str
    normalization: str
    dtype: str
    options: tuple[str, ...]
    cfg: dict[str, Any]
    """What ``cfg.json`` says; for `trained` ones, what the training configuration says."""
    shape: tuple[int, ...]
    """Of the activations."""
    trained: bool = False
    """Whether sae-lens makes it as a training SAE and saves it for inference."""

    @property
    def name(self) -> str:
        parts = (self.kind, self.normalization, self.dtype, *self.options)
        return ".".join(part.replace(" ", "_") for part in parts)

    @property
    def weights(self) -> str:
        """What names the random weights: cells of the same tensors share them."""
        architecture = self.cfg["architecture"]
        if self.trained:
            tensors = self.kind  # what is saved depends on more than the architecture
        elif architecture in ("standard", "topk", "abstopk"):
            tensors = "plain"
        elif architecture == "temporal":
            layers = self.cfg.get("n_attn_layers", 1)
            tensors = f"temporal{layers}{'' if self.cfg.get('tied_weights', True) else ' untied'}"
        else:
            tensors = architecture
        return f"{tensors}/{self.dtype}"

    @property
    def inputs(self) -> str:
        """What names the random activations."""
        return f"{self.dtype}/{'x'.join(map(str, self.shape))}"

    def to_json(self) -> dict[str, Any]:
        names = {"name": self.name, "weights": self.weights, "inputs": self.inputs}
        return {**asdict(self), **names}


def grid(sizes: Sizes, *, every_option: bool = True) -> list[Cell]:
    """All cells.

    Args:
        every_option: each with and without b_dec at its input and with and without heads; else the
            options take turns over the cells.
    """
    cells = []
    for kind, keys in AUTOENCODERS.items():
        cells += _cells(sizes, kind, keys, _OPTIONS, every_option=every_option)
    for kind in TRANSCODERS:
        keys = {"d_out": sizes.d_out, "apply_b_dec_to_input": False}
        cells += _cells(sizes, kind, keys, ((),), every_option=every_option)
    for kind, keys in TEMPORAL.items():
        cells += _cells(sizes, kind, keys, _OPTIONS, every_option=every_option)
        scalar = {**keys, "activation_normalization_factor": 0.37}
        cells += _cells(
            sizes, kind, scalar, _OPTIONS, every_option=every_option, normalizations=(SCALAR,)
        )
    return cells


def trained_grid(sizes: Sizes, *, normalizations: tuple[str, ...] = NORMALIZATIONS) -> list[Cell]:
    """What sae-lens' training SAEs save."""
    settings: Any = {"every_option": True, "normalizations": normalizations, "trained": True}
    return [
        cell
        for kind, keys in TRAINED.items()
        for cell in _cells(sizes, kind, keys, ((),), **settings)
    ]


_OPTIONS: Final[tuple[tuple[str, ...], ...]] = (
    (),
    ("no_b_dec",),
    ("hook_z",),
    ("no_b_dec", "hook_z"),
)


def _cells(
    sizes: Sizes,
    kind: str,
    keys: Mapping[str, Any],
    options: tuple[tuple[str, ...], ...],
    *,
    every_option: bool,
    normalizations: tuple[str, ...] = NORMALIZATIONS,
    trained: bool = False,
) -> list[Cell]:
    cells = []
    for n, (normalization, dtype) in enumerate(itertools.product(normalizations, DTYPES)):
        # A Latin square, so that each dtype and each normalisation meets each option.
        turn = (options[(n % len(DTYPES) + n // len(DTYPES)) % len(options)],)
        for chosen in options if every_option else turn:
            heads = "hook_z" in chosen
            hook = "blocks.1.attn.hook_z" if heads else "blocks.1.hook_resid_pre"
            metadata = {"model_name": "tiny", "hook_name": hook}
            if "transcoder" in kind:
                metadata["hook_name_out"] = "blocks.1.hook_mlp_out"
            cfg = {
                "architecture": kind.split(maxsplit=1)[0],
                "d_in": sizes.d_in,
                "d_sae": sizes.d_sae,
                "dtype": dtype,
                "device": "cpu",
                "normalize_activations": normalization,
                "reshape_activations": "hook_z" if heads else "none",
                "apply_b_dec_to_input": "no_b_dec" not in chosen,
                **keys,
                "metadata": metadata,
            }
            d_head = sizes.d_in // sizes.n_heads
            width = (sizes.n_heads, d_head) if heads else (sizes.d_in,)
            cells.append(
                Cell(kind, normalization, dtype, chosen, cfg, (*sizes.batch, *width), trained)
            )
    return cells
