"""Data of a training run: contexts from text, activations from disk, the model ahead, and resuming.

- Contexts: tokens per second that files give, against tokenising text by text as the server does.
- Cache: rows per second from 1 GB of float16, 768 wide, by how much is read together; with the page
  cache emptied of it (cold) and not.
- Ahead: a training step on the embedded model, with the model in the same thread and in its own.
- Resuming: seconds to write and load a buffer of 131,072 rows, 768 wide, and how many runs of the
  model it would take to fill it again instead.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.harness import Options, Outcome, Report, alternate
from saekit_core.lm.boot import boot_model
from saekit_core.lm.hook_points import HookPoint
from saekit_core.lm.model import LanguageModel
from saekit_trainer.cache import windows
from saekit_trainer.cache.cache import ActivationCache
from saekit_trainer.cache.index import CachedHook, CacheOrigin
from saekit_trainer.cache.rows import CachedRows
from saekit_trainer.cache.writer import CacheWriter
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.contexts import ContextFormat, open_contexts
from saekit_trainer.mixing_buffer import MixingBuffer
from saekit_trainer.runner import SAETrainingRunner
from saekit_trainer.store_config import StoreConfig

SIZE, WIDTH = 128, 768
HOOK = HookPoint("blocks.8.hook_resid_pre", "blocks.8.hook_in", 0, (WIDTH,))


def measure(options: Options) -> Iterator[Report]:
    """Contexts, cache, the model ahead, resuming."""
    model = boot_model(None, device="cpu")
    with tempfile.TemporaryDirectory(dir=".") as scratch, torch.enable_grad():
        yield contexts(model, Path(scratch), options)
        yield from cache(model, Path(scratch))
        yield ahead(model, options)
        yield resuming(Path(scratch))


def _report(name: str, question: str, unit: str, outcomes: dict[str, Outcome]) -> Report:
    return Report(row=f"data-{name}", question=question, unit=unit, outcomes=outcomes, bars=())


def contexts(model: LanguageModel, scratch: Path, options: Options) -> Report:
    """Tokens per second that files give."""
    ids = np.random.default_rng(0).integers(300, model.d_vocab, (2000, 300))
    texts = [model.tokenizer.decode(row) for row in ids]
    (scratch / "a.txt").write_text("\n<|endoftext|>\n".join(texts), encoding="utf-8")
    lines = "\n".join(json.dumps({"text": text}) for text in texts)
    (scratch / "a.jsonl").write_text(lines, encoding="utf-8")
    pq.write_table(pa.table({"text": texts}), scratch / "a.parquet")
    np.save(scratch / "a.npy", ids[:, :SIZE])

    def one_by_one() -> float:
        return float(sum(len(model.tokenizer.encode_text(text)) for text in texts))

    def read(kind: str) -> Callable[[], float]:
        def run() -> float:
            source = open_contexts(
                scratch / f"a.{kind}", model.tokenizer, ContextFormat(SIZE, True)
            )
            return float(sum(len(context) for context in source.contexts()))

        return run

    kinds = {kind: read(kind) for kind in ("txt", "jsonl", "parquet", "npy")}
    outcomes = alternate({"one by one": one_by_one, **kinds}, runs=options.runs)
    return _report("contexts", "contexts from files", "tokens/s", outcomes)


def cache(model: LanguageModel, scratch: Path) -> Iterator[Report]:
    """Rows per second from 1 GB on disk."""
    folder = scratch / "cache"
    origin = CacheOrigin(
        model_name="none",
        model_revision="",
        hooks=(CachedHook(HOOK.name, HOOK.canonical, WIDTH),),
        dataset=None,
        dataset_split="train",
        dataset_column=None,
        context_size=SIZE,
        prepend_bos=True,
        sequence_separator_token="default",
        disable_concat_sequences=False,
        autocast_lm=False,
        batch_size_prompts=64,
        dtype="float16",
        seed=0,
    )
    writer = CacheWriter(folder, origin)
    values = torch.randn(64, SIZE, WIDTH)
    tokens = torch.zeros(64, SIZE, dtype=torch.int64)
    while writer.contexts * values[0].numel() * 2 < 2**30:
        writer.add(tokens, {HOOK.name: values})
        if not writer.room:
            writer.write_shard({"skipped": 0}, None)
    writer.write_shard({"skipped": 0}, None)

    def rows(block_bytes: int, *, cold: bool) -> Callable[[], float]:
        def run() -> float:
            for shard in folder.glob("*.safetensors") if cold else ():
                with shard.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            windows.BLOCK_BYTES = block_bytes  # type: ignore[misc]
            config = StoreConfig(store_batch_size_prompts=16, n_batches_in_buffer=64, prefetch=1)
            there = ActivationCache(folder)
            batches = CachedRows(there, [HOOK], model.tokenizer, config, torch.device("cpu"))
            for _ in range(24):
                batches.next_batch(4096)
            batches.close()
            return 24.0 * 4096

        return run

    sizes = {"a row": 1, "16 KiB": 2**14, "64 KiB": 2**16, "256 KiB": 2**18}
    for cold in (True, False):
        contenders = {name: rows(size, cold=cold) for name, size in sizes.items()}
        kind = "cold" if cold else "warm"
        outcomes = alternate(contenders, runs=3)
        yield _report(f"cache-{kind}", f"rows from a {kind} cache", "rows/s", outcomes)


def ahead(model: LanguageModel, options: Options) -> Report:
    """A training run with the model in the same thread, and in its own."""
    ids = np.random.default_rng(0).integers(300, model.d_vocab, (2000, SIZE))
    cfg = LanguageModelSAERunnerConfig(
        architecture="standard", d_sae=2048, training_tokens=100 * 1024, feature_stats_tokens=SIZE
    )

    def train(runs_ahead: int) -> Callable[[], float]:
        def run() -> float:
            runner = SAETrainingRunner(
                replace(cfg, prefetch_llm_batches=runs_ahead), ids, override_model=model
            )
            runner.run()
            return float(cfg.training_tokens)

        return run

    outcomes = alternate({f"{n} ahead": train(n) for n in (0, 1, 2)}, runs=options.runs)
    return _report("ahead", "training with the model ahead", "tokens/s", outcomes)


def resuming(scratch: Path) -> Report:
    """A buffer to disk and back."""
    per_run, runs, batch = 2048, 64, 4096

    def chunks() -> Iterator[Tensor]:
        number = 0.0
        while True:
            yield torch.full((per_run, 1), number)
            number += 1

    buffer = MixingBuffer(
        chunks(), capacity=runs * per_run, d_in=1, dtype=torch.float32, device="cpu", seed=0
    )
    for _ in range(500):
        buffer.next_batch(batch)
    alive = len(buffer.state_dict()["rows"].unique())
    rows = torch.randn(runs * per_run, WIDTH)
    began = time.perf_counter()
    save_file({"rows": rows}, scratch / "buffer.safetensors")
    with (scratch / "buffer.safetensors").open("rb") as file:
        os.fsync(file.fileno())
    written = time.perf_counter()
    load_file(scratch / "buffer.safetensors")["rows"].clone()
    loaded = time.perf_counter()
    return Report(
        row="data-resuming",
        question=f"a buffer of {rows.nbytes / 1e6:.0f} MB to disk and back",
        unit="s",
        outcomes={
            "write": Outcome.of([written - began]),
            "load": Outcome.of([loaded - written]),
        },
        bars=(),
        notes=(f"it has rows of {alive} runs of the model",),
    )
