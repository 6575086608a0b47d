"""A small model and folders of SAEs for tests of the registry, without a server around it."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models import build_llama
from tests.saes import random_sae, write_sae

from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_core.sae import SAE, SAEConfig, SAEMetadata
from saekit_server.errors import DomainError
from saekit_server.registry import EventKind, LoadedSAE, Subscription

HOOK = "blocks.1.hook_resid_pre"
D_MODEL = 32
SAE_BYTES = 4 * (2 * 32 * 96 + 96 + 96 + 32)
"""Of `publish`'s SAEs: W_enc, W_dec, b_enc, threshold, b_dec in float32."""


@cache
def tiny_model() -> LanguageModel:
    """Booted once for all tests of a process."""
    with tempfile.TemporaryDirectory() as folder:
        return boot_model(build_llama(Path(folder) / "tiny-llama", n_layers=2), device="cpu")


def publish(folder: Path, seed: int = 0, *, hook_name: str = HOOK) -> Path:
    """An SAE, written or replaced as the trainer does it; `fingerprint` is `seed`."""
    return write_sae(folder, fingerprinted(seed, hook_name=hook_name))


def fingerprinted(seed: int, *, hook_name: str = HOOK, d_in: int = D_MODEL) -> SAE:
    """An SAE whose last element of b_dec is its seed."""
    sae = random_sae(hook_name, d_in, seed=seed)
    with torch.no_grad():
        sae.b_dec[-1] = seed
    return sae


def fingerprint(loaded: LoadedSAE) -> int:
    """The seed of a published SAE, read off its weights."""
    return int(loaded.sae.b_dec[-1])


def reconstruction(loaded: LoadedSAE) -> np.ndarray:
    """What it makes of fixed activations."""
    x = torch.linspace(-2, 2, 4 * D_MODEL).reshape(4, D_MODEL)
    return loaded.sae(x).detach().numpy().copy()


def truncate(path: Path, share: float = 0.5) -> None:
    """Cut a file in place."""
    os.truncate(path, int(path.stat().st_size * share))


def kinds(subscription: Subscription) -> list[tuple[EventKind, str]]:
    """The events that wait, in short."""
    return [(event.kind, event.sae_id) for event in subscription.drain()]


def refused(code: str, call: object, *args: object, **kwargs: object) -> DomainError:
    """The error of a call that must be refused with that code."""
    with pytest.raises(DomainError) as caught:
        call(*args, **kwargs)  # type: ignore[operator]
    assert caught.value.code == code, caught.value
    return caught.value


def principal_components(k: int = 10) -> SAE:
    """A standard SAE that reconstructs what `HOOK` shows on story-like text, from 2k features."""
    model = tiny_model()
    tokenized = model.tokenizer.encode_text(
        "a cat sat on the mat and the red bird flew over the old house by the river. " * 2
    )
    seen: list[torch.Tensor] = []
    hook = model.hook_point(HOOK)
    ids = torch.from_numpy(tokenized.ids[None, : model.max_context])
    model.forward(ids, taps={hook: lambda h: seen.append(h[0, 1:].clone())})
    mean = seen[0].mean(0)
    _, _, directions = torch.linalg.svd(seen[0] - mean, full_matrices=False)
    both = torch.cat([directions[:k], -directions[:k]])
    cfg = SAEConfig(
        "standard",
        D_MODEL,
        2 * k,
        apply_b_dec_to_input=True,
        metadata=SAEMetadata(hook_name=HOOK),
    )
    state = {
        "W_enc": both.mT.contiguous(),
        "b_enc": torch.zeros(2 * k),
        "W_dec": both.clone(),
        "b_dec": mean,
    }
    return SAE.from_state(cfg, state)


class FakeClock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
