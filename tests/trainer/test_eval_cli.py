"""`saekit eval`: what it prints, from folders and files, and how it explains wrong usage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models import build_llama, story
from tests.saes import random_sae

from saekit_core.lm.boot import boot_model
from saekit_core.sae import SAE
from saekit_trainer import evaluate, evaluate_reconstruction
from saekit_trainer.contexts import ContextFormat, open_contexts
from saekit_trainer.eval_cli import run_eval
from saekit_trainer.eval_options import EvalOptions
from saekit_trainer.eval_run import load_sae

HOOK = "blocks.1.hook_resid_pre"
SIZE = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llama(tmp_path_factory.mktemp("llama") / "tiny")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    stories = (story(40, seed) for seed in range(20))
    path.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def sae_folder(folder: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    metadata = {"model_name": str(folder), "dataset_path": str(text), "context_size": SIZE}
    path = tmp_path_factory.mktemp("sae")
    random_sae(HOOK, 32, "topk", metadata=metadata).save_model(path)
    return path


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    status = run_eval([*map(str, arguments), "--device", "cpu", "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    values: dict[str, Any] = json.loads(captured.out)
    return values


def test_the_figures_are_those_of_evaluate_on_the_first_contexts(
    folder: Path, text: Path, sae_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, sae = boot_model(folder, device="cpu"), SAE.load_from_disk(sae_folder)
    source = open_contexts(text, model.tokenizer, ContextFormat(SIZE, prepend_bos=True))
    tokens = torch.stack([torch.from_numpy(row) for row in source.contexts()])[:9]
    expected = evaluate(model, sae, tokens)
    values = printed(capsys, "--sae", sae_folder, "--contexts", 9, "--density")
    assert values["sae"] == str(sae_folder)
    assert values["model"] == "tiny"
    assert (values["contexts"], values["context_size"]) == (9, SIZE)
    assert {k: values[k] for k in expected.to_dict()} == pytest.approx(expected.to_dict())
    assert values["density"] == pytest.approx(expected.density.tolist())
    options = ["--contexts", "9", "--reconstruction-only", "--special-tokens"]
    values = printed(capsys, "--sae", sae_folder, *options)
    half = evaluate_reconstruction(model, sae, tokens, exclude_special_tokens=False).to_dict()
    assert {k: values[k] for k in half} == pytest.approx(half)
    assert values["tokens"] == 9 * SIZE
    assert not {"ce_loss_score", "kl_score", "density"} & values.keys()


def test_everything_can_be_another_than_the_metadata_say(
    folder: Path, text: Path, sae_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sae = SAE.load_from_disk(sae_folder)
    metadata = replace(sae.cfg.metadata, model_name="nobody/nothing", dataset_path="nobody/nothing")
    sae.cfg = replace(sae.cfg, metadata=metadata)
    sae.save_model(tmp_path / "sae")
    where = ["--sae", tmp_path / "sae", "--model", folder]
    values = printed(capsys, *where, "--dataset", text, "--context-size", 12)
    assert values["context_size"] == 12
    assert 20 < values["contexts"] < 128  # all that there are
    own = [
        printed(capsys, *where, "--self-text", "--contexts", 4, "--seed", seed)["mse"]
        for seed in (0, 0, 1)
    ]
    assert own[0] == own[1] != own[2]


def test_people_get_a_table(sae_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_eval(["--sae", str(sae_folder), "--contexts", "4", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert f"topk, 96 features at {HOOK}" in out
    lines = ("L0", "explained variance", "MSE", "shrinkage", "feature density", "features alive")
    for line in (*lines, "CE loss score", "KL score"):
        assert f"\n {line} " in out, line


def test_an_sae_is_a_folder_or_goes_by_its_name(sae_folder: Path) -> None:
    assert load_sae(str(sae_folder)).cfg.architecture == "topk"
    assert load_sae("blocks.2.hook_resid_pre").cfg.hook_name == "blocks.2.hook_resid_pre"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "--sae"),
        (["--sae", "nowhere"], 1, "neither a folder nor an SAE of the embedded model"),
        (["--sae", "gpt2-small-res-jb"], 1, "add its id, as gpt2-small-res-jb/blocks."),
        (["--sae", "x", "--density"], 2, "density: needs --json"),
        (["--sae", "x", "--self-text", "--dataset", "y.txt"], 2, "in place of a dataset"),
        (["--sae", "x", "--contexts", "0"], 2, "contexts: 0 is not positive"),
        (["--sae", "x", "--batch-size-prompts", "0"], 2, "batch_size_prompts: 0"),
        (["--sae", "{sae}", "--dataset", "nowhere.txt"], 1, "no file nowhere.txt"),
        (["--sae", "{sae}", "--model", "./nowhere"], 1, "does not exist"),
        (["--sae", "{sae}", "--context-size", "200"], 1, "is not in 2..96"),
        (["--sae", "{sae}", "--context-sizes", "200"], 2, "--context-size"),
    ],
)
def test_wrong_usage_is_explained(
    arguments: list[str],
    status: int,
    message: str,
    sae_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [word.format(sae=sae_folder) for word in arguments]
    assert run_eval(words) == status
    assert message in capsys.readouterr().err


def test_without_any_data_set_the_remedy_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random_sae(HOOK, 32, metadata={"model_name": str(folder)}).save_model(tmp_path)
    assert run_eval(["--sae", str(tmp_path)]) == 1
    assert "give --dataset FILE, or --self-text" in capsys.readouterr().err
    random_sae(HOOK, 32).save_model(tmp_path / "nameless")
    assert run_eval(["--sae", str(tmp_path / "nameless")]) == 1
    assert "model: give one" in capsys.readouterr().err


def test_help_shows_examples_and_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_eval(["--help"]) == 0
    out = capsys.readouterr().out
    assert "saekit eval --sae blocks.2.hook_resid_pre --self-text" in out
    for name in EvalOptions.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in out, name
