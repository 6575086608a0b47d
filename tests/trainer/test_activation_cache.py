"""Activations on disk: what is in them, in which order they are trained on, what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.models import build_gpt2, build_llama, story
from torch import Tensor

from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_trainer import (
    ActivationsStore,
    CacheActivationsRunner,
    CacheActivationsRunnerConfig,
    LanguageModelSAERunnerConfig,
    SAETrainingRunner,
)
from saekit_trainer.cache import windows, writer
from saekit_trainer.cache.cache import ActivationCache
from saekit_trainer.cli import train
from saekit_trainer.errors import CacheError, ConfigError, DatasetError
from saekit_trainer.special_tokens import left_out

SIZE, D = 16, 32
HOOK, OTHER = "blocks.1.hook_resid_pre", "blocks.0.mlp.hook_out"
RUN = LanguageModelSAERunnerConfig(
    hook_name=HOOK,
    context_size=SIZE,
    d_sae=64,
    k=4,
    use_cached_activations=True,
    cached_activations_path="(to be replaced)",
    train_batch_size_tokens=64,
    store_batch_size_prompts=4,
    n_batches_in_buffer=4,
    eval_contexts=3,
    training_tokens=64 * 20,
    feature_stats_tokens=256,
    device="cpu",
)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards, and blocks of a few rows."""
    monkeypatch.setattr(writer, "SHARD_BYTES", 8 * SIZE * D * 4)
    monkeypatch.setattr(windows, "BLOCK_BYTES", 7 * D * 4)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("texts") / "stories.jsonl"
    lines = [json.dumps({"text": story(30, seed)}) for seed in range(60)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def cached(
    model: LanguageModel, folder: Path, texts: str, n_contexts: int = 40, **options: Any
) -> CacheActivationsRunner:
    values: dict[str, Any] = {
        "hook_name": HOOK,
        "context_size": SIZE,
        "model_batch_size": 4,
        "dtype": "float32",
        "dataset_path": texts,
    }
    cfg = CacheActivationsRunnerConfig(
        new_cached_activations_path=str(folder),
        training_tokens=n_contexts * SIZE,
        **{**values, **options},
    )
    runner = CacheActivationsRunner(cfg, override_model=model)
    runner.run()
    return runner


def store_on(model: LanguageModel, folder: Path, **options: Any) -> ActivationsStore:
    cfg = replace(RUN, **{"cached_activations_path": str(folder), **options})
    return ActivationsStore.from_config(model, cfg, model.hook_point(cfg.hook_name or HOOK))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_cache_holds_the_models_activations_and_tokens(
    dtype: str, model: LanguageModel, texts: str, tmp_path: Path
) -> None:
    cached(model, tmp_path, texts, dtype=dtype, hook_name=(HOOK, OTHER))
    cache = ActivationCache(tmp_path)
    assert len(cache.index.shards) > 3
    assert cache.n_rows == 40 * SIZE
    tokens = torch.from_numpy(np.stack(list(cache.contexts())))
    live = replace(
        RUN,
        use_cached_activations=False,
        cached_activations_path=None,
        dataset_path=texts,
        eval_contexts=1,
    )
    for name in (HOOK, OTHER):
        hook = model.hook_point(name)
        store = ActivationsStore.from_config(model, live, hook)
        assert torch.equal(tokens[:1], store.held_out_tokens())
        shards = [load_file(tmp_path / shard.file) for shard in cache.index.shards]
        held = torch.cat([shard[name] for shard in shards])
        assert held.dtype == getattr(torch, dtype)
        found = torch.empty(cache.n_rows, D, dtype=held.dtype)
        cache.read([cache.columns(hook)], 0, cache.n_rows, found)
        assert torch.equal(found, held.flatten(0, 1))
        expected = torch.cat([store.get_activations(part) for part in tokens.split(4)])
        assert torch.equal(held, expected.to(held.dtype))


def row_numbers(batch: Tensor, every: Tensor) -> Tensor:
    """Which rows of `every` a batch has."""
    distances = torch.cdist(batch.double(), every.double())
    assert float(distances.min(dim=1).values.max()) < 1e-3
    return distances.argmin(dim=1)


@pytest.mark.parametrize("prefetch", [0, 1])
def test_each_row_comes_once_per_pass_in_an_order_random_across_all(
    prefetch: int, model: LanguageModel, tmp_path: Path
) -> None:
    # No two contexts begin alike, so that no two activations are alike but at BOS.
    contexts = np.random.default_rng(0).integers(0, 300, (67, SIZE))
    contexts[:, 0], contexts[:, 1] = model.tokenizer.bos_id, np.arange(67) + 10
    np.save(tmp_path / "tokens.npy", contexts)
    folder = tmp_path / "cache"
    cached(model, folder, str(tmp_path / "tokens.npy"), n_contexts=67)
    cache = ActivationCache(folder)
    every = torch.empty(cache.n_rows, D)
    cache.read([HOOK], 0, cache.n_rows, every)
    store = store_on(
        model,
        folder,
        exclude_special_tokens=True,
        train_batch_size_tokens=60,
        prefetch_llm_batches=prefetch,
    )
    tokens = torch.from_numpy(contexts).flatten()
    special = left_out(model.tokenizer, tokens)
    assert int(special.sum()) > 67
    wanted = (~special).nonzero().squeeze(1)
    wanted = wanted[wanted >= 3 * SIZE]  # three contexts are held out
    orders = []
    for number in (1, 2):
        seen = torch.cat([row_numbers(store.next_batch(), every) for _ in range(len(wanted) // 60)])
        rest = row_numbers(store.next_batch(), every)
        seen = torch.cat([seen, rest[: len(wanted) % 60]])
        assert torch.equal(seen.sort().values, wanted)
        orders.append(seen)
        # The next pass has begun in the same batch: start it anew, to look at it alone.
        position = store.state_dict()["position"]
        window = number * (position["window"] // number)
        assert window
        store.load_state_dict({"position": {**position, "window": window, "given": 0}})
    assert not torch.equal(orders[0], orders[1])
    blocks = [set(((order[:60] - 3 * SIZE) // 7).tolist()) for order in orders]
    assert len(blocks[0] & blocks[1]) < len(blocks[0]) / 2  # other blocks come first
    # Random across the cache: no drift, and neighbours in a batch are from everywhere.
    for order in orders:
        place = torch.arange(len(order), dtype=torch.float64)
        assert abs(float(torch.corrcoef(torch.stack([place, order.double()]))[0, 1])) < 0.2
        assert (order[1:] - order[:-1]).abs().double().mean() > cache.n_rows / 5
        shards = (order[:60] // (8 * SIZE)).unique()
        assert len(shards) >= 6
    store.close()


def test_the_seed_determines_the_order(model: LanguageModel, texts: str, tmp_path: Path) -> None:
    cached(model, tmp_path, texts)
    runs = [
        torch.cat([store_on(model, tmp_path, seed=seed, prefetch_llm_batches=p).next_batch()])
        for seed, p in ((1, 0), (1, 1), (2, 0))
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_store_on_a_cache_goes_on_where_another_stopped(
    model: LanguageModel, texts: str, tmp_path: Path
) -> None:
    cached(model, tmp_path, texts, hook_name=(HOOK, OTHER), dtype="float16")
    unbroken = store_on(model, tmp_path, hook_name=HOOK)
    expected = [unbroken.next_batch() for _ in range(40)]
    assert unbroken.passes > 2
    tokens = unbroken.get_batch_tokens(5)
    for cut in (0, 1, 9, 10, 25):
        first = store_on(model, tmp_path, prefetch_llm_batches=cut % 2)
        for _ in range(cut):
            first.next_batch()
        state = json.loads(json.dumps(first.state_dict()))
        second = store_on(model, tmp_path)
        second.load_state_dict(state)
        assert all(torch.equal(second.next_batch(), batch) for batch in expected[cut:])
        assert torch.equal(second.get_batch_tokens(5), tokens)
        second.close()
        first.close()


def test_several_hook_points_lie_side_by_side(
    model: LanguageModel, texts: str, tmp_path: Path
) -> None:
    cached(model, tmp_path, texts, hook_name=(OTHER, HOOK))
    cfg = replace(RUN, cached_activations_path=str(tmp_path))
    hooks = [model.hook_point(name) for name in (HOOK, OTHER)]
    both = ActivationsStore.from_config(model, cfg, hooks)
    live = both.get_activations(both.get_batch_tokens(1))
    assert live.shape == (1, SIZE, 2 * D)
    one = ActivationsStore.from_config(model, cfg, hooks[0])
    batch = both.next_batch()
    assert batch.shape == (64, 2 * D)
    cache = ActivationCache(tmp_path)
    every = torch.empty(cache.n_rows, 2 * D)
    cache.read([HOOK, OTHER], 0, cache.n_rows, every)
    assert torch.equal(every[row_numbers(batch, every)], batch)
    assert row_numbers(one.next_batch(), every[:, both.columns(hooks[0])]).max() > 0


def test_a_run_trains_from_a_cache_and_not_from_the_model(
    model: LanguageModel, texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(model, tmp_path, texts, n_contexts=60)
    runner = SAETrainingRunner(
        replace(RUN, cached_activations_path=str(tmp_path)), override_model=model
    )
    monkeypatch.setattr(model, "forward", None)  # the steps do without it
    batches = [runner.store.next_batch() for _ in range(3)]
    monkeypatch.undo()
    assert all(batch.shape == (64, D) for batch in batches)
    sae = runner.run()
    assert sae.cfg.metadata.dataset_path == texts
    assert runner.result is not None
    assert runner.result.last_step.tokens == 64 * 20
    assert runner.result.evaluation.explained_variance > 0.3


def test_a_cache_grows_and_then_has_another_order(
    model: LanguageModel, texts: str, tmp_path: Path
) -> None:
    cached(model, tmp_path / "grown", texts, n_contexts=20)
    state = store_on(model, tmp_path / "grown").state_dict()
    cached(model, tmp_path / "grown", texts, n_contexts=20)  # nothing to do
    assert ActivationCache(tmp_path / "grown").index.contexts == 20
    cached(model, tmp_path / "grown", texts, n_contexts=40)
    cached(model, tmp_path / "whole", texts, n_contexts=40)
    grown, whole = (ActivationCache(tmp_path / name) for name in ("grown", "whole"))
    assert np.array_equal(list(grown.contexts()), list(whole.contexts()))
    with pytest.raises(DatasetError, match="but the run began with"):
        store_on(model, tmp_path / "grown").load_state_dict(state)


def test_a_data_set_that_ends_gives_a_smaller_cache(
    model: LanguageModel, texts: str, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    cfg = CacheActivationsRunnerConfig(
        new_cached_activations_path=str(tmp_path),
        hook_name=(HOOK,),
        dataset_path=texts,
        context_size=SIZE,
        training_tokens=10_000_000,
    )
    index = CacheActivationsRunner(
        cfg, override_model=model, show=lambda *done: seen.append(done)
    ).run()
    assert 100 < index.contexts < 300
    assert seen[0] == (0, 10_000_000)
    assert seen[-1] == (index.tokens, 10_000_000)


def test_a_cache_that_does_not_fit_the_run_is_refused_by_name(
    model: LanguageModel, texts: str, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    cached(model, folder, texts)
    other = boot_model(build_gpt2(tmp_path / "gpt2"), device="cpu")
    with pytest.raises(CacheError, match=r"model_name: .*\(revision .*\(revision "):
        store_on(other, folder)
    for field, value, message in (
        ("context_size", 20, "context_size: .* of 16, the run is about 20"),
        ("prepend_bos", False, "prepend_bos: .* of True, the run is about False"),
        ("dataset_path", "other.txt", r"dataset_path: .*stories\.jsonl, the run is about other"),
        ("hook_name", OTHER, f"hook_name: .* activations of {HOOK}, not of {OTHER}"),
    ):
        with pytest.raises(CacheError, match=message) as caught:
            store_on(model, folder, **{field: value})
        assert caught.value.field == field
    with pytest.raises(DatasetError, match="no context beyond the 40"):
        store_on(model, folder, eval_contexts=40)
    with pytest.raises(CacheError, match=r"holds no cache\.json"):
        store_on(model, tmp_path)
    cfg, hook = replace(RUN, cached_activations_path=str(folder)), model.hook_point(HOOK)
    with pytest.raises(ConfigError, match="of a data set of its own"):
        ActivationsStore.from_config(model, cfg, hook, np.zeros((3, SIZE), int))
    for field, value in (("use_cached_activations", False), ("cached_activations_path", None)):
        with pytest.raises(ConfigError, match="together with use_cached_activations, or neither"):
            replace(RUN, **{field: value})


def test_a_broken_cache_is_refused_by_file(
    model: LanguageModel, texts: str, tmp_path: Path
) -> None:
    cached(model, tmp_path, texts)
    shard = tmp_path / ActivationCache(tmp_path).index.shards[1].file
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(CacheError, match=r"shard-00001\.safetensors"):
        ActivationCache(tmp_path)
    shard.unlink()
    with pytest.raises(CacheError, match=r"shard-00001\.safetensors.*No such file"):
        ActivationCache(tmp_path)
    shard.write_bytes(data)
    index = tmp_path / "cache.json"
    index.write_text(index.read_text(encoding="utf-8").replace('"contexts": 8', '"contexts": 9'))
    with pytest.raises(CacheError, match=r"expected .*\(9, 16, 32\)"):
        ActivationCache(tmp_path)
    index.write_text("{", encoding="utf-8")
    with pytest.raises(CacheError, match="no index of cached activations"):
        ActivationCache(tmp_path)


def test_a_folder_of_something_else_is_not_written_into(
    model: LanguageModel, texts: str, tmp_path: Path
) -> None:
    cached(model, tmp_path / "cache", texts)
    with pytest.raises(CacheError, match=r"other activations \(dtype: float32, not float16\)"):
        cached(model, tmp_path / "cache", texts, dtype="float16")
    with pytest.raises(CacheError, match="is not empty"):
        cached(model, tmp_path, texts)


def test_values_that_a_number_type_does_not_hold_are_refused(texts: str, tmp_path: Path) -> None:
    large = boot_model(build_llama(tmp_path / "llama"), device="cpu")
    with torch.no_grad():
        large.hf.get_input_embeddings().weight *= 1e5  # type: ignore[no-untyped-call]
    with pytest.raises(CacheError, match=r"blocks\.0\.hook_resid_pre reach .*use bfloat16"):
        cached(large, tmp_path / "a", texts, dtype="float16", hook_name="blocks.0.hook_resid_pre")
    cached(large, tmp_path / "b", texts, dtype="bfloat16", hook_name="blocks.0.hook_resid_pre")


def test_the_models_own_text_can_be_cached(model: LanguageModel, tmp_path: Path) -> None:
    cached(model, tmp_path, "", n_contexts=70, dataset_path=None)
    cached(model, tmp_path, "", n_contexts=100, dataset_path=None)
    cache = ActivationCache(tmp_path)
    assert len({tuple(context) for context in cache.contexts()}) == cache.index.contexts == 100
    assert store_on(model, tmp_path).next_batch().shape == (64, D)


def test_positions_and_documents_are_chosen_as_in_a_live_run(
    model: LanguageModel, texts: str, tmp_path: Path
) -> None:
    cached(model, tmp_path, texts, disable_concat_sequences=True, sequence_separator_token=None)
    cache = ActivationCache(tmp_path)
    documents = [json.loads(line)["text"] for line in Path(texts).read_text("utf-8").splitlines()]
    starts = {tuple(model.tokenizer.encode_text(text).ids[:SIZE]) for text in documents}
    assert {tuple(context) for context in cache.contexts()} <= starts
    store = store_on(model, tmp_path, seqpos_slice=(2, 5), train_batch_size_tokens=37 * 3)
    every = torch.empty(cache.n_rows, D)
    cache.read([HOOK], 0, cache.n_rows, every)
    rows = row_numbers(store.next_batch(), every)
    assert {int(row) % SIZE for row in rows} == {2, 3, 4}
    with pytest.raises(CacheError, match="disable_concat_sequences: True, not False"):
        cached(model, tmp_path, texts, sequence_separator_token=None)


@pytest.mark.filterwarnings("default:left out")
def test_the_commands_cache_and_then_train(
    folder: Path, texts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text(Path(texts).read_text("utf-8") + "\n{oops", encoding="utf-8")
    command = ["cache-activations", "--model", str(folder), "--dataset", str(broken), "--out"]
    command += [str(tmp_path / "cache"), "--tokens", "1000000", "--context-size", str(SIZE)]
    command += ["--hook-name", HOOK, OTHER]
    assert train(command) == 1
    assert "error: broken.jsonl, line 61: not JSON" in capsys.readouterr().err
    there = ActivationCache(tmp_path / "cache").index.contexts
    assert train([*command, "--on-broken-sample", "skip"]) == 0
    said = capsys.readouterr()
    assert "1 broken samples left out" in said.out
    assert "warning: left out: broken.jsonl, line 61" in said.err
    assert ActivationCache(tmp_path / "cache").index.contexts >= there > 32
    flags = ["--model-name", str(folder), "--hook-name", OTHER, "--context-size", str(SIZE)]
    flags += ["--use-cached-activations", "--cached-activations-path", str(tmp_path / "cache")]
    flags += ["--training-tokens", "512", "--train-batch-size-tokens", "128", "--d-sae", "64"]
    flags += ["--eval-contexts", "3", "--feature-stats-tokens", "64", "--json"]
    assert train([*flags, "--out", str(tmp_path / "sae")]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["hook_name"] == OTHER
    assert summary["skipped_samples"] == 1
    assert train(["cache-activations", "--out", str(tmp_path / "x"), "--tokens", "0"]) == 2
    assert "training_tokens: 0, expected at least 1" in capsys.readouterr().err
