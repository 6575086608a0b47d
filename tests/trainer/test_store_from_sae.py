"""`ActivationsStore.from_sae`: what the SAE's metadata ask for, and what each parameter does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from tests.models import build_gpt2, story
from torch import Tensor

from saekit_core.lm.boot import boot_model
from saekit_core.lm.errors import LMError
from saekit_core.lm.interventions import InterventionError
from saekit_core.lm.model import LanguageModel
from saekit_core.sae.config import SAEConfig
from saekit_core.sae.metadata import SAEMetadata
from saekit_core.sae.sae import SAE
from saekit_trainer import ActivationsStore
from saekit_trainer.errors import ConfigError, DatasetError

SIZE = 16
TEXTS = [story(30, seed) for seed in range(40)]
DATASET = datasets.Dataset.from_dict({"text": TEXTS})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return boot_model(build_gpt2(tmp_path_factory.mktemp("gpt2")), device="cpu")


def sae_at(hook_name: str | None, d_in: int = 32, **metadata: Any) -> SAE:
    described = SAEMetadata(
        **{"hook_name": hook_name, "context_size": SIZE, "prepend_bos": True, **metadata}
    )
    return SAE.from_config(SAEConfig("standard", d_in, 8, metadata=described))


RESID = sae_at("blocks.1.hook_resid_pre")


@pytest.mark.parametrize("kind", ["language model", "bridge", "processed bridge"])
def test_activations_are_those_of_the_model_given(
    kind: str, model: LanguageModel, tmp_path: Path
) -> None:
    given: Any = model if kind == "language model" else model.bridge
    if kind == "processed bridge":
        given = boot_model(build_gpt2(tmp_path), device="cpu").bridge
        given.enable_compatibility_mode(disable_warnings=True)
    store = ActivationsStore.from_sae(
        model=given,
        sae=RESID,
        dataset=DATASET,
        store_batch_size_prompts=8,
        train_batch_size_tokens=64,
        n_batches_in_buffer=4,
        device="cpu",
    )
    tokens = store.get_batch_tokens()
    assert tokens.dtype == torch.int64
    assert tokens.shape == (8, SIZE)
    bridge = model.bridge if kind == "language model" else given
    with torch.no_grad():
        expected = bridge.run_with_cache(tokens)[1]["blocks.1.hook_resid_pre"]
    torch.testing.assert_close(store.get_activations(tokens), expected, rtol=1e-4, atol=1e-4)
    assert store.next_batch().shape == (64, 32)
    assert next(iter(store)).shape == (64, 32)


def test_heads_are_flattened_or_one_of_them_is_read(model: LanguageModel) -> None:
    every = ActivationsStore.from_sae(model, sae_at("blocks.1.attn.hook_z"), DATASET)
    one = ActivationsStore.from_sae(
        model,
        sae_at("blocks.1.attn.hook_z", 8, hook_head_index=2),
        DATASET,
        train_batch_size_tokens=32,
    )
    tokens = every.get_batch_tokens()
    assert torch.equal(one.get_activations(tokens), every.get_activations(tokens)[..., 16:24])
    assert one.next_batch().shape == (32, 8)


def test_an_sae_of_centred_weights_gets_centred_activations(model: LanguageModel) -> None:
    kwargs = {"center_writing_weights": True}
    sae = sae_at("blocks.1.hook_resid_pre", model_from_pretrained_kwargs=kwargs)
    store = ActivationsStore.from_sae(model, sae, DATASET)
    tokens = store.get_batch_tokens()
    raw = ActivationsStore.from_sae(model, RESID, DATASET).get_activations(tokens)
    torch.testing.assert_close(store.get_activations(tokens), raw - raw.mean(-1, keepdim=True))


def test_a_transcoders_store_has_what_it_encodes(model: LanguageModel) -> None:
    sae = sae_at("blocks.1.hook_resid_mid", hook_name_out="blocks.1.hook_mlp_out")
    store = ActivationsStore.from_sae(model, sae, DATASET)
    plain = ActivationsStore.from_sae(model, sae_at("blocks.1.hook_resid_mid"), DATASET)
    tokens = store.get_batch_tokens()
    assert torch.equal(store.get_activations(tokens), plain.get_activations(tokens))


def test_positions_and_tokens_that_were_not_trained_on_are_left_out(model: LanguageModel) -> None:
    sae = sae_at("blocks.1.hook_resid_pre", seqpos_slice=(2, -1, 3), exclude_special_tokens=(7, 11))
    contexts = np.random.default_rng(0).integers(5, 30, (8, SIZE))
    store = ActivationsStore.from_sae(model, sae, contexts, train_batch_size_tokens=8)
    tokens = torch.from_numpy(contexts)
    whole = ActivationsStore.from_sae(model, RESID, contexts).get_activations(tokens)
    assert torch.equal(store.get_activations(tokens), whole[:, 2:-1:3])
    kept = whole[:, 2:-1:3][~torch.isin(tokens[:, 2:-1:3], torch.tensor([7, 11]))]
    drawn = torch.cat([store.next_batch() for _ in range(40)])
    distance = torch.cdist(drawn.double(), kept.double())
    assert distance.min(dim=1).values.max() < 1e-5  # nothing else comes,
    assert distance.min(dim=0).values.max() < 1e-5  # and all of it does


def test_special_tokens_are_left_out_where_the_sae_was_trained_so(model: LanguageModel) -> None:
    sae = sae_at("blocks.1.hook_resid_pre", exclude_special_tokens=True)
    store = ActivationsStore.from_sae(model, sae, DATASET, train_batch_size_tokens=64)
    bos = store.get_activations(store.get_batch_tokens())[0, 0]
    assert (torch.cat([next(store) for _ in range(5)]) - bos).norm(dim=1).min() > 1e-3


def test_sizes_are_those_asked_for(model: LanguageModel) -> None:
    store = ActivationsStore.from_sae(
        model,
        RESID,
        DATASET,
        context_size=20,
        store_batch_size_prompts=3,
        n_batches_in_buffer=5,
        train_batch_size_tokens=32,
    )
    assert store.get_batch_tokens().shape == (3, 20)
    assert store.get_batch_tokens(batch_size=7).shape == (7, 20)
    assert store.next_batch().shape == (32, 32)
    buffer = store.state_dict()["buffer"]
    assert len(buffer["rows"]) == 5 * 3 * 20
    for size in (1, 97):
        with pytest.raises(ConfigError, match=r"context_size: \d+ is not in 2..96"):
            ActivationsStore.from_sae(model, RESID, DATASET, context_size=size)


def test_activations_go_to_the_device_and_dtype_asked_for(model: LanguageModel) -> None:
    sae = sae_at("blocks.1.hook_resid_pre").to(torch.bfloat16)
    store = ActivationsStore.from_sae(model, sae, DATASET, device="meta")
    tokens = store.get_batch_tokens()
    assert tokens.device == model.device
    assert store.get_activations(tokens).device.type == "meta"
    store = ActivationsStore.from_sae(model, sae, DATASET, train_batch_size_tokens=16)
    assert store.next_batch().dtype == torch.bfloat16
    assert store.next_batch().device == model.device


def test_what_the_sae_records_is_used_where_nothing_is_given(
    model: LanguageModel, tmp_path: Path
) -> None:
    path = tmp_path / "stories.txt"
    path.write_text("\n<|endoftext|>\n".join(TEXTS), encoding="utf-8")
    sae = sae_at("blocks.1.hook_resid_pre", dataset_path=str(path), prepend_bos=False)
    recorded = ActivationsStore.from_sae(model, sae)
    assert recorded.get_batch_tokens()[0, 0] != model.tokenizer.bos_id
    rows = _token_rows(model)
    given = ActivationsStore.from_sae(model, sae, rows)
    assert given.get_batch_tokens(2).tolist() == rows[:2].tolist()
    with pytest.raises(DatasetError, match="none given, and the SAE records none"):
        ActivationsStore.from_sae(model, RESID)


def _token_rows(model: LanguageModel) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).integers(5, model.d_vocab, (9, SIZE))


def test_a_data_set_that_is_too_small_warns_once_at_its_end(model: LanguageModel) -> None:
    rows = _token_rows(model)
    store = ActivationsStore.from_sae(model, RESID, rows, total_tokens=200)
    store.get_batch_tokens(9)
    with pytest.warns(UserWarning, match="ended after 144 tokens, of 200 expected"):
        store.get_batch_tokens(9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.get_batch_tokens(9)
        enough = ActivationsStore.from_sae(model, RESID, rows, total_tokens=144)
        enough.get_batch_tokens(20)


def test_streaming_opens_a_data_set_without_reading_all_of_it(
    model: LanguageModel, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    DATASET.to_json(folder / "train.jsonl")
    tokens = []
    for streaming in (True, False):
        store = ActivationsStore.from_sae(model, RESID, str(folder), streaming=streaming)
        rows = store.source.documents.rows  # type: ignore[attr-defined]
        assert isinstance(rows, datasets.IterableDataset if streaming else datasets.Dataset)
        tokens.append(store.get_batch_tokens())
    assert torch.equal(*tokens)


def test_a_named_data_set_is_opened_at_its_split(model: LanguageModel, tmp_path: Path) -> None:
    halves = DATASET.train_test_split(0.5, shuffle=False)
    halves.save_to_disk(tmp_path / "halves")
    for split in ("train", "test"):
        named = ActivationsStore.from_sae(model, RESID, str(tmp_path / "halves"), split=split)
        given = ActivationsStore.from_sae(model, RESID, halves[split])
        assert torch.equal(named.get_batch_tokens(), given.get_batch_tokens())


def test_the_order_of_activations_is_determined_by_the_seed(model: LanguageModel) -> None:
    def first(seed: int) -> Tensor:
        options = {"train_batch_size_tokens": 32, "seed": seed}
        return ActivationsStore.from_sae(model, RESID, DATASET, **options).next_batch()

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"dataset_trust_remote_code": True}, "dataset_trust_remote_code"),
        ({"sequence_separator_token": "comma"}, "sequence_separator_token"),
        ({"sequence_separator_token": 4000}, "sequence_separator_token"),
        ({"disable_concat_sequences": True, "dataset": np.arange(99)}, "disable_concat_sequences"),
        ({"context_size": 1}, "context_size"),
        ({"device": "cuda:99"}, "device"),
        ({"device": "gpu"}, "device"),
        ({"sae": sae_at(None)}, "metadata.hook_name"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    options: dict[str, Any], field: str, model: LanguageModel
) -> None:
    with pytest.raises((ConfigError, DatasetError, LMError), match=f"^{field}: ") as refused:
        ActivationsStore.from_sae(
            **{"model": model, "sae": RESID, "dataset": DATASET, **options}
        ).get_batch_tokens()
    assert refused.value.field == field.rpartition(".")[2]


def test_an_sae_of_another_width_is_refused(model: LanguageModel) -> None:
    with pytest.raises(InterventionError, match="reads 31 values"):
        ActivationsStore.from_sae(model, sae_at("blocks.1.hook_resid_pre", 31), DATASET)
