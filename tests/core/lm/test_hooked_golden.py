"""Runs with SAEs as sae-lens 6.54 has them: a file of `make parity ARGS=--write-golden`."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.parity.hooked import GOLDEN, at_golden_positions, golden_cases, seeded
from tests.parity.runs import TOLERANCE, Case, answer, build_models, compare
from torch import Tensor


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    build_models(folder)
    return folder


@pytest.fixture(scope="module")
def golden() -> Mapping[str, Tensor]:
    return load_file(GOLDEN)


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def test_seeded_weights_are_those_that_the_golden_answers_belong_to(
    models: Path, golden: Mapping[str, Tensor]
) -> None:
    expected = below("weights/", golden)
    sample = seeded(models)
    assert sample.keys() == expected.keys()
    for name, tensor in sample.items():
        torch.testing.assert_close(
            tensor, expected[name], msg="this torch draws other numbers: renew the golden files"
        )


@pytest.mark.parametrize("case", golden_cases(), ids=lambda case: case.name)
def test_logits_and_caches_are_those_of_sae_lens(
    case: Case, models: Path, golden: Mapping[str, Tensor]
) -> None:
    errors = compare(at_golden_positions(answer(case, models)), below(f"{case.name}/", golden))
    assert not {key: error for key, error in errors.items() if not error <= TOLERANCE}
    splices = 0 if case.ablate else len(case.saes) * (6 if case.use_error_term else 5)
    assert sum(".hook_sae_" in key for key in errors) == splices
