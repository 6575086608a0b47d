"""The small models, built and booted once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.models import build_gemma2, build_gpt2, build_llama

from saekit_core.lm import HookedSAETransformer
from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def gpt2_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_gpt2(tmp_path_factory.mktemp("models") / "tiny-gpt2")


@pytest.fixture(scope="session")
def llama(llama_dir: Path) -> LanguageModel:
    return boot_model(llama_dir, device="cpu")


@pytest.fixture(scope="session")
def gpt2(gpt2_dir: Path) -> LanguageModel:
    return boot_model(gpt2_dir, device="cpu")


@pytest.fixture(scope="session")
def gemma2(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return boot_model(build_gemma2(tmp_path_factory.mktemp("models") / "tiny-gemma2"), device="cpu")


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """Both types of model, one after the other."""
    booted = request.getfixturevalue(request.param)
    assert isinstance(booted, LanguageModel)
    return booted


@pytest.fixture(scope="session", params=["llama", "gpt2", "gemma2"])
def any_model(request: pytest.FixtureRequest) -> LanguageModel:
    """Both types, and one with soft-capping and windows."""
    booted = request.getfixturevalue(request.param)
    assert isinstance(booted, LanguageModel)
    return booted


@pytest.fixture(scope="session")
def hooked_models(llama_dir: Path, gpt2_dir: Path) -> dict[str, HookedSAETransformer]:
    """Both types of model as they are, and one with its weights processed."""
    raw = HookedSAETransformer.from_pretrained_no_processing
    return {
        "llama": raw(llama_dir, device="cpu"),
        "gpt2": raw(gpt2_dir, device="cpu"),
        "gpt2-processed": HookedSAETransformer.from_pretrained(gpt2_dir, device="cpu"),
    }


def _untouched(model: HookedSAETransformer) -> Iterator[HookedSAETransformer]:
    yield model
    model.reset_saes()
    model.reset_hooks(including_permanent=True)
    model.zero_grad()


@pytest.fixture(params=["llama", "gpt2-processed"])
def hooked(
    request: pytest.FixtureRequest, hooked_models: dict[str, HookedSAETransformer]
) -> Iterator[HookedSAETransformer]:
    """A raw and a processed model, with nothing attached before and after."""
    yield from _untouched(hooked_models[request.param])


@pytest.fixture
def hooked_gpt2(hooked_models: dict[str, HookedSAETransformer]) -> Iterator[HookedSAETransformer]:
    yield from _untouched(hooked_models["gpt2"])
