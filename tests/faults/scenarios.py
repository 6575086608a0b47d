"""Runs that are killed: every kind of data and of training, as arguments of `saekit train`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from tests.models import build_llama, story

from saekit_core.lm.boot import boot_model
from saekit_trainer.cache.config import CacheActivationsRunnerConfig
from saekit_trainer.cache.making import CacheActivationsRunner

HOOK = "blocks.1.hook_resid_pre"
CONTEXT = 24
BATCH = 128


@dataclass(frozen=True)
class Scenario:
    """A run to kill.

    Attributes:
        values: what is its own, as in a TOML file.
        data: makes the data set in a folder, and says what the run is to read.
    """

    values: dict[str, Any]
    data: Callable[[Path], dict[str, Any]]

    def write(self, place: Path, steps: int, **more: Any) -> None:
        """Write ``run.toml`` into an empty folder beside the folder ``model``, and the data."""
        values = {
            "model_name": str(place.parent / "model"),
            "device": "cpu",
            "d_sae": 96,
            "context_size": CONTEXT,
            "train_batch_size_tokens": BATCH,
            "store_batch_size_prompts": 6,
            "n_batches_in_buffer": 6,
            "training_tokens": BATCH * steps,
            "eval_contexts": 6,
            "feature_stats_tokens": CONTEXT * 8,
            "dead_feature_window": 20,
            "feature_sampling_window": 40,
            "resume_state_minutes": 0,
            **self.data(place),
            **self.values,
            **more,
        }
        saes = values.pop("saes", {})
        if saes:
            del values["d_sae"]
        lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        for name, own in saes.items():
            lines += [f"[saes.{name}]", *(f"{k} = {json.dumps(v)}" for k, v in own.items())]
        (place / "run.toml").write_text("\n".join(lines), encoding="utf-8")


def build_model(folder: Path) -> None:
    """The model of all scenarios, in ``folder/model``."""
    build_llama(folder / "model")


def _stories(n: int = 60) -> list[str]:
    return [story(40, seed) for seed in range(n)]


def _text(place: Path) -> dict[str, Any]:
    file = place / "stories.txt"
    file.write_text("\n<|endoftext|>\n".join(_stories()), encoding="utf-8")
    return {"dataset_path": str(file)}


def _json_lines(place: Path) -> dict[str, Any]:
    lines = [json.dumps({"text": text}) for text in _stories()]
    lines[40] = '{"text": broken'
    for i in range(2):
        part = lines[30 * i : 30 * i + 30]
        (place / f"{i}.jsonl").write_text("\n".join(part), encoding="utf-8")
    return {"dataset_path": str(place / "*.jsonl"), "on_broken_sample": "skip"}


def _parquet(place: Path) -> dict[str, Any]:
    pq.write_table(pa.table({"text": _stories()}), place / "s.parquet", row_group_size=7)
    return {"dataset_path": str(place / "s.parquet")}


def _hugging_face(place: Path) -> dict[str, Any]:
    datasets.Dataset.from_dict({"text": _stories()}).save_to_disk(str(place / "rows"))
    return {"dataset_path": str(place / "rows")}


def _hugging_face_stream(place: Path) -> dict[str, Any]:
    folder = place / "stream"
    folder.mkdir()
    _parquet(folder)
    return {"dataset_path": str(folder), "streaming": True}


def _own_text(_: Path) -> dict[str, Any]:
    return {"self_text_tokens": 6000}


def _cached(place: Path) -> dict[str, Any]:
    cfg = CacheActivationsRunnerConfig(
        new_cached_activations_path=str(place / "cache"),
        model_name=str(place.parent / "model"),
        hook_name=(HOOK, "blocks.2.hook_resid_pre"),
        dataset_path=_text(place)["dataset_path"],
        context_size=CONTEXT,
        training_tokens=CONTEXT * 200,
        device="cpu",
    )
    CacheActivationsRunner(cfg, override_model=boot_model(cfg.model_name, device="cpu")).run()
    return {"use_cached_activations": True, "cached_activations_path": str(place / "cache")}


SCENARIOS = {
    "standard-ghost-text": Scenario(
        {
            "architecture": "standard",
            "use_ghost_grads": True,
            "lr_scheduler_name": "cosineannealing",
        },
        _text,
    ),
    "topk-jsonl": Scenario(
        {"architecture": "topk", "k": 4, "prefetch_llm_batches": 2}, _json_lines
    ),
    "batchtopk-huggingface": Scenario({"architecture": "batchtopk", "k": 4}, _hugging_face),
    "jumprelu-cached": Scenario({"architecture": "jumprelu", "hook_name": HOOK}, _cached),
    "gated-stream": Scenario({"architecture": "gated"}, _hugging_face_stream),
    "matryoshka-own-text": Scenario(
        {"architecture": "matryoshka_batchtopk", "k": 4, "dtype": "float64"}, _own_text
    ),
    "transcoder-parquet": Scenario(
        {
            "architecture": "skip_transcoder",
            "hook_name": HOOK,
            "hook_name_out": "blocks.2.hook_mlp_out",
            "prefetch_llm_batches": 0,
        },
        _parquet,
    ),
    "several-text": Scenario(
        {
            "saes": {
                "early": {"architecture": "topk", "d_sae": 64, "k": 4, "hook_name": HOOK},
                "late": {
                    "architecture": "jumprelu",
                    "d_sae": 96,
                    "hook_name": "blocks.2.hook_resid_pre",
                },
            }
        },
        _text,
    ),
}


def flags(place: Path, name: str) -> list[str]:
    """Arguments of `saekit train` for the run of a scenario that is called so."""
    return [
        *("--config", str(place / "run.toml")),
        *("--checkpoint-path", str(place / name)),
        *("--n-checkpoints", "2", "--json"),
    ]


def outcome(place: Path, name: str) -> dict[str, Any]:
    """Everything that the run has left behind, by the paths of files: their bytes, but for the time
    that steps took. Without the report, which is drawn from the metrics."""
    (run,) = (place / name).iterdir()
    found: dict[str, Any] = {}
    for file in sorted(run.rglob("*")):
        path = str(file.relative_to(run))
        if file.name == "state.json":
            found[path] = _without_time(json.loads(file.read_text(encoding="utf-8")))
        elif file.name == "metrics.jsonl":
            lines = file.read_text(encoding="utf-8").splitlines()
            found[path] = [_without_time(json.loads(line)) for line in lines]
        elif file.is_file() and file.name != "report.html":
            found[path] = file.read_bytes()
    return found


def _without_time(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    of_the_clock = ("seconds", "stepping_seconds", "tokens_per_second")
    return {key: _without_time(v) for key, v in value.items() if key not in of_the_clock}
