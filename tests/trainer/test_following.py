"""A server that follows a training run: checkpoints appear, are loaded, and can be steered with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.core.sae.hub_server import WRITER, Hub, serving_hub, use_hub
from tests.models import story
from tests.serving import Running, serving, wait_until
from tests.trainer.small_run import SMALL

from saekit.codec import tensor_to_numpy
from saekit.v1 import input_pb2, sae_service_pb2
from saekit.v1 import intervention_pb2 as ip
from saekit.v1 import registry_service_pb2 as pb
from saekit_core.lm.model import LanguageModel
from saekit_core.sae import folder_revision, read_features_file
from saekit_core.sae.sae import SAE
from saekit_server.config import ServeConfig
from saekit_trainer import SAETrainingRunner
from saekit_trainer.cli import train
from saekit_trainer.publish import CheckpointPublisher
from saekit_trainer.results import RunObserver, RunStatus


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the server watches."""
    return tmp_path_factory.mktemp("watched")


@pytest.fixture(scope="module")
def server(folder: Path, root: Path) -> Iterator[Running]:
    config = ServeConfig(
        model=str(folder),
        device="cpu",
        sae_dir=root,
        watch=True,
        watch_interval_s=0.01,
        listen="127.0.0.1:0",
        threads=1,
        drain_s=0.0,
    )
    with serving(config) as running:
        yield running


def revisions(server: Running) -> dict[str, str]:
    """What is served now, by name."""
    infos = server.registry.ListSAEs(pb.ListSAEsRequest()).saes
    return {info.sae_id: info.revision for info in infos}


def logits(server: Running, edit: ip.Edit | None = None) -> np.ndarray:
    options = sae_service_pb2.RunOptions(
        interventions=ip.Interventions(edits=[edit] if edit else []),
        returns=sae_service_pb2.RunReturns(logits=sae_service_pb2.LOGITS_ROWS_ALL),
    )
    inputs = [input_pb2.Input(text=story(12))]
    request = sae_service_pb2.RunWithSAEsRequest(inputs=inputs, options=options)
    return tensor_to_numpy(server.sae.RunWithSAEs(request).results[0].logits)


def check_features(server: Running, sae_id: str, folder: Path) -> None:
    """What is recorded beside the SAE is told, and its maxima are a unit to steer by."""
    recorded = read_features_file(folder)
    assert recorded is not None
    assert recorded.max_activation is not None
    assert recorded.density is not None
    feature = int(recorded.max_activation.argmax())
    request = pb.GetFeaturesRequest(sae=sae_id, indices=[feature], examples=1)
    (told,) = server.registry.GetFeatures(request).features
    assert told.max_activation == recorded.max_activation[feature] > 0
    assert told.density == recorded.density[feature] > 0
    assert tuple(told.examples[0].tokens) == recorded.examples[feature][0].tokens
    reference = ip.FeatureRef(sae=sae_id, index=feature)
    maxima = ip.Edit(feature=reference, add=ip.Add(amount=3, unit=ip.UNIT_MAX_ACTIVATION))
    amount = 3 * float(recorded.max_activation[feature])
    raw = ip.Edit(feature=reference, add=ip.Add(amount=amount))
    np.testing.assert_allclose(logits(server, maxima), logits(server, raw), atol=1e-5)
    assert np.abs(logits(server, maxima) - logits(server)).max() > 1e-3


def test_a_server_follows_a_run_checkpoint_by_checkpoint(
    server: Running, root: Path, model: LanguageModel, text: str, tmp_path: Path
) -> None:
    seen: list[tuple[int, str]] = []

    class Following(RunObserver):
        """Asks the server while the training waits."""

        step = 0

        def step_done(self, status: RunStatus) -> None:
            self.step = status.metrics.step

        def folder_written(self, name: str, folder: Path) -> None:
            if self.step < 8:
                written = folder_revision(root / "live" / f"sae{name}")
                assert written == folder_revision(folder)
                wait_until(lambda: revisions(server).get("live/sae") == written)
                seen.append((self.step, written))
                check_features(server, "live/sae", folder)

    cfg = replace(
        SMALL,
        architecture="topk",
        k=8,
        dataset_path=text,
        checkpoint_path=str(tmp_path),
        n_checkpoints=3,
    )
    publisher = CheckpointPublisher(root, {"": "live/sae"})
    SAETrainingRunner(cfg, override_model=model, observers=[publisher, Following()]).run()
    assert [step for step, _ in seen] == [2, 4, 6]
    assert len({revision for _, revision in seen}) == 3


def arguments(folder: Path, data: Path, tmp_path: Path) -> list[str]:
    flags = {
        "model-name": folder,
        "dataset-path": data,
        "d-sae": 64,
        "context-size": 24,
        "store-batch-size-prompts": 2,
        "train-batch-size-tokens": 64,
        "training-tokens": 64 * 100,
        "eval-contexts": 4,
        "feature-stats-tokens": 96,
        "n-batches-in-buffer": 1,
        "checkpoint-path": tmp_path / "runs",
        "n-checkpoints": 9,
    }
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def test_the_command_publishes_checkpoints_and_the_finished_sae(
    server: Running,
    root: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "stories.jsonl"
    good = [json.dumps({"text": story(40, seed)}) for seed in range(200)]
    data.write_text("\n".join([*good[:99], "no JSON"]))
    words = [*arguments(folder, data, tmp_path), "--publish", str(root), "--sae-id", "new"]
    # A run that ends early leaves its last checkpoint with the server.
    assert train([*words, "--publish-checkpoints", "--json"]) == 1
    assert "stories.jsonl, line 100" in capsys.readouterr().err
    first = folder_revision(root / "new")
    wait_until(lambda: revisions(server).get("new") == first)
    data.write_text("\n".join(good))
    assert train([*words, "--resume", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    finished = folder_revision(root / "new")
    assert finished == folder_revision(Path(summary["folder"])) != first
    wait_until(lambda: revisions(server)["new"] == finished)
    check_features(server, "new", root / "new")
    assert summary["serve"] == f"saekit serve --model {folder} --sae-dir {root} --watch"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--publish-checkpoints", "--out", "x"], "publish_checkpoints: needs --publish"),
        (["--publish", "x", "--publish-checkpoints"], "--n-checkpoints"),
        (["--private", "--out", "x"], "private: has a meaning only with --push-to-hub"),
        (["--push-to-hub", "u/r", "--publish", "x"], "push_to_hub: needs --out"),
        (["--push-to-hub", "u/r", "--out", "x"], "offline mode is on"),
    ],
)
def test_what_cannot_be_published_is_said_before_the_run(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([*flags, "--model-name", "./nowhere"]) in (1, 2)
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub() as hub:
        use_hub(hub, tmp_path / "hf", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield hub


# huggingface_hub sends LFS objects by a parameter that its HTTP client wants named otherwise.
@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
def test_the_finished_sae_is_uploaded(
    hub: Hub, folder: Path, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*arguments(folder, Path(text), tmp_path), "--out", str(tmp_path / "out")]
    status = train([*words, "--push-to-hub", "user/saes", "--private", "--progress", "none"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    assert hub.repos["user/saes"].private
    files = hub.repos["user/saes"].files()
    hook = SAE.load_from_disk(tmp_path / "out").cfg.hook_name
    assert {f"{hook}/{name}" for name in ("cfg.json", "features.json")} <= files.keys()
    assert f"{hub.url}/user/saes" in captured.out
    assert "step" not in captured.err
    # What fails at the end takes nothing from the run.
    assert train([*words, "--push-to-hub", "other/saes", "--progress", "none"]) == 1
    captured = capsys.readouterr()
    assert "not uploaded" in captured.err
    assert str(tmp_path / "out") in captured.out
