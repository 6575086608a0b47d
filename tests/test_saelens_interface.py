"""The interface that users of SAELens know, snippet by snippet.

Each test is code as it is written against SAELens with the import line changed; in place of what
would be downloaded stand the embedded model, small local folders and a stand-in of the Hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.sae.folders import write_folder
from tests.core.sae.hub_server import WRITER, Hub, serving_hub, use_hub

from saekit_core.assets import default_model_dir, default_sae_root
from saekit_core.lm import HookedSAETransformer
from saekit_core.sae import SAE, SAEConfig
from saekit_core.sae.neuronpedia import feature_url
from saekit_trainer import (
    ActivationsStore,
    LanguageModelSAERunnerConfig,
    SAETrainingRunner,
    upload_saes_to_huggingface,
)

HOOK = "blocks.2.hook_resid_pre"
STORY = "Once upon a time there was a little dog who liked to play in the park with his friends.\n"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving_hub() as hub:
        use_hub(hub, tmp_path / "hf", monkeypatch)
        yield hub


@pytest.fixture
def sae() -> SAE:
    return SAE.load_from_disk(default_sae_root() / HOOK)


@pytest.fixture(scope="module")
def model() -> HookedSAETransformer:
    return HookedSAETransformer.from_pretrained(default_model_dir())


@pytest.fixture
def stories(tmp_path: Path) -> str:
    path = tmp_path / "stories.txt"
    path.write_text("<|endoftext|>\n".join([STORY * 20] * 60))
    return str(path)


def test_loading_pretrained_saes(hub: Hub, tmp_path: Path) -> None:
    write_folder(tmp_path / "release" / "blocks.8.hook_resid_pre")
    hub.add("jbloom/GPT2-Small-SAEs-Reformatted", tmp_path / "release")
    write_folder(tmp_path / "repo" / "path" / "to" / "sae")
    hub.add("username/repo-name", tmp_path / "repo")
    path = str(write_folder(tmp_path / "sae"))

    # From official releases
    sae, cfg_dict, sparsity = SAE.from_pretrained(
        release="gpt2-small-res-jb",
        sae_id="blocks.8.hook_resid_pre",
        device="cpu",
    )
    assert isinstance(sae, SAE)
    assert cfg_dict["d_in"] == 12
    assert sparsity is None

    # From HuggingFace
    sae, cfg_dict, sparsity = SAE.from_pretrained(
        release="username/repo-name",
        sae_id="path/to/sae",
        device="cpu",
    )
    assert cfg_dict["d_sae"] == sae.cfg.d_sae == 40

    # From local disk
    sae = SAE.load_from_disk(path, device="cpu")
    assert sae.cfg.device == "cpu"


def test_attributes_and_core_methods(sae: SAE, tmp_path: Path) -> None:
    d_in, d_sae = 128, 2048
    assert sae.W_enc.shape == (d_in, d_sae)
    assert sae.W_dec.shape == (d_sae, d_in)
    assert sae.b_enc is not None
    assert sae.b_enc.shape == (d_sae,)
    assert sae.b_dec.shape == (d_in,)
    assert isinstance(sae.cfg, SAEConfig)

    activations = torch.randn(2, 7, d_in)
    features = sae.encode(activations)
    assert features.shape == (2, 7, d_sae)
    reconstructed = sae.decode(features)
    assert reconstructed.shape == (2, 7, d_in)
    torch.testing.assert_close(sae(activations), reconstructed)
    sae.save_model(str(tmp_path / "saved"))
    again = SAE.load_from_disk(str(tmp_path / "saved"))
    assert torch.equal(again.encode(activations), features)


def test_every_key_parameter_of_the_configuration(sae: SAE) -> None:
    assert sae.cfg.d_in == 128
    assert sae.cfg.d_sae == 2048
    assert sae.cfg.architecture == "jumprelu"
    assert sae.cfg.activation_fn_str == "relu"
    assert sae.cfg.model_name == "tinystories-1m"
    assert sae.cfg.hook_name == HOOK
    assert sae.cfg.normalize_activations == "none"
    assert sae.cfg.dtype == "float32"
    assert sae.cfg.device == "cpu"
    assert sae.cfg.metadata.hook_name == HOOK
    assert sae.cfg.metadata.model_name == sae.cfg.model_name


@pytest.mark.filterwarnings("ignore:l1_coefficient", "ignore::DeprecationWarning:wandb.*")
def test_the_example_configuration_trains(
    stories: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    cfg = LanguageModelSAERunnerConfig(
        # Model and hook
        model_name=str(default_model_dir()),
        hook_name="blocks.2.hook_resid_pre",
        hook_layer=2,
        d_in=128,
        # SAE architecture
        architecture="standard",
        d_sae=128 * 8,
        activation_fn="relu",
        # Training hyperparameters
        lr=4e-4,
        l1_coefficient=8e-5,
        lp_norm=1.0,
        lr_scheduler_name="constant",
        lr_warm_up_steps=500,
        # Sparsity control
        l1_warm_up_steps=1000,
        use_ghost_grads=True,
        feature_sampling_window=1000,
        dead_feature_window=5000,
        dead_feature_threshold=1e-8,
        # Data
        dataset_path=stories,
        streaming=True,
        context_size=128,
        # Batch sizes
        train_batch_size_tokens=4096,
        store_batch_size_prompts=16,
        n_batches_in_buffer=64,
        # Training duration
        training_tokens=10 * 4096,
        # Logging
        log_to_wandb=True,
        wandb_project="sae-training",
        wandb_log_frequency=100,
        # Checkpointing
        checkpoint_path="checkpoints",
        n_checkpoints=5,
        # Hardware
        device="cpu",
        dtype="float32",
    )
    runner = SAETrainingRunner(cfg)
    sae = runner.run()
    assert sae.cfg.d_sae == 1024
    assert sae.cfg.hook_name == "blocks.2.hook_resid_pre"
    saved = sorted((tmp_path / "checkpoints").rglob("cfg.json"))
    assert len(saved) >= 5
    for folder in (path.parent for path in saved):
        assert SAE.load_from_disk(folder).cfg.d_sae == 1024
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "standard", "activation_fn": "relu", "l1_coefficient": 8e-5},
        {"architecture": "gated"},
        {
            "architecture": "topk",
            "activation_fn": "topk",
            "activation_fn_kwargs": {"k": 50},
        },
        {"architecture": "jumprelu"},
    ],
    ids=lambda options: options["architecture"],
)
@pytest.mark.filterwarnings("ignore:l1_coefficient")
def test_each_architecture_trains_from_its_short_configuration(
    options: dict[str, Any], stories: str
) -> None:
    cfg = LanguageModelSAERunnerConfig(
        **options, dataset_path=stories, training_tokens=5 * 1024, d_sae=512
    )
    sae = SAETrainingRunner(cfg).run()
    assert sae.cfg.architecture == options["architecture"]
    if "activation_fn_kwargs" in options:
        acts = sae.encode(torch.randn(9, sae.cfg.d_in))
        assert ((acts != 0).sum(-1) <= 50).all()


@pytest.mark.parametrize("kind", ["bridge", "language model"])
def test_activations_store(kind: str, model: HookedSAETransformer, sae: SAE, stories: str) -> None:
    from saekit_core.lm import boot_model

    store = ActivationsStore.from_sae(
        model=model if kind == "bridge" else boot_model(),
        sae=sae,
        store_batch_size_prompts=8,
        train_batch_size_tokens=4096,
        n_batches_in_buffer=32,
        device="cpu",
        dataset=stories,
    )
    # Get batch of activations
    activations = store.get_batch_tokens()
    assert activations.shape == (8, sae.cfg.context_size)
    assert store.get_activations(activations).shape == (8, sae.cfg.context_size, 128)
    assert store.next_batch().shape == (4096, 128)


def test_hooked_sae_transformer(model: HookedSAETransformer, sae: SAE) -> None:
    tokens = model.to_tokens("Once upon a time there was a dog")
    clean = model(tokens)

    model.add_sae(sae)
    assert not torch.allclose(model(tokens), clean)
    model.reset_saes()
    assert torch.equal(model(tokens), clean)

    # Run with SAE in the loop
    output = model.run_with_saes(tokens, saes=[sae])
    assert output.shape == clean.shape
    assert not torch.allclose(output, clean)

    # Cache with SAE activations
    output, cache = model.run_with_cache_with_saes(tokens, saes=[sae])
    acts = cache[f"{HOOK}.hook_sae_acts_post"]
    assert acts.shape == (*tokens.shape, sae.cfg.d_sae)
    torch.testing.assert_close(acts, sae.encode(cache[f"{HOOK}.hook_sae_input"]))
    assert torch.equal(model(tokens), clean)


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
@pytest.mark.usefixtures("hub")
def test_upload_to_huggingface(sae: SAE) -> None:
    upload_saes_to_huggingface(
        saes=[sae],
        repo_id="user/my-saes",
        token=WRITER,
    )
    again = SAE.from_pretrained("user/my-saes", HOOK)
    assert torch.equal(again.W_dec, sae.W_dec)


def test_neuronpedia_urls(sae: SAE) -> None:
    values = json.loads(json.dumps(sae.cfg.to_dict()))
    values["metadata"]["neuronpedia_id"] = "gpt2-small/8-res-jb"
    url = feature_url(SAEConfig.from_dict(values), 1234)
    assert url is not None
    assert re.fullmatch(r"https://(www\.)?neuronpedia\.org/gpt2-small/8-res-jb/1234", url)
