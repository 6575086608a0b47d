"""What processing makes of activations, measured again on small models of every listed type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models import build_gemma2, build_gpt2, build_llama, build_of
from tests.processed import OLD_DEFAULTS, OPTIONS, processed_bridge
from torch import Tensor
from transformers import GPTJConfig, GPTNeoConfig, GPTNeoXConfig, OPTConfig, PhiConfig

from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.processing import (
    CENTRED_ARCHITECTURES,
    CENTRING,
    ProcessingError,
    is_centred,
)

SIZES = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
TOKENS = torch.randint(5, 380, (2, 11), generator=torch.Generator().manual_seed(1))
STREAM = {"hook_embed"} | {
    f"blocks.1.hook_{name}" for name in ("resid_pre", "resid_post", "attn_out", "mlp_out")
}
INSIDE = {"blocks.1.attn.hook_z", "blocks.1.mlp.hook_post", "blocks.1.ln1.hook_normalized"}
SAME = 1e-5
"""Relative distance of what rounding alone tells apart."""


def booted(folder: Path) -> LanguageModel:
    return boot_model(folder, device="cpu")


@pytest.fixture(scope="module", params=CENTRED_ARCHITECTURES)
def layer_normed(request: pytest.FixtureRequest, tmp_path_factory: Any) -> LanguageModel:
    """A model of each type that centring is served for."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    rotary = {"max_position_embeddings": 96, "intermediate_size": 48}
    match request.param:
        case "GPT2LMHeadModel":
            build_gpt2(folder, n_layers=2)
        case "GPTJForCausalLM":
            build_of(
                folder, GPTJConfig(n_embd=32, n_layer=2, n_head=4, n_positions=96, rotary_dim=4)
            )
        case "GPTNeoForCausalLM":
            pattern = [[["global", "local"], 1]]
            build_of(
                folder,
                GPTNeoConfig(
                    hidden_size=32, num_layers=2, num_heads=4, attention_types=pattern, **rotary
                ),
            )
        case "GPTNeoXForCausalLM":
            build_of(folder, GPTNeoXConfig(**SIZES, **rotary))
        case _:
            build_of(folder, PhiConfig(**SIZES, **rotary))
    model = booted(folder)
    assert model.architecture == request.param
    return model


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: Any) -> LanguageModel:
    return booted(build_gpt2(tmp_path_factory.mktemp("models") / "tiny", n_layers=2))


@pytest.fixture(scope="module", params=[build_llama, build_gemma2])
def rms_normed(request: pytest.FixtureRequest, tmp_path_factory: Any) -> LanguageModel:
    return booted(request.param(tmp_path_factory.mktemp("models") / "tiny"))


def activations(bridge: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities, and the activations by every name that a hook point has."""
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(TOKENS)
    return logits.log_softmax(-1), {n: h for n, h in cache.items() if isinstance(h, Tensor)}


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def check(model: LanguageModel, *options: str) -> tuple[list[str], list[str]]:
    """Hold `is_centred` against what is there; the names that it says are centred, and refuses."""
    log_probs, raw = activations(model.bridge)
    expected, shown = activations(processed_bridge(model, *options))
    torch.testing.assert_close(log_probs, expected, atol=1e-4, rtol=0)
    centred, refused = [], []
    for name in sorted(raw.keys() & shown.keys()):
        hook = model.hook_point(name)
        try:
            takes_mean = is_centred(options, hook, model)
        except ProcessingError:
            refused.append(name)
            continue
        h = raw[name] - raw[name].mean(-1, keepdim=True) if takes_mean else raw[name]
        if hook.shape:
            assert distance(h, shown[name]) < SAME, name
        if takes_mean:
            centred.append(name)
            assert distance(raw[name], shown[name]) > 100 * SAME, f"{name} shows nothing"
    return centred, refused


def test_centring_takes_the_mean_out_of_the_stream_and_leaves_the_rest(
    layer_normed: LanguageModel,
) -> None:
    centred, refused = check(layer_normed, CENTRING)
    assert set(centred) >= STREAM
    assert not INSIDE & {*centred, *refused}


def test_the_old_defaults_centre_the_stream_too(layer_normed: LanguageModel) -> None:
    centred, refused = check(layer_normed, *OLD_DEFAULTS)
    assert set(centred) >= STREAM
    assert {"blocks.1.attn.hook_z", "blocks.1.ln1.hook_out", "unembed.hook_out"} <= set(refused)


@pytest.mark.parametrize("option", [option for option in OPTIONS if option != CENTRING])
def test_other_options_leave_all_that_is_not_refused_as_it_is(
    gpt2: LanguageModel, option: str
) -> None:
    centred, refused = check(gpt2, option)
    assert centred == []
    _, raw = activations(gpt2.bridge)
    _, shown = activations(processed_bridge(gpt2, option))
    known = [name for name in refused if _measured(name, gpt2)]
    assert known, "nothing is refused"
    for name in known:
        assert distance(raw[name], shown[name]) > 100 * SAME, f"{name} is refused for nothing"


def _measured(name: str, model: LanguageModel) -> bool:
    try:
        is_centred([CENTRING], model.hook_point(name), model)
    except ProcessingError:
        return False
    return True


@pytest.mark.parametrize("options", [(CENTRING,), OLD_DEFAULTS])
def test_models_with_rms_norms_are_not_centred(
    rms_normed: LanguageModel, options: tuple[str, ...]
) -> None:
    centred, refused = check(rms_normed, *options)
    assert centred == []
    assert ("blocks.1.ln1.hook_out" in refused) == ("fold_ln" in options)
    assert not STREAM & set(refused)


def test_types_that_were_not_measured_are_refused_by_name(tmp_path: Path) -> None:
    config = OPTConfig(**SIZES, ffn_dim=48, max_position_embeddings=96, word_embed_proj_dim=32)
    model = booted(build_of(tmp_path / "tiny", config))
    with pytest.raises(ProcessingError, match="OPTForCausalLM") as caught:
        is_centred([CENTRING], model.hook_point("blocks.1.hook_resid_pre"), model)
    assert caught.value.field == CENTRING
    assert not is_centred(["fold_ln"], model.hook_point("blocks.1.hook_resid_pre"), model)
