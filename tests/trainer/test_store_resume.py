"""A store goes on with the very same batches: after any cut, in another process, however far the
model had run ahead."""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.models import story
from torch import Tensor

from saekit_core.lm.model import LanguageModel
from saekit_trainer.activations_store import ActivationsStore, StoreConfig
from saekit_trainer.contexts import ContextFormat, ContextSource, open_contexts
from saekit_trainer.errors import DatasetError
from saekit_trainer.mixing_buffer import MixingBuffer
from saekit_trainer.read_ahead import ReadAhead
from saekit_trainer.self_text import SelfTextContexts

SIZE = 16
ROWS = [{"text": story(30, seed)} for seed in range(40)]
HOOK = "blocks.1.hook_resid_pre"


def store_of(
    model: LanguageModel, source: ContextSource | None = None, **config: Any
) -> ActivationsStore:
    sizes = {"store_batch_size_prompts": 3, "train_batch_size_tokens": 32, "n_batches_in_buffer": 3}
    source = source or open_contexts(ROWS, model.tokenizer, ContextFormat(SIZE, True))
    return ActivationsStore(
        model,
        model.hook_point(HOOK),
        source,
        StoreConfig(**{"eval_contexts": 3, "exclude_special_tokens": True, **sizes, **config}),
    )


def on_disk(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint keeps it."""
    return {
        "position": json.loads(json.dumps(state["position"])),
        "buffer": {name: tensor.clone() for name, tensor in state["buffer"].items()},
    }


def play(store: ActivationsStore, program: list[int]) -> list[Tensor]:
    """0: a batch; n: n contexts."""
    return [store.get_batch_tokens(n) if n else store.next_batch() for n in program]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


programs = st.lists(st.sampled_from([0, 0, 0, 0, 0, 1, 5]), max_size=30)


@settings(max_examples=15, deadline=None)
@given(before=programs, after=programs, ahead=st.tuples(*[st.sampled_from([0, 1, 3])] * 3))
def test_a_store_goes_on_where_another_stopped(
    model: LanguageModel, before: list[int], after: list[int], ahead: tuple[int, int, int]
) -> None:
    unbroken, first, second = (store_of(model, prefetch=depth) for depth in ahead)
    expected = play(unbroken, before + after)
    assert same(play(first, before), expected[: len(before)])
    second.load_state_dict(on_disk(first.state_dict()))
    assert second.passes == first.passes
    assert same(play(second, after), expected[len(before) :])
    for store in (unbroken, first, second):
        store.close()


CHILD = """
import json, sys
from pathlib import Path
from safetensors.torch import load_file
from saekit_core.lm.boot import boot_model
from tests.trainer.test_store_resume import digest, store_of
model = boot_model(Path(sys.argv[1]), device="cpu")
store = store_of(model, prefetch=2)
place = Path(sys.argv[2])
position = json.loads((place / "position.json").read_text())
store.load_state_dict({"position": position, "buffer": load_file(place / "buffer.safetensors")})
print(digest(store, 40))
"""


def digest(store: ActivationsStore, n: int) -> str:
    hashed = hashlib.sha256()
    for _ in range(n):
        hashed.update(store.next_batch().numpy().tobytes())
    return hashed.hexdigest()


def test_another_process_goes_on_with_the_same_batches(
    model: LanguageModel, folder: Path, tmp_path: Path
) -> None:
    store = store_of(model, prefetch=1)
    for _ in range(7):
        store.next_batch()
    state = store.state_dict()
    (tmp_path / "position.json").write_text(json.dumps(state["position"]))
    save_file(state["buffer"], tmp_path / "buffer.safetensors")
    found = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout.strip() == digest(store, 40), found.stderr
    store.close()


def test_a_state_of_another_shape_is_refused(model: LanguageModel) -> None:
    store, other = store_of(model), store_of(model, dtype=torch.float64)
    store.next_batch()
    with pytest.raises(ValueError, match=r"torch\.float32, not .*torch\.float64"):
        other.load_state_dict(on_disk(store.state_dict()))


def test_the_models_own_text_is_carried_over(model: LanguageModel) -> None:
    def source(**limits: Any) -> SelfTextContexts:
        return SelfTextContexts(
            model, SIZE, max_tokens=90 * SIZE, temperature=1.0, seed=3, **limits
        )

    store = store_of(model, source())
    unbroken = play(store, [0] * 200)
    assert store.passes > 2
    for cut in (0, 3, 60, 150):
        first = store_of(model, source())
        play(first, [0] * cut)
        second = store_of(model, source())
        second.load_state_dict(on_disk(first.state_dict()))
        assert same(play(second, [0] * (200 - cut)), unbroken[cut:])
    # Writing that was ended by the clock is not gone on with.
    late = source(max_seconds=0.0, min_contexts=10)
    assert len(list(late.contexts())) == 64
    other = source()
    other.remember(json.loads(json.dumps(late.memory())))
    assert np.array_equal(list(other.contexts()), list(late.contexts()))


def test_a_model_that_runs_ahead_shares_it_with_others(model: LanguageModel) -> None:
    quiet, busy = store_of(model), store_of(model, prefetch=2)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(4, 300, (4, SIZE)))
    expected = quiet.get_activations(tokens)
    for _ in range(30):
        assert torch.equal(busy.next_batch(), quiet.next_batch())
        # Runs of the model in this thread meet those in the other one.
        assert torch.equal(busy.get_activations(tokens), expected)
        logits = model.forward(tokens, taps={}, logits_at=torch.arange(4))
        assert logits is not None
        assert logits.shape == (4, model.d_vocab)
    busy.close()


def test_a_store_that_is_dropped_ends_its_thread(model: LanguageModel) -> None:
    before = set(threading.enumerate())
    store = store_of(model, prefetch=1)
    store.next_batch()
    (thread,) = set(threading.enumerate()) - before
    del store
    gc.collect()
    assert not thread.is_alive()


def test_an_error_ahead_comes_where_its_batch_would_have_been(model: LanguageModel) -> None:
    contexts = np.random.default_rng(0).integers(4, 300, (20, SIZE))
    contexts[17] = 10_000
    quiet, ahead = (store_of(model, tokens_of(model, contexts), prefetch=n) for n in (0, 2))
    counts = []
    for store in (quiet, ahead):
        good: list[Tensor] = []
        with pytest.raises(DatasetError, match="row 17: token ids in 10000"):
            good.extend(store)
        counts.append(len(good))
        # The state is that behind the last good batch: with the row mended, a run goes on.
        mended = copy.copy(contexts)
        mended[17] = 5
        fresh = store_of(model, tokens_of(model, mended))
        fresh.load_state_dict(on_disk(store.state_dict()))
        unbroken = store_of(model, tokens_of(model, mended))
        play(unbroken, [0] * len(good))
        assert same(play(fresh, [0] * 5), play(unbroken, [0] * 5))
    assert counts[0] == counts[1] > 0
    ahead.close()


def tokens_of(model: LanguageModel, contexts: np.ndarray[Any, Any]) -> ContextSource:
    return open_contexts(contexts, model.tokenizer, ContextFormat(SIZE, True))


def test_reading_ahead_keeps_the_order_and_the_distance() -> None:
    made: list[int] = []

    def make() -> int:
        if len(made) == 50:
            raise StopIteration
        made.append(len(made))
        return made[-1]

    ahead = ReadAhead(make, depth=3)
    found = []
    for item in ahead:
        found.append(item)
        time.sleep(0.001)
        assert len(made) <= len(found) + 4  # three on the shelf, one in the making
    assert found == list(range(50))
    assert next(ahead, None) is None
    ahead.close()
    ahead.close()


def test_the_buffer_is_refilled_at_the_pace_at_which_it_is_emptied() -> None:
    asked: list[int] = []

    def chunks() -> Any:
        for i in range(10_000):
            asked.append(i)
            yield torch.full((8, 1), float(i))

    buffer = MixingBuffer(chunks(), capacity=160, d_in=1, dtype=torch.float32, device="cpu", seed=0)
    per_batch = []
    for _ in range(50):
        before = len(asked)
        buffer.next_batch(16)
        per_batch.append(len(asked) - before)
    assert per_batch == [20] + [2] * 49
