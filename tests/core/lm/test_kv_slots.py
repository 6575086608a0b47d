"""Generation on slots writes the text that running everything again would write."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.models import build_gemma2
from torch import Tensor

from saekit_core.lm.boot import boot_model
from saekit_core.lm.errors import LMError
from saekit_core.lm.kv_slots import KVSlots
from saekit_core.lm.model import LanguageModel

LENGTHS = [1, 23, 7, 14, 2, 9]
N_NEW = 12


def prompts(model: LanguageModel, lengths: Sequence[int] = LENGTHS) -> list[list[int]]:
    rng = torch.Generator().manual_seed(1)
    return [torch.randint(model.d_vocab, (n,), generator=rng).tolist() for n in lengths]


def greedy_again(model: LanguageModel, prompt: list[int], n_new: int = N_NEW) -> list[int]:
    """Reference: the whole row again for every token, through transformers alone."""
    tokens = list(prompt)
    with torch.no_grad():
        for _ in range(n_new):
            tokens.append(int(model.hf(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def feed(
    model: LanguageModel,
    slots: KVSlots,
    rows: Sequence[tuple[int, int, list[int]]],
    **kwargs: object,
) -> Tensor:
    """Run (slot, start, new tokens) rows; logits [R, d_vocab] at each row's last token."""
    width = max(len(new) for _, _, new in rows)
    tokens = torch.full((len(rows), width), 17)
    for i, (_, _, new) in enumerate(rows):
        tokens[i, : len(new)] = torch.tensor(new)
    logits = model.forward_slots(
        slots,
        tokens,
        slot_ids=torch.tensor([slot for slot, _, _ in rows]),
        start=torch.tensor([start for _, start, _ in rows]),
        n_new=torch.tensor([len(new) for _, _, new in rows]),
        logits_at=torch.tensor([i * width + len(r[2]) - 1 for i, r in enumerate(rows)]),
        taps=kwargs.get("taps", {}),  # type: ignore[arg-type]
    )
    assert logits is not None
    return logits


def greedy_on_slots(
    model: LanguageModel,
    slots: KVSlots,
    texts: list[list[int]],
    slot_ids: Sequence[int],
    *,
    chunk: int | None = None,
    n_new: int = N_NEW,
) -> list[list[int]]:
    """Prefill all rows, in chunks if asked for, then decode them together."""
    done = [0] * len(texts)
    out: list[list[int]] = [[] for _ in texts]
    while any(n < len(t) for n, t in zip(done, texts, strict=True)):
        todo = [i for i, t in enumerate(texts) if done[i] < len(t)]
        new = {i: texts[i][done[i] : done[i] + (chunk or len(texts[i]))] for i in todo}
        logits = feed(model, slots, [(slot_ids[i], done[i], new[i]) for i in todo])
        for i, row in zip(todo, logits, strict=True):
            done[i] += len(new[i])
            if done[i] == len(texts[i]):
                out[i].append(int(row.argmax()))
    for step in range(n_new - 1):
        rows = [(slot_ids[i], len(t) + step, [out[i][-1]]) for i, t in enumerate(texts)]
        for i, row in enumerate(feed(model, slots, rows)):
            out[i].append(int(row.argmax()))
    return out


@pytest.mark.parametrize("chunk", [None, 1, 5])
@pytest.mark.parametrize(
    "slot_ids", [[2, 3, 4, 5, 6, 7], [7, 0, 3, 1, 6, 2]], ids=["range", "gathered"]
)
def test_greedy_on_slots_equals_running_everything_again(
    model: LanguageModel, slot_ids: list[int], chunk: int | None
) -> None:
    texts = prompts(model)
    slots = model.new_slots(8, 40)
    assert greedy_on_slots(model, slots, texts, slot_ids, chunk=chunk) == [
        greedy_again(model, t) for t in texts
    ]


def test_prefill_and_decode_in_one_batch_disturb_nobody(any_model: LanguageModel) -> None:
    first, second, third = prompts(any_model, [6, 19, 11])
    slots = any_model.new_slots(3, 48)
    out = greedy_on_slots(any_model, slots, [first], [1], n_new=4)[0]
    rows = [(1, len(first) + 3, [out[-1]]), (2, 0, second[:13]), (0, 0, third)]
    mixed = feed(any_model, slots, rows)
    out.append(int(mixed[0].argmax()))
    assert out == greedy_again(any_model, first, 5)
    assert int(mixed[2].argmax()) == greedy_again(any_model, third, 1)[0]
    rest = feed(any_model, slots, [(1, len(first) + 4, [out[-1]]), (2, 13, second[13:])])
    assert int(rest[0].argmax()) == greedy_again(any_model, first, 6)[-1]
    assert int(rest[1].argmax()) == greedy_again(any_model, second, 1)[0]


def test_a_used_slot_serves_the_next_sequence_as_a_new_one_would(model: LanguageModel) -> None:
    long, short = prompts(model, [25, 3])
    slots = model.new_slots(2, 40)
    greedy_on_slots(model, slots, [long, long], [0, 1])
    assert greedy_on_slots(model, slots, [short, long], [0, 1]) == [
        greedy_again(model, short),
        greedy_again(model, long),
    ]


def test_infinities_of_an_earlier_sequence_never_reach_the_next(model: LanguageModel) -> None:
    long, short = prompts(model, [25, 3])
    slots = model.new_slots(2, 40)
    point = model.hook_point("blocks.0.hook_resid_pre")
    broken = feed(model, slots, [(0, 0, long)], taps={point: lambda h: h * float("inf")})
    assert not broken.isfinite().all()
    assert greedy_on_slots(model, slots, [short, long], [0, 1]) == [
        greedy_again(model, short),
        greedy_again(model, long),
    ]


def test_going_back_in_a_slot_continues_from_there(model: LanguageModel) -> None:
    text = prompts(model, [20])[0]
    slots = model.new_slots(1, 40)
    feed(model, slots, [(0, 0, text)])
    again = feed(model, slots, [(0, 8, [5, 6])])
    expected = greedy_again(model, [*text[:8], 5, 6], 1)
    assert [int(again[0].argmax())] == expected
    assert slots.lengths == [10]


def test_copies_of_a_slot_share_one_prefill(model: LanguageModel) -> None:
    text = prompts(model, [14])[0]
    slots = model.new_slots(4, 40)
    feed(model, slots, [(3, 0, prompts(model, [30])[0])])
    feed(model, slots, [(1, 0, text)])
    for dst in (0, 3):
        slots.copy_slot(1, dst, 13)
    rows = [(0, 13, [text[13]]), (1, 14, [9]), (3, 13, [8])]
    got = feed(model, slots, rows).argmax(-1).tolist()
    ends = [text, [*text, 9], [*text[:13], 8]]
    assert got == [greedy_again(model, end, 1)[0] for end in ends]
    assert slots.lengths == [14, 15, 0, 14]


def test_a_slot_can_be_filled_to_its_last_position_beside_a_long_prefill(
    model: LanguageModel,
) -> None:
    full, long = prompts(model, [model.max_context - 1, 30])
    slots = model.new_slots(2, model.max_context)
    feed(model, slots, [(0, 0, full)])
    got = feed(model, slots, [(0, len(full), [4]), (1, 0, long)]).argmax(-1).tolist()
    assert got == [greedy_again(model, t, 1)[0] for t in ([*full, 4], long)]


def test_taps_on_slots_see_and_replace_the_new_tokens(model: LanguageModel) -> None:
    text = prompts(model, [15])[0]
    slots = model.new_slots(2, 40)
    point = model.hook_point("blocks.1.hook_resid_pre")
    inside = model.hook_point("blocks.1.attn.hook_pattern")
    whole: list[Tensor] = []
    where = torch.tensor([14])
    edit = {point: lambda h: h * 1.5}
    expected = model.forward(torch.tensor([text]), taps=edit, logits_at=where)
    model.forward(torch.tensor([text]), taps={point: whole.append})
    feed(model, slots, [(0, 0, text[:9])], taps=edit)
    got = feed(model, slots, [(0, 9, text[9:])], taps=edit)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

    seen: list[Tensor] = []
    feed(model, slots, [(1, 0, text[:9])])
    feed(model, slots, [(1, 9, text[9:])], taps={point: seen.append})
    torch.testing.assert_close(seen[0], whole[0][:, 9:], rtol=1e-4, atol=1e-5)

    patterns: list[Tensor] = []
    feed(model, slots, [(1, 9, text[9:])], taps={inside: patterns.append, point: lambda _: None})
    assert patterns[0].shape == (1, 4, 6, 15)
    torch.testing.assert_close(patterns[0].sum(-1), torch.ones(1, 4, 6))
    assert patterns[0].triu(10).abs().max() == 0


def test_decoding_through_the_bridge_gives_the_same_text(model: LanguageModel) -> None:
    texts = prompts(model, [5, 13, 2])
    slots = model.new_slots(3, 40)
    pattern = model.hook_point("blocks.1.attn.hook_pattern")
    ends = [[*t] for t in texts]
    starts = [0, 0, 0]
    for _ in range(5):
        rows = [(i, starts[i], ends[i][starts[i] :]) for i in (0, 1, 2)]
        logits = feed(model, slots, rows, taps={pattern: lambda _: None})
        starts = [len(e) for e in ends]
        for end, row in zip(ends, logits, strict=True):
            end.append(int(row.argmax()))
    assert [e[-5:] for e in ends] == [greedy_again(model, t, 5) for t in texts]


def test_without_logits_the_keys_are_written_and_the_head_does_not_run(
    model: LanguageModel,
) -> None:
    text = prompts(model, [12])[0]
    slots = model.new_slots(1, 40)
    ran: list[bool] = []
    handle = model.hf.get_output_embeddings().register_forward_hook(lambda *_: ran.append(True))
    nothing = model.forward_slots(
        slots,
        torch.tensor([text[:7]]),
        slot_ids=torch.tensor([0]),
        start=torch.tensor([0]),
        n_new=torch.tensor([7]),
        taps={model.hook_point("blocks.0.hook_resid_pre"): lambda _: None},
    )
    handle.remove()
    assert nothing is None
    assert not ran
    got = feed(model, slots, [(0, 7, text[7:])])
    assert [int(got[0].argmax())] == greedy_again(model, text, 1)


@pytest.mark.parametrize("chunk", [None, 5])
def test_windows_are_right_within_and_beyond_their_length(
    gemma2: LanguageModel, chunk: int | None
) -> None:
    window = gemma2.hf.config.sliding_window
    texts = prompts(gemma2, [3, window - 4, 2 * window + 5, window])
    slots = gemma2.new_slots(5, 64)
    got = greedy_on_slots(gemma2, slots, texts, [4, 0, 2, 1], chunk=chunk, n_new=20)
    assert got == [greedy_again(gemma2, t, 20) for t in texts]


def test_windows_matter_to_this_model(tmp_path: Path, gemma2: LanguageModel) -> None:
    wide = boot_model(build_gemma2(tmp_path / "wide", sliding_window=64), device="cpu")
    text = prompts(gemma2, [40])[0]
    assert greedy_again(gemma2, text) != greedy_again(wide, text)


def test_bytes_count_what_is_allocated(model: LanguageModel) -> None:
    slots = model.new_slots(3, 10)
    heads = model.hf.config.to_dict().get("num_key_value_heads", 4)
    assert slots.bytes == 2 * model.n_layers * 3 * heads * 10 * 8 * 4


def test_addresses_stay_the_same(model: LanguageModel) -> None:
    slots = model.new_slots(2, 40)
    before = [s.data_ptr() for layer in slots.layers for s in layer.stores]
    greedy_on_slots(model, slots, prompts(model, [5, 9]), [1, 0])
    assert [s.data_ptr() for layer in slots.layers for s in layer.stores] == before


@pytest.mark.parametrize(
    ("rows", "field", "message"),
    [
        ([(2, 0, [1])], "slot_ids[0]", "slot 2 does not exist; slots are 0..1"),
        ([(0, 0, [1]), (0, 0, [1])], "slot_ids", "two rows share a slot"),
        ([(0, 0, [1]), (1, 3, [1])], "start[1]", "start 3 in slot 1, which holds 0 positions"),
        ([(0, 0, [1] * 9)], "n_new[0]", "0 \\+ 9 positions do not fit a slot of 8"),
        ([(0, -1, [1])], "start[0]", "start -1 in slot 0"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    llama: LanguageModel, rows: list[tuple[int, int, list[int]]], field: str, message: str
) -> None:
    slots = llama.new_slots(2, 8)
    with pytest.raises(LMError, match=message) as caught:
        feed(llama, slots, rows)
    assert caught.value.field == field
    assert slots.lengths == [0, 0]


@pytest.mark.parametrize(
    ("n_slots", "max_length", "field"),
    [(0, 8, "n_slots"), (1, 0, "max_length"), (1, 97, "max_length")],
)
def test_slots_that_the_model_cannot_fill_are_refused(
    model: LanguageModel, n_slots: int, max_length: int, field: str
) -> None:
    with pytest.raises(LMError) as caught:
        model.new_slots(n_slots, max_length)
    assert caught.value.field == field


def test_copy_of_more_than_a_slot_holds_is_refused(llama: LanguageModel) -> None:
    slots = llama.new_slots(2, 8)
    with pytest.raises(LMError, match="slot 0 holds 0 positions, not 3"):
        slots.copy_slot(0, 1, 3)
    with pytest.raises(LMError, match="slot 5 does not exist"):
        slots.copy_slot(5, 1, 0)


def test_slots_belong_to_forward_slots(llama: LanguageModel) -> None:
    slots = llama.new_slots(1, 8)
    with torch.no_grad(), pytest.raises(LMError, match="only be used through"):
        llama.hf(torch.tensor([[1, 2]]), past_key_values=slots, use_cache=True)
