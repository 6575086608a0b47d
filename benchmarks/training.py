"""Training runs here and in sae-lens, side by side: what both are asked, and what they answer.

Each side is a process of its own (`train_worker`, `sae_lens_train`) that has read its model and
speaks JSON lines. Settings carry SAELens' names, which both sides take; what is not said stays as
each has it: initial weights, and how dead features are brought back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch

from benchmarks.harness import Options, Outcome
from benchmarks.setting import CACHE, Setting, embedded
from saekit_trainer.presets import PRESETS, preset_learning_rate, preset_sparsity
from saekit_trainer.self_text import ROWS_AT_ONCE, sample_contexts

ROOT: Final = Path(__file__).parents[1]
OURS: Final = (sys.executable, "-m", "benchmarks.train_worker")
PEER: Final = Path(__file__).with_name("sae_lens_train.py")
SAEKIT: Final = "saekit"
SAE_LENS: Final = "SAELens"
ARCHITECTURES: Final = ("standard", "gated", "topk", "jumprelu", "batchtopk")
CONTEXT: Final = 128
BATCH: Final = 1024
HELD_OUT: Final = 64
"""First contexts, which nobody trains on."""
CONTEXTS: Final = HELD_OUT + 3200


@dataclass(frozen=True)
class Run:
    """What a worker says of a run."""

    tokens: int
    seconds: float
    """Of the whole `run()`: first activations, steps, and the finished SAE."""
    step_seconds: float
    """From the start of the second step to the start of the last, or from end to end."""
    steps: int
    """As many as `step_seconds` are of."""
    peak: int | None
    """Bytes of the process' memory at most; None where nobody tells."""

    @property
    def rate(self) -> float:
        """Tokens per second of the whole run."""
        return self.tokens / self.seconds

    @property
    def step_rate(self) -> float:
        """Tokens per second while there are steps."""
        return self.steps * BATCH / self.step_seconds


class Worker:
    """A process that trains when asked."""

    def __init__(self, name: str, stdin: IO[str], stdout: IO[str]) -> None:
        self._name, self._stdin, self._stdout = name, stdin, stdout

    def ask(self, what: Mapping[str, Any]) -> Any:
        """Its answer.

        Raises:
            RuntimeError: it has ended.
        """
        self._stdin.write(json.dumps(what) + "\n")
        self._stdin.flush()
        line = self._stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} has stopped; its error is above")
        return json.loads(line)

    def train(self, settings: Mapping[str, Any], folder: Path | None = None) -> Run:
        """Train one SAE, and write it to `folder`."""
        return Run(**self.ask({"settings": settings, "folder": folder and str(folder)}))


@contextmanager
def both_sides(setting: Setting, hook: str, options: Options) -> Iterator[dict[str, Worker]]:
    """The two workers by name, or ours alone without a peer; models read, nothing trained."""
    job = {
        "model": str(setting.model_dir),
        "hook": hook,
        "contexts": str(contexts_file()),
        "held_out": HELD_OUT,
        "threads": torch.get_num_threads(),
    }
    commands: dict[str, Sequence[str]] = {SAEKIT: OURS}
    if options.peer is not None:
        commands[SAE_LENS] = (str(options.peer), str(PEER))
    with ExitStack() as stack:
        workers = {name: stack.enter_context(_worker(name, c)) for name, c in commands.items()}
        for worker in workers.values():
            worker.ask(job)
        yield workers


@contextmanager
def _worker(name: str, command: Sequence[str]) -> Iterator[Worker]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Worker(name, process.stdin, process.stdout)
    finally:
        process.stdin.close()
        process.wait(60)


def settings(
    architecture: str, *, d_in: int, d_sae: int, tokens: int, prompts: int, buffer: int, seed: int
) -> dict[str, Any]:
    """A run with this project's usual values, under the names that both sides know.

    Args:
        architecture: one of `ARCHITECTURES`.
        d_in, d_sae: sizes.
        tokens: activations to train on.
        prompts: contexts per run of the model.
        buffer: runs of the model that the mixing buffer holds.
        seed: of weights and order.
    """
    steps = tokens // BATCH
    coefficient = preset_sparsity(architecture, d_in, "sum")
    warm_up = int(steps * PRESETS[architecture].sparsity_warm_up_share)
    own: dict[str, Any] = {
        "standard": {"l1_coefficient": coefficient, "l1_warm_up_steps": warm_up},
        "gated": {"l1_coefficient": coefficient, "l1_warm_up_steps": warm_up},
        "jumprelu": {
            "l0_coefficient": coefficient,
            "l0_warm_up_steps": warm_up,
            "jumprelu_bandwidth": 1.0,
            "jumprelu_init_threshold": 0.2,
        },
        "topk": {"k": 32},
        "batchtopk": {"k": 32},
    }[architecture]
    return {
        "sae": {
            "architecture": architecture,
            "d_in": d_in,
            "d_sae": d_sae,
            "normalize_activations": "expected_average_only_in",
            **own,
        },
        "training_tokens": tokens,
        "train_batch_size_tokens": BATCH,
        "context_size": CONTEXT,
        "store_batch_size_prompts": prompts,
        "n_batches_in_buffer": buffer,
        "lr": preset_learning_rate(architecture, d_sae),
        "lr_warm_up_steps": steps // 50,
        "lr_decay_steps": steps // 5,
        "dead_feature_window": 200,
        "seed": seed,
    }


def take_turns(
    workers: Mapping[str, Worker], wanted: Mapping[str, Any], *, runs: int, warm_up: int = 1
) -> dict[str, list[Run]]:
    """The same run by each worker in turn; the first `warm_up` of them do not count."""
    found: dict[str, list[Run]] = {name: [] for name in workers}
    for turn in range(runs + warm_up):
        for name, worker in workers.items():
            run = worker.train(wanted)
            if turn >= warm_up:
                found[name].append(run)
    return found


def peaks(runs: Mapping[str, Sequence[Run]]) -> dict[str, Outcome]:
    """Peak memory in bytes, by worker; empty where it is not known."""
    known = {n: [r.peak for r in found if r.peak is not None] for n, found in runs.items()}
    if not all(known.values()):
        return {}
    return {name: Outcome.of(found) for name, found in known.items()}


def contexts_file() -> Path:
    """Contexts of token ids that the embedded model wrote, ``[CONTEXTS, CONTEXT]``, as .npy."""
    path = CACHE / f"contexts-{CONTEXTS}x{CONTEXT}.npy"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        aside = path.with_suffix(".new.npy")
        np.save(aside, _contexts())
        aside.rename(path)
    return path


def _contexts() -> np.ndarray[Any, Any]:
    model, generator = embedded().model, torch.Generator().manual_seed(0)
    parts = [
        sample_contexts(
            model,
            n_rows=ROWS_AT_ONCE,
            context_size=CONTEXT,
            temperature=1.0,
            generator=generator,
        )
        for _ in range(CONTEXTS // ROWS_AT_ONCE)
    ]
    return torch.cat(parts).numpy()
