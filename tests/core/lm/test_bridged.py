"""A TransformerBridge of somebody else's, run as a LanguageModel is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models import build_gemma2, build_gpt2, build_llama
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from saekit_core.lm.boot import boot_model
from saekit_core.lm.bridged import BridgedModel, as_tapped
from saekit_core.lm.errors import LMError, UnknownHookPointError
from saekit_core.lm.hook_points import Tap

HOOKS = ("blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.1.attn.hook_z")
TOKENS = torch.randint(10, 300, (3, 12), generator=torch.Generator().manual_seed(0))
EVERYWHERE = torch.arange(TOKENS.numel())


@pytest.fixture(scope="module", params=[build_llama, build_gpt2, build_gemma2])
def raw(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    build: Callable[[Path], Path] = request.param
    return boot_model(build(tmp_path_factory.mktemp("model")), device="cpu").bridge


@pytest.fixture(scope="module", params=["raw", "processed"])
def bridge(request: pytest.FixtureRequest, raw: Any) -> Any:
    if request.param == "raw":
        return raw
    processed = copy.deepcopy(raw)
    processed.enable_compatibility_mode(disable_warnings=True)
    return processed


def reading(seen: list[Tensor]) -> Tap:
    def tap(h: Tensor) -> None:
        seen.append(h.clone())

    return tap


def test_activations_logits_and_replacements_are_those_of_the_bridge(bridge: Any) -> None:
    model = as_tapped(bridge)
    with torch.no_grad():
        expected, cache = bridge.run_with_cache(TOKENS)
    for name in HOOKS:
        hook = model.hook_point(name)
        seen: list[Tensor] = []
        logits = model.forward(TOKENS, taps={hook: reading(seen)}, logits_at=EVERYWHERE)
        assert torch.equal(logits, expected.flatten(0, 1))
        assert torch.equal(seen[0], cache[name])
        assert seen[0].shape[2:] == hook.shape
        zeroed = model.forward(TOKENS, taps={hook: torch.zeros_like}, logits_at=EVERYWHERE[5:7])
        with torch.no_grad():
            edits = [(name, lambda h, hook: torch.zeros_like(h))]  # noqa: ARG005
            expected_zeroed = bridge.run_with_hooks(TOKENS, fwd_hooks=edits)
        torch.testing.assert_close(zeroed, expected_zeroed.flatten(0, 1)[5:7])


def test_a_pass_ends_at_the_deepest_tap(bridge: Any) -> None:
    model = as_tapped(bridge)
    later: list[Tensor] = []
    with bridge.hooks(fwd_hooks=[("blocks.2.hook_resid_post", lambda h, hook: later.append(h))]):  # noqa: ARG005
        assert model.forward(TOKENS, taps={model.hook_point(HOOKS[0]): reading([])}) is None
        assert not later
        model.forward(TOKENS, taps={}, logits_at=EVERYWHERE[:1])
        assert later


def test_hooks_of_its_owner_stay_in_force(bridge: Any) -> None:
    model = as_tapped(bridge)
    clean = model.forward(TOKENS, taps={}, logits_at=EVERYWHERE)
    seen: list[Tensor] = []
    with bridge.hooks(fwd_hooks=[("blocks.0.hook_resid_post", lambda h, hook: 0 * h)]):  # noqa: ARG005
        changed = model.forward(
            TOKENS, taps={model.hook_point(HOOKS[0]): reading(seen)}, logits_at=EVERYWHERE
        )
    assert not seen[0].any()
    assert not torch.equal(changed, clean)
    assert torch.equal(model.forward(TOKENS, taps={}, logits_at=EVERYWHERE), clean)


def test_it_says_what_a_language_model_says(tmp_path: Path) -> None:
    model = boot_model(build_gpt2(tmp_path / "tiny"), device="cpu")
    tapped = as_tapped(model.bridge)
    assert isinstance(tapped, BridgedModel)
    assert as_tapped(tapped) is tapped
    assert as_tapped(model) is model
    assert (tapped.d_vocab, tapped.max_context) == (model.d_vocab, model.max_context)
    assert tapped.device == model.device
    assert tapped.name.endswith("tiny")
    ours, theirs = (m.tokenizer.encode_text("A cat </s> sat.") for m in (tapped, model))
    assert ours.ids.tolist() == theirs.ids.tolist()
    assert ours.special.tolist() == theirs.special.tolist()
    with pytest.raises(UnknownHookPointError, match=r"near: blocks\.1\.hook_resid_pre"):
        tapped.hook_point("blocks.1.hook_resid_per")
    with pytest.raises(LMError, match="takes at most 96"):
        tapped.forward(torch.zeros(1, 97, dtype=torch.long), taps={}, logits_at=EVERYWHERE[:1])


def test_a_bridge_without_a_fast_tokenizer_is_refused(tmp_path: Path) -> None:
    bridge: TransformerBridge = boot_model(build_gpt2(tmp_path), device="cpu").bridge
    bridge._tokenizer = None
    with pytest.raises(LMError, match="no fast tokenizer"):
        as_tapped(bridge)
