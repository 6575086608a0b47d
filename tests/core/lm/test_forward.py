"""A forward pass runs no more than asked, and leaves the model as it was."""

import pytest
import torch
from torch import Tensor, nn

from saekit_core.lm.errors import LMError
from saekit_core.lm.model import LanguageModel

TOKENS = (torch.arange(2 * 11) * 29 + 5).view(2, 11) % 390


def blocks(model: LanguageModel) -> nn.ModuleList:
    found = next(m for m in model.hf.modules() if isinstance(m, nn.ModuleList))
    assert len(found) == model.n_layers
    return found


def hook_count(root: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in root.modules())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hook_embed", []),
        ("blocks.1.hook_resid_pre", [0]),
        ("blocks.1.attn.hook_z", [0]),
        ("blocks.1.hook_resid_post", [0, 1]),
    ],
)
def test_no_block_runs_past_the_deepest_tap(
    model: LanguageModel, name: str, expected: list[int]
) -> None:
    finished: list[int] = []
    ran_head: list[bool] = []
    handles = [
        block.register_forward_hook(lambda *_, i=i: finished.append(i))
        for i, block in enumerate(blocks(model))
    ]
    head = model.hf.get_output_embeddings()
    handles.append(head.register_forward_pre_hook(lambda *_: ran_head.append(True)))
    try:
        seen: list[Tensor] = []
        shallow = model.hook_point("hook_embed")
        deep = model.hook_point(name)
        assert model.forward(TOKENS, taps={deep: seen.append, shallow: lambda _: None}) is None
        assert finished == expected
        assert not ran_head
        model.forward(TOKENS, taps={deep: seen.append}, logits_at=torch.tensor([0]))
        assert finished == [*expected, *range(model.n_layers)]
    finally:
        for handle in handles:
            handle.remove()


def test_the_bridge_stops_at_the_deepest_tap_too(model: LanguageModel) -> None:
    finished: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, i=i: finished.append(i))
        for i, block in enumerate(model.bridge.blocks)
    ]
    try:
        model.forward(TOKENS, taps={model.hook_point("blocks.1.attn.hook_pattern"): lambda _: None})
    finally:
        for handle in handles:
            handle.remove()
    assert finished == [0]


def test_nothing_wanted_runs_nothing(model: LanguageModel) -> None:
    assert model.forward(TOKENS, taps={}) is None


def test_logits_only_where_wanted_equal_the_models_own(any_model: LanguageModel) -> None:
    where = torch.tensor([20, 3, 0, 3])
    with torch.no_grad():
        expected = any_model.hf(TOKENS).logits.flatten(0, 1)[where]
    actual = any_model.forward(TOKENS, taps={}, logits_at=where)
    assert actual is not None
    assert actual.dtype is torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    widths: list[int] = []
    head = any_model.hf.get_output_embeddings()
    handle = head.register_forward_hook(lambda _m, _a, out: widths.append(out.shape[:-1].numel()))
    any_model.forward(TOKENS, taps={}, logits_at=where)
    handle.remove()
    assert widths == [len(where)]


def test_taps_around_the_unembedding_see_every_position(any_model: LanguageModel) -> None:
    seen: list[Tensor] = []
    where = torch.tensor([4, 13])
    taps = {
        any_model.hook_point("unembed.hook_in"): seen.append,
        any_model.hook_point("unembed.hook_out"): lambda h: h * 2,
    }
    doubled = any_model.forward(TOKENS, taps=taps, logits_at=where)
    clean = any_model.forward(TOKENS, taps={}, logits_at=where)
    assert seen[0].shape == (2, 11, any_model.d_model)
    assert doubled is not None
    assert clean is not None
    if any_model.hf.config.model_type != "gemma2":  # which soft-caps after it
        torch.testing.assert_close(doubled, clean * 2)


def test_ragged_rows_equal_themselves_alone(any_model: LanguageModel) -> None:
    rng = torch.Generator().manual_seed(0)
    lengths = [1, 17, 30, 5, 2]
    batch = torch.randint(
        any_model.d_vocab, (5, 30), generator=rng
    )  # the padding is junk on purpose
    point = any_model.hook_point(f"blocks.{any_model.n_layers - 1}.hook_resid_post")
    together: list[Tensor] = []
    last = torch.tensor([30 * r + n - 1 for r, n in enumerate(lengths)])
    logits = any_model.forward(batch, taps={point: together.append}, logits_at=last)
    assert logits is not None
    for row, n in enumerate(lengths):
        alone: list[Tensor] = []
        own = any_model.forward(
            batch[row : row + 1, :n], taps={point: alone.append}, logits_at=torch.tensor([n - 1])
        )
        torch.testing.assert_close(together[0][row, :n], alone[0][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits[row], own[0], rtol=1e-4, atol=1e-5)  # type: ignore[index]


def test_right_padding_needs_no_mask_and_no_cache(model: LanguageModel) -> None:
    seen: list[dict[str, object]] = []
    attention = next(m for n, m in model.hf.named_modules() if n.endswith("attn"))
    handle = attention.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs), with_kwargs=True
    )
    model.forward(TOKENS, taps={}, logits_at=torch.tensor([0]))
    handle.remove()
    assert model.hf.config._attn_implementation == "sdpa"
    assert seen[0]["attention_mask"] is None
    assert seen[0]["past_key_values"] is None


def test_a_users_own_hooks_stay_and_ours_go(model: LanguageModel) -> None:
    calls: list[str] = []
    mine = blocks(model)[1].register_forward_hook(lambda *_: calls.append("hf"))
    model.bridge.blocks[1].hook_in.add_hook(lambda *_, **__: calls.append("bridge"))
    before = hook_count(model.hf), hook_count(model.bridge)
    plain = model.hook_point("blocks.1.hook_resid_pre")
    inside = model.hook_point("blocks.1.attn.hook_pattern")
    try:
        model.forward(TOKENS, taps={plain: lambda h: h + 1}, logits_at=torch.tensor([0]))
        model.forward(TOKENS, taps={plain: lambda h: h + 1, inside: lambda _: None})
        assert calls == ["hf", "bridge"]
        assert (hook_count(model.hf), hook_count(model.bridge)) == before
    finally:
        mine.remove()
        model.bridge.reset_hooks()


def test_hooks_are_removed_when_a_tap_fails(model: LanguageModel) -> None:
    def fail(_: Tensor) -> None:
        raise ZeroDivisionError

    where = torch.arange(22)
    clean = model.forward(TOKENS, taps={}, logits_at=where)
    before = hook_count(model.hf), hook_count(model.bridge)
    for name in ("blocks.1.hook_resid_pre", "blocks.1.attn.hook_pattern"):
        taps = {model.hook_point("blocks.0.hook_resid_pre"): lambda h: h * 3}
        with pytest.raises(ZeroDivisionError):
            model.forward(TOKENS, taps={**taps, model.hook_point(name): fail}, logits_at=where)
    assert (hook_count(model.hf), hook_count(model.bridge)) == before
    after = model.forward(TOKENS, taps={}, logits_at=where)
    assert torch.equal(clean, after)  # type: ignore[arg-type]


def test_replacement_of_another_shape_is_refused(model: LanguageModel) -> None:
    point = model.hook_point("blocks.1.hook_resid_pre")
    with pytest.raises(ValueError, match=r"blocks\.1\.hook_resid_pre returned shape \(2, 11\)"):
        model.forward(TOKENS, taps={point: lambda h: h[..., 0]})


def test_replacement_is_cast_to_the_models_dtype(model: LanguageModel) -> None:
    point = model.hook_point("blocks.1.hook_resid_pre")
    where = torch.arange(22)
    double = model.forward(TOKENS, taps={point: lambda h: h.double() * 2}, logits_at=where)
    single = model.forward(TOKENS, taps={point: lambda h: h * 2}, logits_at=where)
    torch.testing.assert_close(double, single)


def test_a_reading_tap_changes_nothing(model: LanguageModel) -> None:
    where = torch.arange(22)
    taps = {model.hook_point(n): lambda _: None for n in model.hook_names() if "resid" in n}
    assert torch.equal(
        model.forward(TOKENS, taps=taps, logits_at=where),  # type: ignore[arg-type]
        model.forward(TOKENS, taps={}, logits_at=where),  # type: ignore[arg-type]
    )


def test_more_positions_than_the_context_are_refused(model: LanguageModel) -> None:
    tokens = torch.zeros(1, model.max_context + 1, dtype=torch.long)
    with pytest.raises(LMError, match=r"97 positions; .* takes at most 96") as caught:
        model.forward(tokens, taps={}, logits_at=torch.tensor([0]))
    assert caught.value.field == "tokens"


def test_the_bridge_shares_the_parameters(any_model: LanguageModel) -> None:
    own = {p.data_ptr() for p in any_model.hf.parameters()}
    bridged = {p.data_ptr() for p in any_model.bridge.parameters()}
    assert own <= bridged
    where = torch.arange(22)
    direct = any_model.forward(TOKENS, taps={}, logits_at=where)
    with torch.no_grad():
        through = any_model.bridge(TOKENS).flatten(0, 1)
    torch.testing.assert_close(direct, through, rtol=1e-4, atol=1e-5)


def test_parameters_need_no_gradients(model: LanguageModel) -> None:
    assert not model.hf.training
    assert not any(p.requires_grad for p in model.hf.parameters())
