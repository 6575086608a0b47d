"""SAEs come and go in a bridge, and everything else about it stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.core.lm.hooked_support import RESID, TOKENS, Recorder, sae_at, transcoder
from torch import Tensor

from saekit_core.lm import HookedSAETransformer, LMError, UnknownHookPointError
from saekit_core.sae import SAE

POST = f"{RESID}.hook_sae_acts_post"
LATER = "blocks.2.hook_mlp_out"


def test_an_sae_stays_attached_until_it_is_reset(hooked: HookedSAETransformer) -> None:
    clean = hooked(TOKENS)
    names = set(hooked.hook_dict)
    sae = sae_at()
    hooked.add_sae(sae)
    assert hooked.acts_to_saes == {RESID: sae}
    spliced = hooked(TOKENS)
    assert torch.equal(spliced, hooked(TOKENS))
    assert not torch.equal(spliced, clean)
    assert {name for name in hooked.hook_dict if "hook_sae" in name} == {
        f"{RESID}.hook_sae_{part}"
        for part in ("input", "acts_pre", "acts_post", "recons", "error", "output")
    }
    hooked.reset_saes()
    assert hooked.acts_to_saes == {}
    assert torch.equal(hooked(TOKENS), clean)
    assert set(hooked.hook_dict) == names


def test_several_saes_are_spliced_in_at_once(hooked: HookedSAETransformer) -> None:
    saes = [sae_at(), sae_at(LATER, "topk"), sae_at("blocks.0.attn.hook_z", "gated")]

    def replace(sae: SAE) -> Any:
        return (sae.cfg.hook_name, lambda h, **_: sae(h))

    expected = hooked.run_with_hooks(TOKENS, fwd_hooks=[replace(sae) for sae in saes])
    assert torch.equal(hooked.run_with_saes(TOKENS, saes=saes), expected)
    _, cache = hooked.run_with_cache_with_saes(TOKENS, saes=saes)
    assert {n for n in cache if "acts_post" in n} == {
        f"{sae.cfg.hook_name}.hook_sae_acts_post" for sae in saes
    }
    for sae in saes:
        hooked.add_sae(sae)
    assert list(hooked.acts_to_saes.values()) == saes
    hooked.reset_saes([RESID, LATER])
    assert list(hooked.acts_to_saes.values()) == saes[2:]
    hooked.reset_saes("blocks.0.attn.hook_z")
    assert not hooked.acts_to_saes


def test_an_sae_at_the_same_hook_point_takes_the_place_of_the_first(
    hooked: HookedSAETransformer,
) -> None:
    first, second = sae_at(), sae_at(architecture="topk")
    alone = hooked.run_with_saes(TOKENS, saes=[second])
    hooked.add_sae(first)
    hooked.add_sae(second)
    assert hooked.acts_to_saes == {RESID: second}
    assert torch.equal(hooked(TOKENS), alone)
    # The bridge's own name for the same hook point.
    other_name = sae_at("blocks.1.hook_in", "gated")
    hooked.add_sae(other_name)
    assert hooked.acts_to_saes == {"blocks.1.hook_in": other_name}
    hooked.reset_saes(RESID)
    assert not hooked.acts_to_saes
    with hooked.saes([first, second]):
        assert hooked.acts_to_saes == {RESID: second}
    assert not hooked.acts_to_saes


def test_a_transcoder_takes_the_place_at_both_of_its_hook_points(
    hooked: HookedSAETransformer,
) -> None:
    of_the_mlp = transcoder()
    for other in (sae_at("blocks.1.hook_mlp_out"), transcoder(writes="blocks.2.hook_mlp_out")):
        hooked.add_sae(other)
        hooked.add_sae(of_the_mlp)
        assert list(hooked.acts_to_saes.values()) == [of_the_mlp]
        assert sum("hook_sae_output" in name for name in hooked.hook_dict) == 1
        hooked.add_sae(other)
        assert list(hooked.acts_to_saes.values()) == [other]
        hooked.reset_saes()


def test_what_was_attached_before_comes_back(hooked: HookedSAETransformer) -> None:
    before, during = sae_at(), sae_at(architecture="topk")
    hooked.add_sae(before, use_error_term=True)
    attached_only = hooked(TOKENS)
    hooked.add_hook(POST, lambda acts, **_: 2 * acts)  # of the SAE that comes back
    edited = hooked(TOKENS)
    assert not torch.equal(edited, attached_only)
    with hooked.saes([during, sae_at(architecture="gated"), sae_at(LATER)]) as model:
        assert model is hooked
        assert model.acts_to_saes.keys() == {RESID, LATER}
        assert not torch.equal(model(TOKENS), edited)
    assert hooked.acts_to_saes == {RESID: before}
    assert torch.equal(hooked(TOKENS), edited)


def test_what_was_attached_before_comes_back_after_an_error_too(
    hooked: HookedSAETransformer,
) -> None:
    before = sae_at()
    hooked.add_sae(before)
    spliced = hooked(TOKENS)

    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        hooked.run_with_hooks_with_saes(
            TOKENS, saes=[sae_at(architecture="topk"), transcoder()], fwd_hooks=[(POST, fail)]
        )
    assert hooked.acts_to_saes == {RESID: before}
    assert torch.equal(hooked(TOKENS), spliced)


def test_reset_saes_end_false_leaves_them(hooked: HookedSAETransformer) -> None:
    before, during = sae_at(), sae_at(architecture="topk")
    hooked.add_sae(before)
    spliced = hooked.run_with_saes(TOKENS, saes=[during], reset_saes_end=False)
    assert hooked.acts_to_saes == {RESID: during}
    assert torch.equal(hooked(TOKENS), spliced)
    hooked.reset_saes(prev_saes=[before])
    assert hooked.acts_to_saes == {RESID: before}
    with pytest.raises(LMError, match="2 for 1 hook points"):
        hooked.reset_saes(RESID, prev_saes=[before, None])


def test_an_sae_added_inside_stays_where_it_was_put(hooked: HookedSAETransformer) -> None:
    before, inside, elsewhere = sae_at(), sae_at(architecture="gated"), sae_at(LATER)
    hooked.add_sae(before)
    with hooked.saes([sae_at(architecture="topk")]):
        hooked.add_sae(inside)
        hooked.add_sae(elsewhere)
    assert hooked.acts_to_saes == {RESID: inside, LATER: elsewhere}


def test_an_sae_decides_on_its_error_term_unless_told(hooked: HookedSAETransformer) -> None:
    sae = sae_at()
    clean, spliced = hooked(TOKENS), hooked.run_with_saes(TOKENS, saes=[sae])
    sae.use_error_term = True
    x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sae(x), x)
    assert torch.equal(hooked.run_with_saes(TOKENS, saes=[sae]), clean)
    assert torch.equal(hooked.run_with_saes(TOKENS, saes=[sae], use_error_term=False), spliced)
    hooked.add_sae(sae)
    assert torch.equal(hooked(TOKENS), clean)


@pytest.mark.parametrize("is_permanent", [False, True])
@pytest.mark.parametrize("added", ["before", "after"])
def test_a_users_own_hooks_survive_and_see_what_flows_on(
    hooked: HookedSAETransformer, added: str, is_permanent: bool
) -> None:
    sae, own = sae_at(), Recorder()
    clean = hooked(TOKENS)
    if added == "after":
        hooked.add_sae(sae)
    hooked.add_hook(RESID, own, is_permanent=is_permanent)
    hooked.add_hook("blocks.1.hook_mlp_out", lambda h, **_: h + 1, is_permanent=is_permanent)
    if added == "before":
        hooked.add_sae(sae)
    output = Recorder()
    hooked.run_with_hooks(TOKENS, fwd_hooks=[(f"{RESID}.hook_sae_output", output)])
    assert torch.equal(own.value, output.value)
    with hooked.saes([sae_at(architecture="topk"), transcoder()]):
        hooked(TOKENS)
        assert not torch.equal(own.value, output.value)
    hooked.reset_saes()
    assert not torch.equal(hooked(TOKENS), clean)
    point = hooked.hook_dict[RESID]
    assert [handle.user_hook for handle in point.fwd_hooks] == [own]
    hooked.reset_hooks(including_permanent=is_permanent)
    assert torch.equal(hooked(TOKENS), clean)


@pytest.mark.parametrize("sae", [sae_at(), transcoder()], ids=["autoencoder", "transcoder"])
def test_resetting_hooks_leaves_saes_attached(hooked: HookedSAETransformer, sae: SAE) -> None:
    hooked.add_sae(sae)
    spliced = hooked(TOKENS)
    name = f"{sae.cfg.metadata.hook_name_out or RESID}.hook_sae_acts_post"
    hooked.add_hook(name, lambda acts, **_: 0 * acts)
    assert not torch.equal(hooked(TOKENS), spliced)
    hooked.reset_hooks()
    assert torch.equal(hooked(TOKENS), spliced)
    hooked.reset_hooks(including_permanent=True)
    assert torch.equal(hooked(TOKENS), spliced)


def test_a_missing_hook_point_is_an_error_with_near_names(hooked: HookedSAETransformer) -> None:
    for sae in (
        sae_at("blocks.1.hook_resid_pro"),
        transcoder(reads="blocks.1.hook_resid_pro"),
        transcoder(writes="blocks.1.hook_resid_pro"),
    ):
        with pytest.raises(UnknownHookPointError, match="does not exist; near: ") as caught:
            hooked.run_with_saes(TOKENS, saes=[sae_at(LATER), sae])
        assert RESID in caught.value.near
        assert not hooked.acts_to_saes
    with pytest.raises(UnknownHookPointError, match=r"'blocks\.9\.hook_resid_pre' does not exist"):
        hooked.add_sae(sae_at("blocks.9.hook_resid_pre"))
    with pytest.raises(UnknownHookPointError):
        hooked.reset_saes("blocks.9.hook_resid_pre")
    with pytest.raises(LMError, match="name no hook point"):
        hooked.add_sae(sae_at(metadata={"hook_name": None}))
    with pytest.raises(TypeError, match="expected an SAE, got str"):
        hooked.add_sae("blocks.1.hook_resid_pre")  # type: ignore[arg-type]


def test_a_hook_point_that_is_off_or_never_fires_is_an_error(
    hooked_gpt2: HookedSAETransformer,
) -> None:
    for sae in (sae_at("blocks.1.hook_mlp_in"), transcoder(reads="blocks.1.hook_mlp_in")):
        with pytest.raises(ValueError, match="use_hook_mlp_in is False"):
            hooked_gpt2.add_sae(sae)
    with (
        hooked_gpt2.saes([sae_at("blocks.1.attn.qkv.hook_in")]),
        pytest.raises(LMError, match=r"blocks.1.attn.qkv.hook_in does not fire in this model"),
    ):
        hooked_gpt2(TOKENS)


@pytest.mark.parametrize("stop_at_layer", [0, 1, 2, 3, -1, -3, 7])
def test_a_run_stops_before_the_layer_and_its_saes(
    hooked: HookedSAETransformer, stop_at_layer: int
) -> None:
    saes = [sae_at(), sae_at("blocks.2.hook_resid_post")]
    logits, cache = hooked.run_with_cache_with_saes(TOKENS, saes=saes)
    at = stop_at_layer + 3 if stop_at_layer < 0 else min(stop_at_layer, 3)
    # A residual stream between layers: what has left one is what enters the next.
    expected = cache[f"blocks.{at - 1}.hook_resid_post" if at else "blocks.0.hook_resid_pre"]
    with hooked.saes(saes):
        runs = [
            hooked(TOKENS, stop_at_layer=stop_at_layer),
            hooked.run_with_hooks(TOKENS, stop_at_layer=stop_at_layer),
        ]
        stopped, part = hooked.run_with_cache(TOKENS, stop_at_layer=stop_at_layer)
        assert torch.equal(hooked(TOKENS), logits)
    for found in (*runs, stopped):
        assert torch.equal(found, expected)
    assert (POST in part) == (at > 1)
    assert ("blocks.2.hook_resid_post.hook_sae_acts_post" in part) == (at > 2)
    if at > 1:
        assert torch.equal(part[POST], cache[POST])
    with pytest.raises(LMError, match="before the first of 3 layers"):
        hooked(TOKENS, stop_at_layer=-4)


def test_what_the_bridges_runs_take_passes_through(hooked: HookedSAETransformer) -> None:
    saes = [sae_at()]
    logits = hooked.run_with_saes(TOKENS, saes=saes, return_type="logits")
    both = hooked.run_with_saes(TOKENS, saes=saes, return_type="both")
    loss = hooked.run_with_saes(TOKENS, saes=saes, return_type="loss")
    assert hooked.run_with_saes(TOKENS, saes=saes, return_type=None) is None
    assert torch.equal(both[0], logits)
    assert torch.equal(both[1], loss)
    reference = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten()
    )
    torch.testing.assert_close(loss, reference)
    losses = hooked.run_with_saes(TOKENS, saes=saes, return_type="loss", loss_per_token=True)
    assert losses.shape == (2, 6)
    text, cache = hooked.run_with_cache_with_saes(
        "the cat sat", saes=saes, prepend_bos=False, names_filter=[POST], remove_batch_dim=True
    )
    assert set(cache) == {POST}
    assert cache[POST].shape == (text.shape[1], 96)
    _, plain = hooked.run_with_cache_with_saes(
        TOKENS, saes=saes, names_filter=lambda name: "hook_sae" in name, return_cache_object=False
    )
    assert type(plain) is dict
    assert len(plain) == 5  # no error term, no error
    _, cut = hooked.run_with_cache_with_saes(
        TOKENS, saes=saes, names_filter=POST, pos_slice=slice(1, 3)
    )
    assert torch.equal(cut[POST], plain[POST][:, 1:3])


def test_hooks_inside_a_splice_are_hooks_like_any_other(hooked: HookedSAETransformer) -> None:
    def steer(acts: Tensor, **_: Any) -> Tensor:
        acts[..., 3] += 4
        return acts

    sae = sae_at()
    once = hooked.run_with_hooks_with_saes(TOKENS, saes=[sae], fwd_hooks=[(POST, steer)])
    by_filter = hooked.run_with_hooks_with_saes(
        TOKENS, saes=[sae], fwd_hooks=[(lambda name: name.endswith("acts_post"), steer)]
    )
    assert torch.equal(by_filter, once)
    hooked.add_sae(sae)
    clean = hooked(TOKENS)
    assert not torch.equal(once, clean)
    with hooked.hooks(fwd_hooks=[(POST, steer)]):
        assert torch.equal(hooked(TOKENS), once)
    hooked.add_perma_hook(POST, steer)
    assert torch.equal(hooked(TOKENS), once)
    hooked.hook_dict[POST].remove_hooks(including_permanent=True)
    layers = []
    hooked.add_hook(POST, lambda _, hook: layers.append(hook.layer()))
    assert torch.equal(hooked(TOKENS), clean)
    assert layers == [1]


@pytest.mark.parametrize("use_cache", [False, True])
def test_generation_runs_through_the_saes(hooked: HookedSAETransformer, use_cache: bool) -> None:
    saes = [sae_at(), transcoder()]
    prompt = TOKENS[:1, :4]
    with hooked.saes(saes, exclude_special_tokens=[int(prompt[0, 0])]):
        expected = prompt
        for _ in range(8):
            chosen = hooked(expected)[:, -1].argmax(-1, keepdim=True)
            expected = torch.cat([expected, chosen], dim=1)
        generated = hooked.generate(
            prompt,
            max_new_tokens=8,
            do_sample=False,
            stop_at_eos=False,
            use_past_kv_cache=use_cache,
            verbose=False,
        )
        assert torch.equal(generated, expected)
        outside = hooked.hf_generate(
            prompt,
            max_new_tokens=8,
            do_sample=False,
            stop_at_eos=False,
            use_past_kv_cache=use_cache,
        )
        assert torch.equal(outside, expected)
    clean = hooked.generate(prompt, max_new_tokens=8, do_sample=False, verbose=False)
    assert not torch.equal(clean, expected)


def test_edits_between_attention_and_mlp_reach_the_residual_stream(
    hooked: HookedSAETransformer,
) -> None:
    mid, mlp, post = Recorder(), Recorder(), Recorder()
    name = "blocks.1.hook_resid_mid"
    hooked.run_with_hooks(
        TOKENS,
        fwd_hooks=[
            (name, lambda h, **_: h.flip(-1)),
            (name, mid),
            ("blocks.1.hook_mlp_out", mlp),
            ("blocks.1.hook_resid_post", post),
        ],
    )
    torch.testing.assert_close(post.value, mid.value + mlp.value)
    weights = torch.arange(32.0)
    found, expected = (
        torch.autograd.grad((value * weights).sum(), mid.value, retain_graph=True)
        for value in (post.value, mid.value + mlp.value)
    )
    torch.testing.assert_close(found[0], expected[0])


def test_weights_are_not_processed_under_attached_saes(hooked_gpt2: HookedSAETransformer) -> None:
    hooked_gpt2.add_sae(sae_at())
    with pytest.raises(LMError, match="detach the SAEs first"):
        hooked_gpt2.enable_compatibility_mode()
