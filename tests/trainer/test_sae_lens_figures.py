"""Our figures and tokens against those that `tests/parity/sae_lens_evals.py` had of sae-lens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import datasets
import pytest
import torch
from tests.models import build_gpt2
from tests.trainer.eval_cases import (
    STORES,
    THEIR_NAMES,
    TOLERANCE,
    eval_saes,
    eval_texts,
    eval_tokens,
    fingerprint,
    store_options,
)

from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_trainer import ActivationsStore, evaluate, evaluate_reconstruction

GOLDEN: Final = json.loads(
    (Path(__file__).parent / "golden" / "sae_lens_evals.json").read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def model(model_folder: Path) -> LanguageModel:
    return boot_model(model_folder, device="cpu")


def test_the_inputs_are_those_that_sae_lens_had(model_folder: Path) -> None:
    ours = fingerprint(model_folder, eval_saes(), eval_tokens(0, 1))
    assert ours == pytest.approx(GOLDEN["inputs"], rel=1e-6)


@pytest.mark.parametrize("name", GOLDEN["figures"])
def test_figures_are_those_of_sae_lens(name: str, model: LanguageModel) -> None:
    theirs: dict[str, Any] = GOLDEN["figures"][name]
    sae, tokens = eval_saes()[name], eval_tokens(0, 1)
    ours = evaluate(model, sae, tokens, batch_size_prompts=5)
    figures = ours.to_dict()
    for name_here, name_there in THEIR_NAMES.items():
        expected = pytest.approx(theirs[name_there], rel=TOLERANCE[name_here], abs=1e-6)
        assert figures[name_here] == expected, name_here
    assert ours.shrinkage == pytest.approx(theirs["l2_norm_out"] / theirs["l2_norm_in"], rel=2e-5)
    torch.testing.assert_close(ours.density.float(), torch.tensor(theirs["density"]))
    assert ours.fraction_alive == sum(d > 0 for d in theirs["density"]) / sae.cfg.d_sae
    # The half that does not run the model to its end gives the very same.
    alone = evaluate_reconstruction(model, sae, tokens, batch_size_prompts=5).to_dict()
    assert alone == {key: figures[key] for key in alone}


@pytest.mark.parametrize("name", STORES)
def test_the_store_gives_the_tokens_of_sae_lens(name: str, model: LanguageModel) -> None:
    dataset = datasets.Dataset.from_dict({"text": eval_texts()})
    options = store_options(**STORES[name])
    store = ActivationsStore.from_sae(model, eval_saes()["standard"], dataset, **options)
    assert store.get_batch_tokens().tolist() == GOLDEN["store_tokens"][name]
