"""Activation functions in one piece give what transformers' own give."""

from pathlib import Path

import pytest
import torch
from tests.models import build_gpt2
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.activations import ACT2FN

from saekit_core.lm.boot import boot_model
from saekit_core.lm.fused_activations import fuse_activations


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast", "gelu_pytorch_tanh"])
def test_every_tanh_gelu_is_replaced_by_an_equal(name: str) -> None:
    theirs = nn.Sequential(nn.Linear(8, 8), ACT2FN[name])
    ours = nn.Sequential(theirs[0], ACT2FN[name])
    fuse_activations(ours)
    assert type(ours[1]) is nn.GELU
    x = torch.linspace(-9, 9, 8000).view(-1, 8)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=2e-6)


def test_an_exact_gelu_stays() -> None:
    model = nn.Sequential(ACT2FN["gelu"], nn.SiLU())
    before = list(model)
    fuse_activations(model)
    assert list(model) == before


def test_a_booted_gpt2_computes_what_transformers_does(tmp_path: Path) -> None:
    folder = build_gpt2(tmp_path / "gpt2")
    model = boot_model(folder, device="cpu")
    assert any(type(module) is nn.GELU for module in model.hf.modules())
    tokens = torch.arange(1, 25).view(2, 12)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        expected = plain(tokens).logits.flatten(0, 1)
    logits = model.forward(tokens, taps={}, logits_at=torch.arange(24))
    assert logits is not None
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
