"""Two processes that train together come to what one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.trainer import rank_worker
from tests.trainer.rank_worker import FEATURES, MOVED, ROWS, RUNS, SEVERAL
from tests.trainer.small_run import SMALL

from saekit_core.lm.model import LanguageModel
from saekit_core.sae.sae import SAE
from saekit_trainer.architectures import TRAINING_SAES
from saekit_trainer.distributed.checks import check_ranks, check_width
from saekit_trainer.distributed.ranks import ALONE, Ranks
from saekit_trainer.errors import ConfigError

Outcomes = list[dict[str, Any]]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def both(scratch: Path, folder: Path, text: str) -> Outcomes:
    """What each of two processes saw."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    worker = [rank_worker.__name__, str(scratch), str(folder), text]
    done = subprocess.run(
        [sys.executable, "-m", *torchrun, "-m", *worker],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(scratch / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The model's activations depend on it, in the last digit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_architecture_is_tried() -> None:
    configs = rank_worker.CONFIGS
    assert {configs[name].architecture for name in ROWS} == set(TRAINING_SAES)
    shared = {configs[name].architecture for name in FEATURES}
    assert shared == set(TRAINING_SAES) - {"matching_pursuit"} - {
        "transcoder",  # a skip_transcoder does all that it does
        "jumprelu_transcoder",
    }


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        *((name, "rows") for name in ROWS),
        *((name, "features") for name in FEATURES),
        *((name, "moved") for name in MOVED),
    ],
)
def test_twenty_steps_in_float64_are_those_of_one_process(
    name: str, shared: str, both: Outcomes
) -> None:
    one = next(alone for o in both if (alone := o["steps"][name].get("alone")))
    assert one["metrics"][0]["dead_features"] != one["metrics"][-1]["dead_features"]
    for outcome in both:
        two = outcome["steps"][name][shared]
        for key in ("saved", "density", "state", "metrics"):
            torch.testing.assert_close(two[key], one[key], rtol=0, atol=1e-8)


def test_a_loss_that_is_not_finite_ends_all_at_once(both: Outcomes) -> None:
    assert both[0]["diverged"] == both[1]["diverged"]
    assert both[0]["diverged"][1::2] == ["as before", "as before"]
    assert all("the loss at step 0 is nan" in said for said in both[0]["diverged"][::2])


def test_shared_features_take_half_of_the_memory(both: Outcomes) -> None:
    for outcome in both:
        held = outcome["numbers"]
        assert held["features"] <= 0.5 * held["nothing"] + 100  # b_dec is everywhere


def test_every_process_has_the_batches_of_one(
    both: Outcomes, model: LanguageModel, text: str
) -> None:
    one = rank_worker.batches(model, text, ALONE)
    assert torch.equal(one[3], one[8])  # after the state was loaded
    for outcome in both:
        assert all(map(torch.equal, outcome["batches"], one))


@pytest.mark.parametrize("name", [*RUNS, "several"])
def test_a_run_of_two_processes_is_that_of_one(
    name: str, both: Outcomes, model: LanguageModel, text: str
) -> None:
    if name == "several":
        one = rank_worker.run_several(model, text)
    else:
        one = rank_worker.run(replace(RUNS[name], shard_features=False), model, text)
    exact = name in RUNS and RUNS[name].dtype == "float64"
    main, other = (outcome["runs"][name] for outcome in both)
    assert other["metrics"] == []  # the main process alone reports
    assert len(main["metrics"]) == 8 * (len(SEVERAL) if name == "several" else 1)
    close = {"rtol": 0, "atol": 1e-8} if exact else {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(main["metrics"], one["metrics"], **close)
    for two in (main, other):
        for key in one.keys() - {"metrics"}:
            torch.testing.assert_close(two[key], one[key], **close)


def test_a_signal_to_one_process_stops_all_and_the_run_goes_on(
    both: Outcomes, model: LanguageModel, text: str
) -> None:
    one = rank_worker.run(RUNS["rows"], model, text)
    for outcome in both:
        two = outcome["taken_up"]
        assert two["said"].startswith("stopped by SIGTERM after step 3;")
        assert two["begun_at"] == 3
        torch.testing.assert_close(two["weights"], one["weights"], rtol=0, atol=1e-8)


def test_the_main_process_alone_speaks_and_writes(both: Outcomes, scratch: Path) -> None:
    main, other = (outcome["command"] for outcome in both)
    assert main["status"] == other["status"] == 0
    assert other["said"] == other["explained"] == ""
    assert json.loads(main["said"])["training_tokens"] == 640
    assert "step 5/5" in main["explained"]
    (run,) = (scratch / "checkpoints").iterdir()
    for place in (scratch / "out", run / "384", run / "final_640"):
        assert SAE.load_from_disk(place).cfg.d_sae == 64


def test_the_first_to_fail_says_so_and_ends_all(both: Outcomes) -> None:
    main, other = (outcome["failed"] for outcome in both)
    assert main["status"] == other["status"] == 1
    assert "error: rank 1 of 2: 1.jsonl, line 41: not JSON" in other["explained"]
    assert "error" not in main["explained"]


class _Two(Ranks):
    count = 2


@pytest.mark.parametrize(
    ("ranks", "values", "field"),
    [
        (ALONE, {"shard_features": True}, "shard_features"),
        (_Two(), {"train_batch_size_tokens": 1}, "train_batch_size_tokens"),
        (_Two(), {"max_seconds": 5.0}, "max_seconds"),
        (_Two(), {"shard_features": True, "compile": True}, "compile"),
        (_Two(), {"shard_features": True, "compile_sae": True}, "compile_sae"),
    ],
)
def test_what_so_many_processes_cannot_do_is_refused(
    ranks: Ranks, values: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_ranks(replace(SMALL, **values), ranks, writes_text=True)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


def test_features_that_cannot_be_divided_are_refused() -> None:
    cfg = replace(SMALL, shard_features=True)
    check_width(96, cfg, _Two())
    with pytest.raises(ConfigError, match="d_sae: 97 features cannot be divided"):
        check_width(97, cfg, _Two())
    with pytest.raises(ConfigError, match=r"shard_features: .*matching_pursuit"):
        replace(SMALL, architecture="matching_pursuit", shard_features=True)
