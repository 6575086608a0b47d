"""Contexts, the mixing buffer and the activations that come out of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from tests.models import build_llama, story
from torch import Tensor

from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_trainer.activations_store import ActivationsStore
from saekit_trainer.contexts import ContextFormat, open_contexts
from saekit_trainer.errors import DatasetError
from saekit_trainer.mixing_buffer import MixingBuffer
from saekit_trainer.packing import CuttingPacker, JoiningPacker, Packer, Tokens, cut_stream
from saekit_trainer.self_text import SelfTextContexts
from saekit_trainer.store_config import StoreConfig

SIZE = 16
STORIES = [story(30, seed) for seed in range(40)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return boot_model(build_llama(tmp_path_factory.mktemp("llama")), device="cpu")


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(STORIES), encoding="utf-8")
    return path


def packed(packer: Packer, documents: list[Tokens]) -> list[Tokens]:
    return [context for document in documents for context in packer.add(document)]


def test_packing_loses_and_repeats_no_token() -> None:
    documents = [np.arange(start, start + n) for start, n in ((100, 7), (200, 1), (300, 23))]
    contexts = packed(JoiningPacker(context_size=6, bos=1, separator=1), documents)
    assert all(len(c) == 6 and c[0] == 1 for c in contexts)
    tokens = [t for c in contexts for t in c if t != 1]
    everything = [t for d in documents for t in d]
    assert tokens == everything[: len(tokens)]
    assert len(everything) - len(tokens) < 5
    # A separator stands between documents, and only there.
    assert list(contexts[1]) == [1, 105, 106, 1, 200, 1]


def test_packing_without_bos_or_separator_is_a_plain_cut() -> None:
    packer = JoiningPacker(context_size=3, bos=None, separator=None)
    contexts = packed(packer, [np.arange(5), np.arange(5, 9)])
    assert [list(c) for c in contexts] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_packing_doubles_no_mark_that_is_there_already() -> None:
    documents = [np.array([1, 5, 6]), np.array([1, 7]), np.array([8, 9, 9, 9])]
    contexts = packed(JoiningPacker(context_size=4, bos=1, separator=1), documents)
    assert [list(c) for c in contexts] == [[1, 5, 6, 1], [1, 7, 1, 8], [1, 9, 9, 9]]


def test_documents_that_are_not_packed_are_cut_or_left_out() -> None:
    documents = [np.arange(2, 9), np.arange(2, 4), np.array([1, 2, 3]), np.array([], np.int64)]
    contexts = packed(CuttingPacker(context_size=3, bos=1), documents)
    assert [list(c) for c in contexts] == [[1, 2, 3], [1, 2, 3], [1, 2, 3]]


def test_a_stream_gets_a_bos_only_where_it_has_none() -> None:
    stream = np.array([9, 5, 6, 7, 9, 8, 5, 6, 7, 7])
    cut = list(cut_stream(stream, context_size=4, bos=9))
    assert [list(c) for c, _ in cut] == [[9, 5, 6, 7], [9, 8, 5, 6]]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "dataset", "iterable", "saved", "array", "npy"])
def test_every_kind_of_data_set_gives_the_same_tokens(
    kind: str, model: LanguageModel, text_file: Path, tmp_path: Path
) -> None:
    format_ = ContextFormat(SIZE, prepend_bos=True)
    reference = list(open_contexts(text_file, model.tokenizer, format_).contexts())
    assert len(reference) > 20
    options: dict[str, Any] = {
        "txt": lambda: str(text_file),
        "jsonl": lambda: _jsonl(tmp_path / "stories.jsonl"),
        "dataset": lambda: datasets.Dataset.from_dict({"text": STORIES}),
        "iterable": lambda: datasets.Dataset.from_dict({"text": STORIES}).to_iterable_dataset(),
        "saved": lambda: _saved(tmp_path / "saved"),
        "array": lambda: np.stack(reference),
        "npy": lambda: _npy(tmp_path / "tokens.npy", np.stack(reference)),
    }
    source = open_contexts(options[kind](), model.tokenizer, format_)
    for _ in range(2):  # a source can be read again
        assert np.array_equal(np.stack(list(source.contexts())), np.stack(reference))


def _jsonl(path: Path) -> Path:
    path.write_text("\n".join(json.dumps({"text": s}) for s in STORIES), encoding="utf-8")
    return path


def _saved(folder: Path) -> str:
    datasets.Dataset.from_dict({"text": STORIES}).save_to_disk(str(folder))
    return str(folder)


def _npy(path: Path, tokens: np.ndarray[Any, Any]) -> Path:
    np.save(path, tokens.astype(np.uint16))
    return path


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("/nowhere/stories.txt", "no file"),
        (np.full((3, SIZE), 10_000), "the model knows 0.."),
        (np.zeros((3, SIZE - 1), np.int64), "fewer than context_size"),
        (np.zeros((3, SIZE)), "expected integers"),
        (datasets.Dataset.from_dict({"label": [1]}), "columns label"),
    ],
)
def test_a_data_set_that_cannot_be_read_is_named(
    dataset: Any, message: str, model: LanguageModel
) -> None:
    with pytest.raises(DatasetError, match=message):
        list(open_contexts(dataset, model.tokenizer, ContextFormat(SIZE, True)).contexts())


def test_the_buffer_hands_out_every_row_once_and_allocates_once() -> None:
    rows = torch.arange(5000.0)[:, None]
    buffer = MixingBuffer(
        iter(rows.split(37)), capacity=200, d_in=1, dtype=torch.float32, device="cpu", seed=0
    )
    memory = buffer._rows.data_ptr()
    out = torch.cat([buffer.next_batch(32) for _ in range(140)]).squeeze(1)
    assert buffer._rows.data_ptr() == memory
    assert len(out.unique()) == len(out) == 140 * 32
    entered = 4480 + 200
    missing = set(range(entered)) - {int(v) for v in out}
    assert len(missing) <= 200  # what is still in the buffer
    assert (out[:-1] > out[1:]).float().mean() > 0.4  # not in order
    assert out[:32].max() > 150  # the first batch is drawn from the whole buffer


@pytest.mark.parametrize(
    ("total", "told_from"), [(64, 0), (200, 0), (416, 0), (416, 3), (1600, 0), (1600, 40)]
)
def test_told_what_is_wanted_the_buffer_asks_for_no_more(total: int, told_from: int) -> None:
    rows = torch.arange(5000.0)[:, None]
    taken = 0

    def chunks() -> Iterator[Tensor]:
        nonlocal taken
        for chunk in rows.split(37):
            taken += len(chunk)
            yield chunk

    buffer = MixingBuffer(chunks(), capacity=200, d_in=1, dtype=torch.float32, device="cpu", seed=0)
    batches = []
    for start in range(0, total, 32):
        wanted = total - start if len(batches) >= told_from else None
        batches.append(buffer.next_batch(min(32, total - start), wanted))
    out = torch.cat(batches).squeeze(1)
    assert len(out.unique()) == len(out) == total
    assert taken == -(-total // 37) * 37
    assert torch.equal(out.sort().values, rows[:total, 0])
    assert not torch.equal(out, out.sort().values)
    # And it goes on where more is wanted after all.
    more = torch.cat([buffer.next_batch(32) for _ in range(20)]).squeeze(1)
    assert len(torch.cat([out, more]).unique()) == total + 640


def test_the_buffer_refuses_a_batch_of_more_than_half_of_it() -> None:
    buffer = MixingBuffer(
        iter([torch.zeros(9, 1)]), capacity=8, d_in=1, dtype=torch.float32, device="cpu", seed=0
    )
    with pytest.raises(ValueError, match="at most half"):
        buffer.next_batch(5)


def store_of(model: LanguageModel, dataset: Any, **config: Any) -> ActivationsStore:
    source = open_contexts(dataset, model.tokenizer, ContextFormat(SIZE, True))
    sizes = {"store_batch_size_prompts": 4, "train_batch_size_tokens": 32, **config}
    return ActivationsStore(
        model, model.hook_point("blocks.1.hook_resid_pre"), source, StoreConfig(**sizes)
    )


def test_activations_are_those_of_the_bridge(model: LanguageModel, text_file: Path) -> None:
    store = store_of(model, text_file)
    tokens = store.get_batch_tokens()
    assert tokens.shape == (4, SIZE)
    assert (tokens[:, 0] == model.tokenizer.bos_id).all()
    with torch.no_grad():
        cache = model.bridge.run_with_cache(tokens)[1]
    torch.testing.assert_close(
        store.get_activations(tokens), cache["blocks.1.hook_resid_pre"], rtol=1e-4, atol=1e-4
    )


def test_batches_hold_each_token_once_per_pass(model: LanguageModel) -> None:
    # No two contexts share a beginning, so that no two activations are alike but for the BOS.
    contexts = np.random.default_rng(0).integers(10, 300, (32, SIZE))
    contexts[:, 0], contexts[:, 1] = model.tokenizer.bos_id, np.arange(32) + 10
    store = store_of(model, contexts, eval_contexts=2, n_batches_in_buffer=2)
    batches = 28 * SIZE // 32 - 2 * 2  # of one pass, without what is still in the buffer
    handed_out = torch.cat([store.next_batch() for _ in range(batches)])
    every = store.get_activations(torch.from_numpy(contexts)).flatten(0, 1)
    match = torch.cdist(handed_out.double(), every.double()) < 1e-4
    bos = torch.arange(len(every)) % SIZE == 0
    assert (match[:, ~bos].sum(dim=0) <= 1).all()
    assert match.any(dim=1).all()
    assert not match[:, : 2 * SIZE][:, ~bos[: 2 * SIZE]].any()  # held out


def test_the_order_is_determined_by_the_seed(model: LanguageModel, text_file: Path) -> None:
    runs = [
        torch.stack([store_of(model, text_file, seed=seed).next_batch() for _ in range(2)])
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_special_tokens_can_be_left_out(model: LanguageModel, text_file: Path) -> None:
    store = store_of(model, text_file, exclude_special_tokens=True)
    bos = store.get_activations(store.get_batch_tokens())[0, 0]
    batch = torch.cat([store.next_batch() for _ in range(5)])
    assert (batch - bos).norm(dim=1).min() > 1e-3


def test_a_data_set_that_ends_is_read_again(model: LanguageModel) -> None:
    store = store_of(model, np.full((5, SIZE), 7))
    for _ in range(4):
        assert store.get_batch_tokens().shape == (4, SIZE)
    assert store.passes == 4


def test_a_data_set_with_too_few_contexts_is_refused(model: LanguageModel) -> None:
    store = store_of(model, np.full((5, SIZE), 7), eval_contexts=5)
    with pytest.raises(DatasetError, match="no context beyond the 5"):
        store.next_batch()
    with pytest.raises(DatasetError, match="only 5 contexts"):
        store_of(model, np.full((5, SIZE), 7), eval_contexts=6).held_out_tokens()


def test_the_models_own_text_is_likely_text_and_reproducible(model: LanguageModel) -> None:
    source = SelfTextContexts(model, SIZE, max_tokens=200 * SIZE, temperature=1.0, seed=3)
    rows = torch.from_numpy(np.stack(list(source.contexts())))
    assert rows.shape == (200, SIZE)
    assert torch.equal(rows, torch.from_numpy(np.stack(list(source.contexts()))))
    again = SelfTextContexts(model, SIZE, max_tokens=200 * SIZE, temperature=1.0, seed=3)
    assert torch.equal(rows, torch.from_numpy(np.stack(list(again.contexts()))))
    assert (rows[:, 0] == model.tokenizer.bos_id).all()
    # Sampled from the model: its own cross entropy is its own entropy, up to noise.
    with torch.no_grad():
        log_probs = model.hf(input_ids=rows).logits[:, :-1].double().log_softmax(-1)
    free = ~torch.isin(rows[:, :-1], torch.tensor(model.tokenizer.eos_ids))
    surprise = -log_probs.gather(2, rows[:, 1:, None]).squeeze(2)[free].mean()
    entropy = -(log_probs.exp() * log_probs).sum(2)[free].mean()
    assert float(surprise) == pytest.approx(float(entropy), rel=0.05)
    ended = rows[:, :-1] == model.tokenizer.eos_ids[0]
    assert (rows[:, 1:][ended] == model.tokenizer.bos_id).all()
