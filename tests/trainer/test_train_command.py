"""`saekit train`: flags and files in, folders out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saekit_core.sae.sae import SAE
from saekit_trainer.cli import train
from saekit_trainer.config import LanguageModelSAERunnerConfig
from saekit_trainer.options import parse_options


def cli_flags(folder: Path) -> list[str]:
    flags = {
        "model-name": folder,
        "d-sae": 64,
        "context-size": 24,
        "train-batch-size-tokens": 256,
        "training-tokens": 1024,
        "eval-contexts": 4,
        "feature-stats-tokens": 96,
        "n-batches-in-buffer": 1,
        "self-text-tokens": 4096,
    }
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def test_the_command_trains_on_the_models_own_text_and_publishes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = train(
        [*cli_flags(folder), "--publish", str(tmp_path / "saes"), "--sae-id", "fresh", "--json"]
    )
    captured = capsys.readouterr()
    assert status == 0, captured.err
    summary = json.loads(captured.out)
    assert summary["sae_id"] == "fresh"
    assert summary["training_tokens"] == 1024
    assert 0 < summary["evaluation"]["l0"] <= 32
    assert set(summary["evaluation"]) >= {"explained_variance", "ce_loss_score", "dead_features"}
    assert SAE.load_from_disk(tmp_path / "saes/fresh").cfg.d_sae == 64
    assert "step 4/4" in captured.err


def test_a_file_with_tables_trains_several_saes_at_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        """
        training_tokens = 99_999
        [logger]
        log_to_wandb = false
        [saes.early]
        hook_name = "blocks.1.hook_resid_pre"
        architecture = "batchtopk"
        d_sae = 48
        [saes.late]
        hook_name = "blocks.2.hook_resid_pre"
        d_sae = 64
        """
    )
    flags = [*cli_flags(folder), "--config", str(file), "--publish", str(tmp_path / "saes")]
    flags.remove("--d-sae")
    flags.remove("64")
    status = train([*flags, "--sae-id", "run7", "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    summary = json.loads(captured.out)
    assert {name: s["training_tokens"] for name, s in summary.items()} == {
        "run7/early": 1024,  # the flag overrides the file
        "run7/late": 1024,
    }
    assert SAE.load_from_disk(tmp_path / "saes/run7/early").cfg.d_sae == 48
    assert SAE.load_from_disk(tmp_path / "saes/run7/late").cfg.d_sae == 64


def test_flags_override_the_config_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('architecture = "standard"\nlr = 0.5\nl1_coefficient = 3.0\n')
    options = parse_options(["--config", str(file), "--lr", "0.25", "--out", "x"])
    assert (options.run.architecture, options.run.lr, options.run.l1_coefficient) == (
        "standard",
        0.25,
        3.0,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out"),
        (["--sae-id", "x", "--out", "y"], "--publish"),
        (["--architecture", "gatd", "--out", "y"], "did you mean gated"),
        (["--device", "cuda", "--out", "y"], "install a build of torch"),
        (["--config", "nowhere.toml", "--out", "y"], "cannot read"),
        (["--lrr", "3", "--out", "y"], "--lr"),
        (["--model-name", "./nowhere", "--out", "y"], "does not exist"),
        (
            ["--dataset-path", "nowhere.txt", "--out", "y", "--context-size", "24", "--model-name"],
            "no file",
        ),
        (["--publish", "y", "--sae-id", "../x", "--context-size", "24", "--model-name"], "sae_id"),
    ],
)
def test_wrong_usage_is_explained(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = [str(folder)] if arguments[-1:] == ["--model-name"] else []
    assert train([*arguments, *model]) in (1, 2)
    assert message in capsys.readouterr().err


def test_help_shows_examples_and_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--help"]) == 0
    out = capsys.readouterr().out
    assert "saekit train --out my-sae" in out
    for name in LanguageModelSAERunnerConfig.field_names():
        assert f"--{name.replace('_', '-')}" in out, name
