"""The SAEs that come with the default model, and how their features get their names."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from tests.models import build_llama

from saekit_core.assets import default_model_dir, default_sae_root
from saekit_core.lm.boot import boot_model
from saekit_core.lm.model import LanguageModel
from saekit_core.sae.config import SAEConfig
from saekit_core.sae.disk import read_sae_folder
from saekit_core.sae.features_file import read_features_file
from saekit_core.sae.metadata import SAEMetadata
from saekit_core.sae.sae import SAE
from saekit_trainer.default_model.labels import LabelRule, label_features, read_label_rules
from saekit_trainer.default_model.saes import DEFAULT_SAES, own_text
from saekit_trainer.default_model.saes_card import (
    SAERecord,
    read_sae_records,
    write_sae_records,
    write_sae_section,
)
from saekit_trainer.evaluation import evaluate

MAX_BYTES = 12_000_000


@pytest.fixture(scope="module")
def default_model() -> LanguageModel:
    return boot_model(device="cpu")


def record(sae_id: str, l0: float = 10.0) -> SAERecord:
    return SAERecord(sae_id, sae_id, "topk", 8, 100, 50, l0, 0.9, 0.95, 1)


def test_the_card_section_is_replaced_and_the_rest_of_the_card_kept(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("# Model\n\nText.\n\n## Licence\n\nNone.\n")
    write_sae_records([record("a"), record("b")], tmp_path)
    write_sae_section(tmp_path)
    once = card.read_text()
    assert once.startswith("# Model\n\nText.\n\n## Sparse autoencoders")
    assert once.endswith("## Licence\n\nNone.\n")
    assert once.count("| `a` |") == once.count("| `b` |") == 1
    write_sae_section(tmp_path)
    assert card.read_text() == once
    write_sae_records([record("b", l0=77.0)], tmp_path)
    write_sae_section(tmp_path)
    assert [r.sae_id for r in read_sae_records(tmp_path)] == ["a", "b"]
    assert "| 77.0 |" in card.read_text()


def test_a_label_goes_to_the_feature_that_fires_on_its_tokens_or_to_none(tmp_path: Path) -> None:
    model = boot_model(build_llama(tmp_path / "llama"), device="cpu")
    token = " cat"
    (cat,) = model.tokenizer.encode_text(token, prepend_bos=False).ids
    embedding = model.hf.get_input_embeddings().weight.detach()  # type: ignore[union-attr]
    # Feature 3 fires on this token's embedding alone; the others on directions at random.
    W_enc = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    W_enc[:, 3] = embedding[cat] / embedding[cat].norm()
    threshold = torch.zeros(8)
    projections = embedding @ W_enc[:, 3]
    threshold[3] = projections.topk(2).values.mean()
    state = {"W_enc": W_enc, "W_dec": W_enc.T.contiguous(), "b_enc": torch.zeros(8)}
    state |= {"b_dec": torch.zeros(32), "threshold": threshold}
    metadata = SAEMetadata(hook_name="blocks.0.hook_resid_pre")
    sae = SAE.from_state(SAEConfig("jumprelu", 32, 8, metadata=metadata), state)
    tokens = torch.randint(10, model.d_vocab, (40, 20), generator=torch.Generator().manual_seed(1))
    tokens[:, ::7] = int(cat)
    rules = [LabelRule("x", "cat", fires_on=(token,)), LabelRule("x", "mat", fires_on=(" mat",))]
    assert label_features(model, sae, tokens, rules) == {3: "cat"}


def test_a_label_goes_to_the_direction_that_promotes_its_tokens(tmp_path: Path) -> None:
    model = boot_model(build_llama(tmp_path / "llama"), device="cpu")
    words = (" cat", " mat", " dog")
    ids = [model.tokenizer.encode_text(w, prepend_bos=False).ids for w in words]
    unembed = model.hf.get_output_embeddings().weight.detach()  # type: ignore[union-attr]
    metadata = SAEMetadata(hook_name="blocks.2.hook_resid_pre")
    sae = SAE.from_config(SAEConfig("standard", 32, 8, metadata=metadata))
    with torch.no_grad():
        sae.W_dec[5] = sum(unembed[int(i)] / unembed[int(i)].norm() for (i,) in ids)
    rule = LabelRule("x", "animals", promotes=words)
    assert label_features(model, sae, torch.zeros(0, 4, dtype=torch.long), [rule]) == {5: "animals"}


def test_a_label_rule_says_one_thing() -> None:
    for values in ({}, {"fires_on": (" a",), "promotes": (" b",)}):
        with pytest.raises(ValueError, match="either"):
            LabelRule("x", "both or neither", **values)


def test_each_default_sae_is_what_its_record_says(default_model: LanguageModel) -> None:
    records = {r.sae_id: r for r in read_sae_records(default_model_dir())}
    assert records.keys() == DEFAULT_SAES.keys()
    assert len({r.architecture for r in records.values()}) == len(records)
    assert any(r.hook_name.endswith("hook_mlp_out") for r in records.values())
    tokens = own_text(default_model, 24, seed=99)
    for name, said in records.items():
        sae = read_sae_folder(default_sae_root() / name, dtype="float32")
        assert sae.cfg.hook_name == said.hook_name
        assert sae.cfg.model_name == default_model.name
        found = evaluate(default_model, sae, tokens)
        # Another text than the record's, so only nearly the same.
        assert found.explained_variance == pytest.approx(said.explained_variance, abs=0.05)
        assert found.l0 == pytest.approx(said.l0, rel=0.2)
        assert found.ce_loss_score > 0.85
        assert said.explained_variance > 0.75
        assert said.dead_features < 0.25 * said.d_sae


def test_features_of_the_default_saes_are_described_and_named() -> None:
    rules = read_label_rules()
    named = 0
    for name in DEFAULT_SAES:
        sae = SAE.load_from_disk(default_sae_root() / name)
        features = read_features_file(default_sae_root() / name)
        assert features is not None
        features.check(sae.cfg.d_sae)
        assert features.density is not None
        assert features.max_activation is not None
        assert set(features.labels.values()) <= {r.label for r in rules if r.sae == name}
        named += len(features.labels)
        alive = (features.density > 1e-4).nonzero()[0]
        described = [f for f in alive.tolist() if features.examples.get(f)]
        assert len(described) > 0.95 * len(alive)
        for label_of in features.labels:
            assert features.examples[label_of]
    assert named >= 12


def test_everything_embedded_is_small_enough() -> None:
    files = [p for p in default_model_dir().rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < MAX_BYTES


def test_the_card_lists_every_default_sae() -> None:
    card = (default_model_dir() / "README.md").read_text(encoding="utf-8")
    for name in DEFAULT_SAES:
        assert f"| `{name}` |" in card


def test_default_configurations_name_no_local_files() -> None:
    for name in DEFAULT_SAES:
        text = (default_sae_root() / name / "cfg.json").read_text(encoding="utf-8")
        values = json.loads(text)
        strings = itertools.chain(values.values(), values["metadata"].values())
        assert not [v for v in strings if isinstance(v, str) and v.startswith("/")]
