"""What is measured on: a GPT-2-small-shaped model, a 24,576-feature SAE of it, and texts.

Weights are seeded and random, thresholds are set so that about 64 features fire per token; figures
of speed do not depend on more. All of it is made once and kept in a folder beside the benchmarks.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from saekit_core.assets import default_model_dir, default_sae_root
from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_core.sae import SAE, SAEConfig, SAEMetadata, write_sae_folder

CACHE: Final = Path(__file__).parent / ".cache"
LAYERS: Final = (8, 4, 6)
"""Of the SAEs, each at its block's input; the first is the one that most questions are about."""
BLOCK: Final = f"transformer.h.{LAYERS[0]}"
D_SAE: Final = 24_576
L0: Final = 64
WORDS: Final = "the dog ran to a big red park and saw her little cat near some trees by the lake"

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """A model with its SAEs on disk, and what is needed of them in process."""

    model_dir: Path
    sae_root: Path
    sae_ids: tuple[str, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        """For a server of it."""
        return ("--model", str(self.model_dir), "--sae-dir", str(self.sae_root))

    @cached_property
    def model(self) -> LanguageModel:
        return boot_model(self.model_dir, device="cpu")

    @cached_property
    def saes(self) -> tuple[SAE, ...]:
        return tuple(SAE.load_from_disk(self.sae_root / name) for name in self.sae_ids)

    def rows(self, texts: list[str]) -> list[Ids]:
        """Token ids of each text, with a BOS as the SAE's metadata ask for it."""
        bos = self.saes[0].cfg.prepend_bos
        return [self.model.tokenizer.encode_text(text, bos).ids for text in texts]


def embedded() -> Setting:
    """The embedded default model with its three SAEs."""
    root = default_sae_root()
    ids = sorted(path.parent.relative_to(root).as_posix() for path in root.rglob("cfg.json"))
    return Setting(default_model_dir(), root, tuple(ids))


def gpt2_shaped() -> Setting:
    """124 M parameters in 12 blocks, 768 wide, and jumprelu SAEs at `LAYERS`."""
    model_dir, sae_root = CACHE / "gpt2-shaped", CACHE / "saes"
    if not model_dir.exists():
        _make_model(model_dir)
    for layer in LAYERS:
        if not (sae_root / _sae_id(layer)).exists():
            make_saes(model_dir, {sae_root / _sae_id(layer): D_SAE}, layer)
    return Setting(model_dir, sae_root, tuple(map(_sae_id, LAYERS)))


def _sae_id(layer: int) -> str:
    return f"blocks.{layer}.hook_resid_pre"


def texts(count: int = 256, *, seed: int = 0, mean: float = 147, p99: float = 800) -> list[str]:
    """Texts whose lengths in tokens are log-normal with that mean and 99th percentile."""
    rng = random.Random(seed)
    # ln p99 − ln mean = 2.326σ − σ²/2, solved for σ.
    sigma = 2.326 - (2.326**2 - 2 * float(np.log(p99 / mean))) ** 0.5
    mu = float(np.log(mean)) - sigma**2 / 2
    longest = 1000
    lengths = [min(max(int(rng.lognormvariate(mu, sigma)), 2), longest) for _ in range(count)]
    # A word of these is one token of the tokenizer.
    return [" ".join(rng.choices(WORDS.split(), k=n - 1)) for n in lengths]


def _make_model(folder: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(bos_token_id=0, eos_token_id=0)
    hf = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in hf.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)  # so that attention looks somewhere
    aside = folder.with_suffix(".new")
    shutil.rmtree(aside, ignore_errors=True)
    hf.save_pretrained(aside)
    AutoTokenizer.from_pretrained(default_model_dir()).save_pretrained(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


@torch.no_grad()
def make_saes(model_dir: Path, folders: dict[Path, int], layer: int = LAYERS[0]) -> None:
    """Writes jumprelu SAEs of so many features, of which about `L0` fire per token."""
    model = boot_model(model_dir, device="cpu")
    generator = torch.Generator().manual_seed(1)
    seen: list[torch.Tensor] = []
    ids = np.stack([model.tokenizer.encode_text(t, True).ids[:100] for t in _long_texts()])
    model.forward(
        torch.from_numpy(ids),
        taps={model.hook_point(_sae_id(layer)): lambda h: seen.append(h.flatten(0, 1))},
    )
    x, d_in = seen[0], model.d_model
    metadata = SAEMetadata(hook_name=_sae_id(layer), prepend_bos=True, context_size=128)
    for folder, d_sae in folders.items():
        W_enc = torch.randn(d_in, d_sae, generator=generator) / d_in**0.5
        cfg = SAEConfig("jumprelu", d_in, d_sae, apply_b_dec_to_input=False, metadata=metadata)
        state = {
            "W_enc": W_enc,
            "W_dec": W_enc.mT.contiguous(),
            "b_enc": torch.zeros(d_sae),
            "b_dec": torch.zeros(d_in),
            "threshold": torch.cat([_thresholds(x, part, d_sae) for part in W_enc.split(4096, 1)]),
        }
        write_sae_folder(SAE.from_state(cfg, state), folder)


def _thresholds(x: torch.Tensor, W_enc: torch.Tensor, d_sae: int) -> torch.Tensor:
    """What a share of L0 / d_sae of the rows is above, feature by feature."""
    p = x @ W_enc
    rank = int(len(p) * (1 - L0 / d_sae)) + 1
    return p.kthvalue(min(rank, len(p)), dim=0).values.clamp(min=1e-3)


def _long_texts() -> list[str]:
    rng = random.Random(5)
    return [" ".join(rng.choices(WORDS.split(), k=120)) for _ in range(64)]
