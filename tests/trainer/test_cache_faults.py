"""Making a cache is killed, interrupted, and runs out of disk: what is there stays usable, and the
same command goes on to the very same files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.models import build_llama, story

from saekit_trainer.cache.cache import ActivationCache

SIZE = 16
N_CONTEXTS = 600

# One process loads everything, and forks those that are killed.
CHILD = """
import json, os, random, resource, shutil, signal, sys, time
os.environ["TOKENIZERS_PARALLELISM"] = "false"
import torch
torch.set_num_threads(1)
from pathlib import Path
from saekit_core.lm.boot import boot_model
from saekit_trainer.cache import writer
from saekit_trainer.cache.cli import cache_activations
from saekit_trainer.cache.making import CacheActivationsRunner
from saekit_trainer.cache.config import CacheActivationsRunnerConfig

writer.SHARD_BYTES = 16 * 16 * 32 * 2
place, n = Path(sys.argv[1]), int(sys.argv[2])
model = boot_model(place / "model", device="cpu")
warm = torch.zeros(4, 16, dtype=torch.int64)
model.forward(warm, taps={model.hook_point("blocks.1.hook_resid_pre"): lambda h: None})

def config(name, contexts=n):
    return CacheActivationsRunnerConfig(
        new_cached_activations_path=str(place / name), hook_name=("blocks.1.hook_resid_pre",),
        dataset_path=str(place / "*.jsonl"), context_size=16, training_tokens=contexts * 16,
        model_batch_size=4)

def forked(work):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = work() or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return child

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def make(name):
    CacheActivationsRunner(config(name), override_model=model).run()

began = time.monotonic()
assert ended(forked(lambda: make("whole"))) == 0
took = time.monotonic() - began
killed, rng = 0, random.Random(0)
while killed < 8:
    child = forked(lambda: make("killed"))
    time.sleep(rng.random() * took / 4)
    os.kill(child, signal.SIGKILL)
    if ended(child) == -signal.SIGKILL:
        killed += 1
    else:  # it was ready already
        shutil.rmtree(place / "killed")
assert ended(forked(lambda: make("killed"))) == 0

def command(name):
    return cache_activations([
        "--out", str(place / name), "--model", str(place / "model"), "--hook-name",
        "blocks.1.hook_resid_pre", "--dataset", str(place / "*.jsonl"), "--context-size", "16",
        "--tokens", str(n * 16), "--model-batch-size", "4", "--device", "cpu"])

child = forked(lambda: command("stopped"))
while not (place / "stopped" / "shard-00001.safetensors").exists():
    time.sleep(0.002)
os.kill(child, signal.SIGTERM)
stopped = ended(child)

def full():
    CacheActivationsRunner(config("full", 100), override_model=model).run()
    index = (place / "full" / "cache.json").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (index + 8000, index + 8000))
    return command("full")

print(json.dumps({"killed": killed, "stopped": stopped, "full": ended(forked(full))}))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    build_llama(folder / "model")
    for i in range(3):
        lines = [json.dumps({"text": story(40, 1000 * i + j)}) for j in range(120)]
        (folder / f"{i}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def outcome(place: Path) -> tuple[dict[str, Any], str]:
    found = subprocess.run(
        [sys.executable, "-c", CHILD, str(place), str(N_CONTEXTS)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1]), found.stderr


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_cache_that_was_killed_at_random_moments_is_the_same_in_the_end(
    place: Path, outcome: tuple[dict[str, Any], str]
) -> None:
    whole, killed = files(place / "whole"), files(place / "killed")
    assert ActivationCache(place / "whole").index.contexts == N_CONTEXTS
    assert len(whole) > 30
    assert outcome[0]["killed"] == 8
    assert killed.keys() == whole.keys()
    assert [name for name in whole if whole[name] != killed[name]] == []


def test_a_cache_that_was_told_to_stop_has_what_was_computed(
    place: Path, outcome: tuple[dict[str, Any], str]
) -> None:
    assert outcome[0]["stopped"] == 130
    assert "interrupted; the same command goes on" in outcome[1]
    whole, stopped = ActivationCache(place / "whole"), ActivationCache(place / "stopped")
    assert 32 <= stopped.index.contexts <= N_CONTEXTS
    assert stopped.index.contexts % 4 == 0
    assert stopped.tokens(0, stopped.n_rows).equal(whole.tokens(0, stopped.n_rows))


def test_a_disk_without_room_leaves_a_usable_cache_and_says_so(
    place: Path, outcome: tuple[dict[str, Any], str]
) -> None:
    assert outcome[0]["full"] == 1
    assert "error: cannot write" in outcome[1]
    assert "1,600 tokens in 7 shards are there and can be trained on" in outcome[1]
    assert ActivationCache(place / "full").n_rows == 1600
    assert sorted(files(place / "full")) == [
        "cache.json",
        *(f"shard-{i:05d}.safetensors" for i in range(7)),
    ]
