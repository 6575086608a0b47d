"""Metrics in Weights & Biases: the real package, writing to this machine."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from saekit_core.lm.model import LanguageModel
from saekit_trainer import (
    LoggingConfig,
    MultiSAETrainingRunner,
    RunStatus,
    SAETrainingRunner,
    TrainingInterrupted,
)
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.errors import ConfigError
from saekit_trainer.multi_config import MultiSAETrainingRunnerConfig

SIZES: dict[str, Any] = {
    "context_size": 24,
    "train_batch_size_tokens": 256,
    "store_batch_size_prompts": 8,
    "training_tokens": 256 * 8,
    "eval_contexts": 4,
    "feature_stats_tokens": 96,
}


@pytest.fixture(scope="module")
def tokens() -> Any:
    return np.random.default_rng(0).integers(10, 300, (300, 24))


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    wandb.teardown()  # it reads its environment once per process
    yield
    wandb.teardown()


def history(root: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What an offline run has written: its beginning, and the records of its history."""
    begun: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for data in logged_records(written(root)):
        record = Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            run = record.run
            config = {c.key: json.loads(c.value_json) for c in run.config.update}
            begun = {"project": run.project, "name": run.display_name, "config": config}
        if record.HasField("history"):
            items = record.history.item
            rows.append({i.key or i.nested_key[0]: json.loads(i.value_json) for i in items})
    return begun, rows


def written(root: Path) -> bytes:
    """The log of the one offline run."""
    wandb.teardown()  # waits for what is still on its way
    (path,) = root.glob("wandb/offline-run-*/*.wandb")
    return path.read_bytes()


def logged_records(log: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format, behind a header of seven bytes."""
    block, position, parts = 2**15, 7, b""
    while position + 7 <= len(log):
        if block - position % block < 7:  # no record begins there
            position += block - position % block
            continue
        length, kind = struct.unpack_from("<HB", log, position + 4)
        parts += log[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield parts
            parts = b""


def test_the_classic_metrics_are_logged_by_their_names(
    model: LanguageModel, tokens: Any, tmp_path: Path
) -> None:
    cfg = LanguageModelSAERunnerConfig(
        architecture="standard",
        d_sae=64,
        log_to_wandb=True,
        wandb_project="sae-training",
        wandb_log_frequency=2,
        eval_every_n_wandb_logs=2,
        **SIZES,
    )
    SAETrainingRunner(cfg, tokens, model).run()
    begun, rows = history(tmp_path)
    assert begun["project"] == "sae-training"
    assert begun["name"] == "standard-64-lr-0.003-tokens-2.05e+03"
    assert begun["config"]["sae"]["d_sae"] == 64
    steps = {row["_step"]: row for row in rows}
    assert sorted(steps) == [2, 4, 6, 8]
    for row in steps.values():
        assert {"l0", "mse_loss", "l1_loss", "dead_features", "explained_variance"} <= row.keys()
        assert row["tokens"] == 256 * row["_step"]
    assert [step for step, row in steps.items() if "ce_loss_score" in row] == [4, 8]
    assert steps[8]["mse_loss"] < steps[2]["mse_loss"]


def test_evaluating_on_the_way_changes_nothing(model: LanguageModel, tokens: Any) -> None:
    # The model runs ahead in a thread, which an evaluation has to stop and start again.
    saes = [
        SAETrainingRunner(
            LanguageModelSAERunnerConfig(
                d_sae=64,
                n_batches_in_buffer=1,
                log_to_wandb=often,
                wandb_log_frequency=1,
                eval_every_n_wandb_logs=1,
                **SIZES,
            ),
            tokens,
            model,
        ).run()
        for often in (True, False)
    ]
    assert torch.equal(saes[0].W_enc, saes[1].W_enc)


def test_several_saes_share_a_run_under_their_names(
    model: LanguageModel, tokens: Any, tmp_path: Path
) -> None:
    cfg = MultiSAETrainingRunnerConfig(
        saes={
            "early": {"hook_name": "blocks.0.hook_resid_pre", "d_sae": 48},
            "late": {"hook_name": "blocks.2.hook_resid_pre", "d_sae": 64},
        },
        logger=LoggingConfig(run_name="both", wandb_log_frequency=8),
        **SIZES,
    )
    MultiSAETrainingRunner(cfg, tokens, model).run()
    begun, rows = history(tmp_path)
    assert begun["name"] == "both"
    (row,) = rows
    for name in ("early", "late"):
        assert {f"{name}/l0", f"{name}/mse_loss", f"{name}/ce_loss_score"} <= row.keys()


def test_weights_are_logged_where_asked_for(
    model: LanguageModel, tokens: Any, tmp_path: Path
) -> None:
    cfg = LanguageModelSAERunnerConfig(
        d_sae=48,
        log_to_wandb=True,
        log_weights_to_wandb=True,
        output_path=str(tmp_path / "out"),
        **SIZES,
    )
    SAETrainingRunner(cfg, tokens, model).run()
    assert b"sae_weights.safetensors" in written(tmp_path)


def test_nobody_logged_in_is_an_error_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"WANDB_MODE": "online", "HOME": tmp_path, "NETRC": tmp_path / "no"}.items():
        monkeypatch.setenv(name, str(value))
    # At once: the model of this run does not exist.
    cfg = LanguageModelSAERunnerConfig(log_to_wandb=True, model_name="./nowhere")
    with pytest.raises(ConfigError, match=r"Use `wandb login`.*WANDB_MODE=offline") as caught:
        SAETrainingRunner(cfg)
    assert caught.value.field == "log_to_wandb"


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it fails, as if it were not there
    cfg = LanguageModelSAERunnerConfig(log_to_wandb=True, model_name="./nowhere")
    with pytest.raises(ConfigError, match=r"pip install 'saekit\[wandb\]'"):
        SAETrainingRunner(cfg)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb.*")
def test_a_run_that_goes_on_is_the_same_run_there(
    model: LanguageModel, tokens: Any, tmp_path: Path
) -> None:
    cfg = LanguageModelSAERunnerConfig(
        **SIZES, d_sae=64, log_to_wandb=True, checkpoint_path=str(tmp_path / "runs")
    )

    def stop(status: RunStatus) -> None:
        if status.metrics.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingInterrupted):
        SAETrainingRunner(cfg, tokens, model, report=stop).run()
    wandb.teardown()
    SAETrainingRunner(replace(cfg, resume_from_checkpoint="latest"), tokens, model).run()
    wandb.teardown()
    ids = [folder.name.split("-")[3] for folder in tmp_path.glob("wandb/offline-run-*")]
    assert len({*ids}) == 1
    (state,) = tmp_path.glob("runs/*/resume/*/state.json")
    assert json.loads(state.read_text())["state"]["observers"] == {"WandbLog": {"id": ids[0]}}
