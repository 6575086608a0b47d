"""Metrics as JSON lines, event files and a Prometheus endpoint, and evaluations on the way."""

from __future__ import annotations

import json
import socket
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.trainer.small_run import SMALL

from saekit_core.lm.model import LanguageModel
from saekit_trainer import LoggingConfig, MultiSAETrainingRunner, SAETrainingRunner
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.errors import ConfigError
from saekit_trainer.evaluation import Evaluation
from saekit_trainer.logs.jsonl_log import JsonlLog, read_records
from saekit_trainer.multi_config import MultiSAETrainingRunnerConfig
from saekit_trainer.results import RunObserver, RunStatus
from saekit_trainer.trainer import StepMetrics

SEVERAL: dict[str, Any] = {
    "early": {"hook_name": "blocks.0.hook_resid_pre", "d_sae": 48, "architecture": "standard"},
    "late": {"hook_name": "blocks.2.hook_resid_pre", "d_sae": 64},
}


def several(text: str, **values: Any) -> MultiSAETrainingRunnerConfig:
    sizes = ("context_size", "train_batch_size_tokens", "store_batch_size_prompts")
    lengths = ("training_tokens", "eval_contexts", "feature_stats_tokens")
    shared: dict[str, Any] = {name: getattr(SMALL, name) for name in (*sizes, *lengths)}
    return MultiSAETrainingRunnerConfig(saes=SEVERAL, dataset_path=text, **shared, **values)


def after(step: int) -> RunStatus:
    """What a run says after `step` of ten steps."""
    metrics = StepMetrics(step, 10 * step, 1 / step, {"mse_loss": 1 / step}, 3.0, 0.5, 0, 1e-3)
    return RunStatus({"": metrics}, 10, float(step), 10.0, 10.0 - step)


def test_a_line_per_step_holds_what_is_known_of_it(run: Any, tmp_path: Path) -> None:
    runner, seen = run(
        checkpoint_path=str(tmp_path), wandb_log_frequency=2, eval_every_n_steps=4, wandb_id="r"
    )
    lines = (tmp_path / "r/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [(r["step"], r["tokens"]) for r in records] == [
        (2, 512),
        (4, 1024),
        (6, 1536),
        (8, 2048),
    ]
    for record, metrics in zip(records, seen[1::2], strict=True):
        assert metrics.to_dict().items() <= record.items()
        assert record["tokens_per_second"] > 0
    assert [r["step"] for r in records if "ce_loss_score" in r] == [4, 8]
    assert records[-1]["eval/l0"] == runner.result.evaluation.l0


def test_without_checkpoints_the_lines_are_beside_the_finished_sae(
    run: Any, tmp_path: Path
) -> None:
    for _ in range(2):  # the second run replaces both
        run(output_path=str(tmp_path / "out"), wandb_log_frequency=4)
    assert [r["step"] for r in read_records(tmp_path / "out/metrics.jsonl")] == [4, 8]
    assert (tmp_path / "out/cfg.json").is_file()
    run(output_path=str(tmp_path / "none"), log_to_jsonl=False)
    assert not (tmp_path / "none/metrics.jsonl").exists()


def test_a_resumed_run_continues_behind_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = JsonlLog(path, every=1)
    first.began(0, 0)
    for step in range(1, 8):
        first.step_done(after(step))
    with path.open("a") as file:  # killed in mid-line
        file.write('{"step": 8, "tok')
    again = JsonlLog(path, every=1)
    again.began(5, 0)
    assert [r["step"] for r in read_records(path)] == [1, 2, 3, 4, 5]
    for step in range(6, 11):
        again.step_done(after(step))
    assert [r["step"] for r in read_records(path)] == list(range(1, 11))
    # Part of a step's figures come after a restart: still one line of it.
    last = JsonlLog(path, every=1)
    last.began(10, 0)
    last.record(10, {"": {"ce_loss_score": 0.5}}, {"tokens": 100})
    records = read_records(path)
    assert [r["step"] for r in records] == list(range(1, 11))
    assert records[-1]["ce_loss_score"] == 0.5
    assert records[-1]["l0"] == 3.0


def test_a_line_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run/metrics.jsonl"
    log = JsonlLog(path, every=1)
    log.began(0, 0)
    log.step_done(after(1))
    path.rename(tmp_path / "kept")
    path.mkdir()  # in the way
    with pytest.warns(UserWarning, match="not written"):
        log.step_done(after(2))
    log.step_done(after(3))  # and no second warning
    path.rmdir()
    (tmp_path / "kept").rename(path)
    with path.open("a") as file:
        file.write("half of a long line" * 50)
    log.step_done(after(4))
    assert [r["step"] for r in read_records(path)] == [1, 4]
    assert "half" not in path.read_text()


def test_numbers_that_json_has_not_are_null(tmp_path: Path) -> None:
    log = JsonlLog(tmp_path / "m", every=1)
    log.began(0, 0)
    log.record(1, {"": {"ce_loss_score": float("nan")}}, {"tokens": 5})
    assert read_records(tmp_path / "m") == [{"step": 1, "tokens": 5, "ce_loss_score": None}]


def test_tensorboard_shows_each_sae_as_a_run(
    model: LanguageModel, text: str, tmp_path: Path
) -> None:
    logger = LoggingConfig(
        log_to_wandb=False, log_to_tensorboard=True, wandb_log_frequency=4, eval_every_n_steps=4
    )
    cfg = several(text, output_path=str(tmp_path), logger=logger)
    MultiSAETrainingRunner(cfg, override_model=model).run()
    lines = read_records(tmp_path / "metrics.jsonl")
    for name in ("early", "late"):
        events = EventAccumulator(str(tmp_path / "tensorboard" / name)).Reload()
        for tag in ("l0", "mse_loss", "explained_variance", "ce_loss_score", "eval/l0"):
            points = [(e.step, e.value) for e in events.Scalars(tag)]
            assert points == [(r["step"], pytest.approx(r[f"{name}/{tag}"])) for r in lines]
        assert "configuration/text_summary" in events.Tags()["tensors"]
    whole = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in whole.Scalars("tokens_per_second")] == [4, 8]


def test_without_tensorboard_the_error_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not there
    cfg = replace(SMALL, log_to_tensorboard=True, output_path=str(tmp_path), model_name="./nowhere")
    with pytest.raises(ConfigError, match=r"pip install 'saekit\[tensorboard\]'"):
        SAETrainingRunner(cfg)
    with pytest.raises(ConfigError, match="needs a folder"):
        replace(SMALL, log_to_tensorboard=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_prometheus_scrapes_a_run(model: LanguageModel, text: str) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    scraped: list[dict[tuple[str, ...], float]] = []

    class Scraper(RunObserver):
        def evaluated(self, step: int, evaluations: Any) -> None:
            if step == 4:
                with urllib.request.urlopen(url) as answer:
                    families = text_string_to_metric_families(answer.read().decode())
                    scraped.append(
                        {
                            (s.name, *s.labels.values()): s.value
                            for family in families
                            for s in family.samples
                        }
                    )
                self.seen = (statuses[-1], dict(evaluations))

    statuses: list[RunStatus] = []
    scraper = Scraper()
    cfg = several(text, prometheus_port=port, eval_every_n_steps=2)
    runner = MultiSAETrainingRunner(
        cfg, override_model=model, report=statuses.append, observers=[scraper]
    )
    runner.run()
    (values,) = scraped
    status, _ = scraper.seen
    assert values["saekit_trainer_steps_total",] == 4
    assert values["saekit_trainer_tokens_total",] == 4 * 256
    assert values["saekit_trainer_progress_ratio",] == 0.5
    assert values["saekit_trainer_eval_step",] == 2  # the log comes after the scraper
    for name in ("early", "late"):
        metrics = status.saes[name]
        assert values["saekit_trainer_l0", name] == metrics.l0
        ratio = values["saekit_trainer_explained_variance_ratio", name]
        assert ratio == metrics.explained_variance
        assert values["saekit_trainer_loss_term", name, "mse_loss"] == metrics.losses["mse_loss"]
        assert values["saekit_trainer_eval_ce_loss_score", name] < 1
    assert values["saekit_trainer_sae_info", "topk", "64", "blocks.2.hook_resid_pre", "late"] == 1
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url)  # the run is over


def test_a_port_in_use_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cfg = replace(SMALL, prometheus_port=port, model_name="./nowhere")
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port} .*in use") as e:
            SAETrainingRunner(cfg)
    assert e.value.field == "prometheus_port"


class Evaluations(RunObserver):
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.last: Evaluation | None = None

    def evaluated(self, step: int, evaluations: Any) -> None:
        self.steps.append(step)
        self.last = evaluations[""]


@pytest.mark.parametrize(
    ("values", "steps"),
    [
        ({}, [8]),
        ({"eval_every_n_steps": 3}, [3, 6, 8]),
        ({"wandb_log_frequency": 2, "eval_every_n_wandb_logs": 2}, [4, 8]),
        ({"eval_every_n_steps": 0, "wandb_log_frequency": 1, "eval_every_n_wandb_logs": 1}, [8]),
    ],
)
def test_evaluations_come_as_often_as_asked_with_no_log_at_all(
    model: LanguageModel, text: str, values: dict[str, int], steps: list[int]
) -> None:
    found = Evaluations()
    cfg = replace(SMALL, dataset_path=text, **values)
    SAETrainingRunner(cfg, override_model=model, observers=[found]).run()
    assert found.steps == steps


def test_logs_and_evaluations_change_no_weight(run: Any, tmp_path: Path) -> None:
    quiet, _ = run(n_batches_in_buffer=1)
    watched, _ = run(
        n_batches_in_buffer=1,
        eval_every_n_steps=1,
        wandb_log_frequency=1,
        log_to_tensorboard=True,
        prometheus_port=free_port(),
        checkpoint_path=str(tmp_path),
        n_checkpoints=4,
    )
    assert torch.equal(quiet.result.sae.W_enc, watched.result.sae.W_enc)


def test_logs_are_no_part_of_what_determines_the_weights(run: Any, tmp_path: Path) -> None:
    run(checkpoint_path=str(tmp_path))
    run(checkpoint_path=str(tmp_path), eval_every_n_steps=4, log_to_jsonl=False, html_report=False)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_logger_group_says_it_too() -> None:
    cfg = LanguageModelSAERunnerConfig(
        output_path="x",
        logger={
            "log_to_wandb": False,
            "log_to_tensorboard": True,
            "prometheus_port": 9123,
            "eval_every_n_steps": 7,
        },
    )
    assert (cfg.log_to_tensorboard, cfg.prometheus_port, cfg.eval_every_n_steps) == (True, 9123, 7)
