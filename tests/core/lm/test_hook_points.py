"""Names, values and replacements agree with TransformerLens, on both paths."""

import warnings

import pytest
import torch
from torch import Tensor

from saekit_core.lm.errors import UnknownHookPointError
from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.model import LanguageModel

TOKENS = (torch.arange(2 * 11) * 29 + 5).view(2, 11) % 390


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-30))


def read_all(model: LanguageModel, points: list[HookPoint]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def reader(point: HookPoint):
        def tap(h: Tensor) -> None:
            seen[point.canonical] = h.clone()

        return tap

    model.forward(TOKENS, taps={point: reader(point) for point in points})
    return seen


def test_every_name_shows_what_run_with_cache_shows(any_model: LanguageModel) -> None:
    with torch.no_grad():
        _, cache = any_model.bridge.run_with_cache(TOKENS)
    points = [any_model.hook_point(name) for name in any_model.hook_names()]
    plain = read_all(any_model, [p for p in points if any_model.runs_plain(p)])
    bridged = read_all(any_model, [p for p in points if not any_model.runs_plain(p)])
    assert len(plain) > len(bridged) > 0
    for point in points:
        expected = cache[point.name]
        actual = {**plain, **bridged}[point.canonical]
        if not expected.is_floating_point():  # token and position ids
            continue
        assert actual.shape == expected.shape, point
        assert relative(actual, expected) < 1e-5, point
        if point.shape:
            assert actual.shape == (*TOKENS.shape, *point.shape), point


def test_hook_names_are_all_that_fire_in_transformer_lens(any_model: LanguageModel) -> None:
    with torch.no_grad():
        _, cache = any_model.bridge.run_with_cache(TOKENS)
    assert set(any_model.hook_names()) == set(cache.keys())


@pytest.mark.parametrize(
    "name",
    [
        "hook_embed",
        "blocks.0.hook_resid_pre",
        "blocks.1.hook_resid_mid",
        "blocks.1.hook_resid_post",
        "blocks.1.hook_attn_out",
        "blocks.1.hook_mlp_out",
        "blocks.1.attn.hook_q",
        "blocks.1.attn.hook_k",
        "blocks.1.attn.hook_v",
        "blocks.1.attn.hook_z",
        "blocks.1.attn.hook_in",
        "blocks.1.mlp.hook_pre",
        "blocks.1.mlp.hook_post",
        "blocks.1.ln1.hook_out",
    ],
)
def test_usual_hook_points_run_on_the_plain_modules(model: LanguageModel, name: str) -> None:
    assert model.runs_plain(model.hook_point(name))


def test_every_replacement_changes_the_logits_as_run_with_hooks_does(
    any_model: LanguageModel,
) -> None:
    where = torch.arange(TOKENS.numel())
    noise = torch.Generator().manual_seed(3)
    for canonical in {any_model.hook_point(n).canonical for n in any_model.hook_names()}:
        point = any_model.hook_point(canonical)
        if not any_model.runs_plain(point):
            continue
        delta = torch.randn(*TOKENS.shape, *point.shape, generator=noise)

        def edit(h: Tensor, delta: Tensor = delta) -> Tensor:
            return 0.5 * h + delta

        actual = any_model.forward(TOKENS, taps={point: edit}, logits_at=where)
        with torch.no_grad():
            expected = any_model.bridge.run_with_hooks(
                TOKENS, fwd_hooks=[(canonical, lambda h, edit=edit, **_: edit(h))]
            )
        assert actual is not None
        assert relative(actual, expected.flatten(0, 1)) < 1e-5, canonical


@pytest.mark.parametrize("through_the_bridge", [False, True])
def test_an_edit_between_attention_and_mlp_reaches_the_residual_stream(
    model: LanguageModel, through_the_bridge: bool
) -> None:
    """resid_mid = resid_pre + attn_out, so a shift of one is a shift of the other."""
    shift = torch.linspace(-1, 1, model.d_model) * 3
    last = torch.arange(TOKENS.numel())
    seen: dict[str, list[Tensor]] = {"hook_resid_mid": [], "hook_attn_out": []}
    logits = {}
    for name, kept in seen.items():
        taps = {
            model.hook_point(f"blocks.1.{name}"): lambda h: h + shift,
            model.hook_point("blocks.1.hook_resid_post"): kept.append,
        }
        if through_the_bridge:
            taps[model.hook_point("blocks.1.attn.hook_pattern")] = lambda _: None
        logits[name] = model.forward(TOKENS, taps=taps, logits_at=last)
    mid, out = seen.values()
    torch.testing.assert_close(mid[0], out[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*logits.values(), rtol=1e-4, atol=1e-4)
    clean = model.forward(TOKENS, taps={}, logits_at=last)
    assert clean is not None
    assert not torch.allclose(logits["hook_resid_mid"], clean, atol=1e-2)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["blocks.1.attn.hook_attn_scores", "blocks.1.ln2.hook_normalized"])
def test_a_replacement_inside_a_module_goes_through_the_bridge(
    llama: LanguageModel, name: str
) -> None:
    point = llama.hook_point(name)
    assert not llama.runs_plain(point)
    where = torch.arange(TOKENS.numel())
    resid = llama.hook_point("blocks.2.hook_resid_pre")
    seen: list[Tensor] = []
    actual = llama.forward(
        TOKENS, taps={point: lambda h: h * 0.3, resid: seen.append}, logits_at=where
    )
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = llama.bridge.run_with_hooks(TOKENS, fwd_hooks=[(name, lambda h, **_: h * 0.3)])
    clean = llama.forward(TOKENS, taps={}, logits_at=where)
    assert actual is not None
    assert clean is not None
    assert relative(actual, expected.flatten(0, 1)) < 1e-5
    assert relative(actual, clean) > 1e-3
    assert seen[0].shape == (*TOKENS.shape, llama.d_model)


def test_aliases_are_equal_and_depth_is_the_order_of_execution(model: LanguageModel) -> None:
    resid = model.hook_point("blocks.2.hook_resid_pre")
    assert resid.canonical == "blocks.2.hook_in"
    assert resid == model.hook_point("blocks.2.hook_in")
    assert len({resid, model.hook_point("blocks.2.hook_in")}) == 1
    assert resid.shape == (model.d_model,)
    assert resid.d == model.d_model
    z = model.hook_point("blocks.1.attn.hook_z")
    assert z.shape == (4, 8)
    assert z.d == 32
    assert model.hook_point("blocks.1.attn.hook_pattern").d == 0

    order: list[HookPoint] = []
    points = [model.hook_point(name) for name in model.hook_names()]
    plain = {p for p in points if model.runs_plain(p)}
    model.forward(TOKENS, taps={p: lambda _, p=p: order.append(p) for p in plain})
    assert len(order) == len(plain)
    assert [p.depth for p in order] == sorted(p.depth for p in order)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("blocks.1.hook_resid_prr", "blocks.1.hook_resid_pre"),
        ("block.1.hook_mlp_out", "blocks.1.hook_mlp_out"),
        ("blocks.9.hook_resid_pre", "blocks.0.hook_resid_pre"),
    ],
)
def test_unknown_name_says_which_names_are_near(
    model: LanguageModel, wrong: str, near: str
) -> None:
    with pytest.raises(UnknownHookPointError, match="does not exist") as caught:
        model.hook_point(wrong)
    assert near in caught.value.near
    assert near in str(caught.value)


def test_a_hook_point_that_never_fires_is_refused(model: LanguageModel) -> None:
    with pytest.raises(UnknownHookPointError, match="never fires"):
        model.hook_point("blocks.0.attn.hook_result")


def test_a_name_like_nothing_gets_an_example(model: LanguageModel) -> None:
    with pytest.raises(UnknownHookPointError, match=r"for example .*hook_resid_pre"):
        model.hook_point("")
