"""What a splice computes: against the published formulas, bit for bit where it promises that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.core.lm.hooked_support import (
    RESID,
    TOKENS,
    TRANSCODERS,
    Recorder,
    formula,
    sae_at,
    transcoder,
)
from tests.saes import ARCHITECTURES, FURTHER
from torch import Tensor

from saekit_core.lm import HookedSAETransformer, LMError, UnsupportedModelError
from saekit_core.sae import SAE

AUTOENCODERS = (*ARCHITECTURES, *(name for name in FURTHER if "transcoder" not in name))
NORMALIZATIONS = ("none", "layer_norm", "constant_norm_rescale")
PLACES = (
    RESID,
    "blocks.1.hook_resid_mid",
    "blocks.1.hook_resid_post",
    "blocks.1.hook_mlp_out",
    "blocks.1.attn.hook_z",
    "hook_embed",
)


def activations(model: HookedSAETransformer, name: str) -> Tensor:
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS, names_filter=name)
    found: Tensor = cache[name]
    return found


def with_value(model: HookedSAETransformer, name: str, value: Tensor) -> Tensor:
    """Logits of a run in which `value` stands at a hook point."""
    with torch.no_grad():
        logits: Tensor = model.run_with_hooks(TOKENS, fwd_hooks=[(name, lambda *_, **__: value)])
    return logits


def hook_of(sae: SAE, name: str) -> str:
    """Full name of one of an SAE's own hook points."""
    metadata = sae.cfg.metadata
    return f"{metadata.hook_name_out or metadata.hook_name}.hook_sae_{name}"


@pytest.mark.parametrize("architecture", AUTOENCODERS)
def test_without_error_term_the_reconstruction_takes_the_activations_place(
    hooked: HookedSAETransformer, architecture: str
) -> None:
    sae = sae_at(architecture=architecture, normalization="layer_norm")
    h = activations(hooked, RESID)
    expected = with_value(hooked, RESID, formula(sae, h).float())
    with torch.no_grad():
        spliced = hooked.run_with_saes(TOKENS, saes=[sae])
    torch.testing.assert_close(spliced, expected, atol=1e-4, rtol=1e-4)
    assert (spliced - hooked(TOKENS)).abs().max() > 0.1


@pytest.mark.parametrize("place", PLACES)
def test_a_splice_is_the_same_as_a_hook_that_encodes_and_decodes(
    hooked: HookedSAETransformer, place: str
) -> None:
    sae = sae_at(place, "gated")
    with torch.no_grad():
        h = activations(hooked, place)
        expected = with_value(hooked, place, sae(h))
        assert torch.equal(hooked.run_with_saes(TOKENS, saes=sae), expected)


@pytest.mark.parametrize("use_grad", [False, True])
@pytest.mark.parametrize("architecture", AUTOENCODERS)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_with_error_term_nothing_changes_bit_for_bit(
    hooked: HookedSAETransformer, architecture: str, normalization: str, use_grad: bool
) -> None:
    sae = sae_at(architecture=architecture, normalization=normalization)
    with torch.set_grad_enabled(use_grad):
        spliced = hooked.run_with_saes(TOKENS, saes=[sae], use_error_term=True)
        assert torch.equal(spliced, hooked(TOKENS))


@pytest.mark.parametrize("place", PLACES)
def test_with_error_term_nothing_changes_at_any_hook_point(
    hooked: HookedSAETransformer, place: str
) -> None:
    sae = sae_at(place)
    spliced, cache = hooked.run_with_cache_with_saes(TOKENS, saes=[sae], use_error_term=True)
    assert torch.equal(spliced, hooked(TOKENS))
    h = activations(hooked, place)
    assert torch.equal(cache[hook_of(sae, "output")], h)
    torch.testing.assert_close(cache[hook_of(sae, "error")], h - sae(h))


@pytest.mark.parametrize("architecture", AUTOENCODERS)
@pytest.mark.parametrize("use_error_term", [False, True])
def test_features_edited_in_place_change_the_reconstruction_by_the_formula(
    hooked: HookedSAETransformer, architecture: str, use_error_term: bool
) -> None:
    sae = sae_at(architecture=architecture, normalization="layer_norm")

    def edit(acts: Tensor, **_: Any) -> Tensor:
        acts[..., 3] = 5.0
        acts[..., :2] = 0.0
        return acts

    h = activations(hooked, RESID)
    expected = formula(sae, h, edit)
    if use_error_term:
        expected = h + expected - formula(sae, h)
    spliced = hooked.run_with_hooks_with_saes(
        TOKENS,
        saes=[sae],
        use_error_term=use_error_term,
        fwd_hooks=[(hook_of(sae, "acts_post"), edit)],
    )
    torch.testing.assert_close(
        spliced, with_value(hooked, RESID, expected.float()), atol=2e-4, rtol=2e-4
    )


@pytest.mark.parametrize("inference_mode", [False, True])
@pytest.mark.parametrize("point", ["input", "acts_pre", "acts_post", "recons", "error", "output"])
def test_an_edit_at_any_hook_point_of_the_splice_goes_on_from_there(
    hooked: HookedSAETransformer, point: str, inference_mode: bool
) -> None:
    sae = sae_at(architecture="standard")
    h = activations(hooked, RESID)

    def double(value: Tensor, **_: Any) -> None:
        value *= 2  # in place, and nothing returned

    with torch.no_grad():
        p = sae.pre_activations(sae.prepare(h)[0])
        error = h - sae(h)
        expected = {
            "input": sae(2 * h) + error,
            "acts_pre": sae.decode(sae.activate(2 * p)) + error,
            "acts_post": sae.decode(2 * sae.activate(p)) + error,
            "recons": 2 * sae(h) + error,
            "error": sae(h) + 2 * error,
            "output": 2 * h,
        }[point]
    output = Recorder()
    with torch.inference_mode(inference_mode), torch.no_grad():
        spliced = hooked.run_with_hooks_with_saes(
            TOKENS,
            saes=[sae],
            use_error_term=True,
            fwd_hooks=[(hook_of(sae, point), double), (hook_of(sae, "output"), output)],
        )
    torch.testing.assert_close(output.value, expected)
    torch.testing.assert_close(
        spliced.clone(), with_value(hooked, RESID, expected), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("architecture", AUTOENCODERS)
def test_the_cache_holds_every_step_of_the_splice(
    hooked: HookedSAETransformer, architecture: str
) -> None:
    sae = sae_at(architecture=architecture, normalization="constant_norm_rescale")
    _, cache = hooked.run_with_cache_with_saes(TOKENS, saes=[sae], use_error_term=True)
    h = activations(hooked, RESID)
    acts, state = sae.encode_with_state(h)
    expected = {
        "input": h,
        "acts_post": acts,
        "recons": sae.reconstruct(acts),
        "error": h - sae.decode(acts, state),
        "output": h,
    }
    if architecture == "gated":
        x_tilde, _ = sae.prepare(h)
        expected["acts_pre"] = x_tilde @ (sae.W_enc * sae.r_mag.exp()) + sae.b_mag
    elif sae.architecture.has_pre_activations:
        expected["acts_pre"] = sae.pre_activations(sae.prepare(h)[0])
    elif architecture == "temporal":
        assert torch.equal(
            cache[hook_of(sae, "acts_pre")].clamp(min=0).gt(0) & (acts > 0), acts > 0
        )
        expected["acts_pre"] = cache[hook_of(sae, "acts_pre")]
    for name, value in expected.items():
        torch.testing.assert_close(
            cache[hook_of(sae, name)], value, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert {name for name in cache if "hook_sae" in name} == {hook_of(sae, n) for n in expected}
    # The hook point itself shows what flows on.
    assert torch.equal(cache[RESID], cache[hook_of(sae, "output")])


@pytest.mark.parametrize("architecture", TRANSCODERS)
@pytest.mark.parametrize("use_error_term", [False, True])
def test_a_transcoder_reads_at_one_hook_point_and_writes_at_another(
    hooked: HookedSAETransformer, architecture: str, use_error_term: bool
) -> None:
    sae = transcoder(architecture)
    x = activations(hooked, "blocks.1.ln2.hook_normalized")
    h = activations(hooked, "blocks.1.hook_mlp_out")
    y = formula(sae, x).float()
    logits, cache = hooked.run_with_cache_with_saes(
        TOKENS, saes=[sae], use_error_term=use_error_term
    )
    expected = h if use_error_term else y
    torch.testing.assert_close(cache["blocks.1.hook_mlp_out.hook_sae_output"], expected)
    torch.testing.assert_close(cache["blocks.1.hook_mlp_out.hook_sae_input"], x)
    if use_error_term:
        assert torch.equal(logits, hooked(TOKENS))
        torch.testing.assert_close(cache["blocks.1.hook_mlp_out.hook_sae_error"], h - y)
    else:
        torch.testing.assert_close(
            logits, with_value(hooked, "blocks.1.hook_mlp_out", y), atol=1e-4, rtol=1e-4
        )


def test_a_transcoder_sees_what_a_users_hook_makes_of_its_input(
    hooked: HookedSAETransformer,
) -> None:
    place = "blocks.1.hook_resid_mid"
    seen = Recorder()
    hooked.run_with_hooks_with_saes(
        TOKENS,
        saes=[transcoder("transcoder", reads=place)],
        fwd_hooks=[
            (place, lambda x, **_: x + 1),
            ("blocks.1.hook_mlp_out.hook_sae_input", seen),
        ],
    )
    assert torch.equal(seen.value, activations(hooked, place) + 1)


@pytest.mark.parametrize("use_error_term", [False, True])
def test_an_sae_of_one_head_leaves_the_other_heads_alone(
    hooked: HookedSAETransformer, use_error_term: bool
) -> None:
    place = "blocks.1.attn.hook_z"
    metadata = {"hook_name": place, "hook_head_index": 2}
    sae = sae_at(architecture="standard", d_in=8, metadata=metadata)
    z = activations(hooked, place)
    logits, cache = hooked.run_with_cache_with_saes(
        TOKENS, saes=[sae], use_error_term=use_error_term
    )
    assert torch.equal(cache[f"{place}.hook_sae_input"], z[:, :, 2])
    expected = z.clone()
    if not use_error_term:
        expected[:, :, 2] = sae(z[:, :, 2]).detach()
    assert torch.equal(cache[place], expected)
    assert torch.equal(logits, with_value(hooked, place, expected))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("architecture", ["gated", "topk"])
def test_a_half_precision_sae_in_a_float32_model(
    hooked: HookedSAETransformer, architecture: str, dtype: str
) -> None:
    sae = sae_at(architecture=architecture, normalization="layer_norm")
    sae = sae.to(getattr(torch, dtype))
    h = activations(hooked, RESID)
    _, cache = hooked.run_with_cache_with_saes(TOKENS, saes=[sae])
    assert cache[hook_of(sae, "acts_post")].dtype is getattr(torch, dtype)
    assert cache[hook_of(sae, "output")].dtype is torch.float32
    assert torch.equal(cache[hook_of(sae, "output")], sae(h).float())
    spliced = hooked.run_with_saes(TOKENS, saes=[sae], use_error_term=True)
    assert torch.equal(spliced, hooked(TOKENS))


def test_a_float32_sae_in_a_half_precision_model(llama_dir: Any) -> None:
    model = HookedSAETransformer.from_pretrained_no_processing(
        llama_dir, device="cpu", dtype="bfloat16"
    )
    sae = sae_at()
    clean = model(TOKENS)
    assert clean.dtype is torch.bfloat16
    assert torch.equal(model.run_with_saes(TOKENS, saes=[sae], use_error_term=True), clean)
    _, cache = model.run_with_cache_with_saes(TOKENS, saes=[sae])
    h = activations(model, RESID)
    assert torch.equal(cache[hook_of(sae, "output")], sae(h).bfloat16())
    assert cache[hook_of(sae, "acts_post")].dtype is torch.float32
    wider = model.run_with_hooks_with_saes(
        TOKENS, saes=[sae], fwd_hooks=[(hook_of(sae, "output"), lambda h, **_: h.float())]
    )
    assert torch.equal(wider, model.run_with_saes(TOKENS, saes=[sae]))


def test_gradients_flow_through_a_splice(hooked: HookedSAETransformer) -> None:
    sae = sae_at(architecture="standard")
    acts = Recorder()

    def keep(value: Tensor, **_: Any) -> None:
        value.retain_grad()
        acts(value)

    loss = hooked.run_with_hooks_with_saes(
        TOKENS, saes=[sae], fwd_hooks=[(hook_of(sae, "acts_post"), keep)], return_type="loss"
    )
    loss.backward()
    for name, parameter in sae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert acts.value.grad is not None
    assert acts.value.grad.abs().sum() > 0
    embedding = hooked.embed.weight.grad
    assert embedding is not None
    assert embedding[TOKENS].abs().sum() > 0


def test_gradients_with_error_term_take_the_way_through_the_features_alone(
    hooked: HookedSAETransformer,
) -> None:
    sae = sae_at(architecture="standard")
    x = activations(hooked, RESID).requires_grad_()
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))

    hooked.add_hook("blocks.0.hook_resid_post", lambda *_, **__: x)
    output = Recorder()
    hooked.run_with_hooks_with_saes(
        TOKENS,
        saes=[sae],
        use_error_term=True,
        fwd_hooks=[(hook_of(sae, "output"), output)],
    )
    (found,) = torch.autograd.grad((output.value * upstream).sum(), x)
    (expected,) = torch.autograd.grad((sae(x) * upstream).sum(), x)
    torch.testing.assert_close(found, expected)


def test_a_hook_may_let_gradients_into_the_error(hooked: HookedSAETransformer) -> None:
    sae = sae_at()
    error = Recorder()

    def let_in(value: Tensor, **_: Any) -> Tensor:
        return error(value.requires_grad_()) or value

    loss = hooked.run_with_hooks_with_saes(
        TOKENS,
        saes=[sae],
        use_error_term=True,
        return_type="loss",
        fwd_hooks=[(hook_of(sae, "error"), let_in)],
    )
    loss.backward()
    assert error.value.grad is not None
    assert error.value.grad.abs().sum() > 0


def test_the_cache_has_gradients_of_features_on_demand(hooked_gpt2: HookedSAETransformer) -> None:
    sae = sae_at(architecture="standard")
    names = [hook_of(sae, "acts_post"), hook_of(sae, "recons")]
    with hooked_gpt2.saes([sae]):
        _, cache = hooked_gpt2.run_with_cache(
            TOKENS, names_filter=names, incl_bwd=True, return_type="loss"
        )
    acts, recons = (cache[f"{name}_grad"] for name in names)
    assert recons.abs().sum() > 0
    torch.testing.assert_close(acts, recons @ sae.W_dec.T)


@pytest.mark.parametrize("kind", ["all", "ids", "as trained"])
@pytest.mark.parametrize("use_error_term", [False, True])
def test_at_excluded_tokens_activations_stay_as_they_are(
    hooked: HookedSAETransformer, kind: str, use_error_term: bool
) -> None:
    tokens = TOKENS.clone()
    tokens[0, 0] = tokens[1, 0] = hooked.tokenizer.bos_token_id
    tokens[1, 4] = hooked.tokenizer.eos_token_id
    excluded = {"all": True, "ids": [int(tokens[0, 3])], "as trained": None}[kind]
    metadata = {"hook_name": RESID, "exclude_special_tokens": [int(tokens[0, 2])]}
    sae = sae_at(metadata=metadata)
    ids = {
        "all": [hooked.tokenizer.bos_token_id, hooked.tokenizer.eos_token_id],
        "ids": excluded,
        "as trained": [int(tokens[0, 2])],
    }[kind]
    mask = torch.isin(tokens, torch.tensor(ids))
    assert 1 <= mask.sum() <= 3

    def edit(acts: Tensor, **_: Any) -> Tensor:
        return torch.zeros_like(acts)

    with hooked.saes([sae], use_error_term=use_error_term, exclude_special_tokens=excluded):
        h = Recorder()
        hooked.add_hook("blocks.0.hook_resid_post", h)
        output, error = Recorder(), Recorder()
        hooked.add_hook(hook_of(sae, "output"), output)
        hooked.add_hook(hook_of(sae, "error"), error)
        hooked.run_with_hooks(tokens, fwd_hooks=[(hook_of(sae, "acts_post"), edit)])
    assert torch.equal(output.value[mask], h.value[mask])
    assert (output.value[~mask] != h.value[~mask]).any(-1).all()
    if use_error_term:
        assert not error.value[mask].any()


def test_special_tokens_are_part_of_a_splice_unless_excluded(hooked: HookedSAETransformer) -> None:
    sae = sae_at(metadata={"hook_name": RESID, "exclude_special_tokens": True})
    tokens = torch.full((1, 3), hooked.tokenizer.bos_token_id)
    _, cache = hooked.run_with_cache_with_saes(tokens, saes=[sae])
    assert (cache[hook_of(sae, "output")] != cache["blocks.0.hook_resid_post"]).any(-1).all()


def test_excluded_tokens_need_token_ids(hooked: HookedSAETransformer) -> None:
    embeddings = hooked.embed(TOKENS)
    with (
        hooked.saes([sae_at()], exclude_special_tokens=True),
        pytest.raises(LMError, match="needs token ids") as caught,
    ):
        hooked(embeddings)
    assert caught.value.field == "exclude_special_tokens"
    with (
        hooked.saes([sae_at("unembed.hook_in")], exclude_special_tokens=True),
        pytest.raises(LMError, match="not those of one position per token"),
    ):
        hooked(TOKENS, logits_to_keep=1)


def test_an_sae_that_does_not_fit_the_hook_point_says_so(hooked: HookedSAETransformer) -> None:
    with pytest.raises(LMError, match=rf"{RESID}: .* last axis is 32, expected d_in=16"):
        hooked.run_with_saes(TOKENS, saes=[sae_at(d_in=16)])
    with pytest.raises(LMError, match=r"writes 16 values; .* \(2, 7, 32\)"):
        hooked.run_with_saes(TOKENS, saes=[transcoder(d_out=16)])
    metadata = {"hook_name": "blocks.1.attn.hook_z", "hook_head_index": 4}
    with pytest.raises(LMError, match="is of head 4; there are 4"):
        hooked.run_with_saes(TOKENS, saes=[sae_at(d_in=8, metadata=metadata)])
    backwards = transcoder(reads="blocks.1.hook_mlp_out", writes="blocks.0.hook_mlp_out")
    with pytest.raises(LMError, match="which fires before it"):
        hooked.run_with_saes(TOKENS, saes=[backwards])
    assert not hooked.acts_to_saes


def test_a_temporal_sae_refuses_a_run_that_lacks_the_sequences_beginning(
    hooked: HookedSAETransformer,
) -> None:
    sae = sae_at(architecture="temporal")
    settings: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "verbose": False}
    with hooked.saes([sae]):
        with pytest.raises(UnsupportedModelError, match="needs whole sequences"):
            hooked.generate(TOKENS[:1], **settings)
        generated = hooked.generate(TOKENS[:1], use_past_kv_cache=False, **settings)
    assert generated.shape == (1, 10)
