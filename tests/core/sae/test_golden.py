"""What sae-lens 6.54 saved, and what it answered: files of `make parity ARGS=--write-golden`."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.parity.agreement import compare
from tests.parity.cells import AUTOENCODERS, DTYPES, NORMALIZATIONS, TEMPORAL, TRANSCODERS
from tests.parity.golden import Golden, goldens
from tests.parity.old_layouts import OLD_FOLDERS

from saekit_core.sae import SAE, read_sae_folder_owned
from saekit_core.sae.layout import CFG_FILE, WEIGHTS_FILE

OLD = {old.name for old in OLD_FOLDERS}
PRESENT = [golden for golden in goldens() if golden.name not in OLD]
METADATA_OF_OLD = {"model_name", "hook_name", "context_size", "prepend_bos", "dataset_path"}


def every(cases: list[Golden]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("golden", cases, ids=lambda golden: golden.name)


@every(list(goldens()))
def test_an_sae_of_sae_lens_answers_here_as_there(golden: Golden, tmp_path: Path) -> None:
    golden.write(tmp_path / "sae")
    sae, answers = SAE.load_from_disk(tmp_path / "sae"), golden.answers()
    assert not compare(sae, answers).problems
    # The server reads the same folder in a way of its own.
    owned = read_sae_folder_owned(tmp_path / "sae").build()
    torch.testing.assert_close(owned(answers.x), sae(answers.x))


@every([golden for golden in PRESENT if golden.name.split(".")[1] in ("none", "layer_norm")])
def test_save_model_writes_what_sae_lens_wrote(golden: Golden, tmp_path: Path) -> None:
    golden.write(tmp_path / "theirs")
    weights, cfg = SAE.load_from_disk(tmp_path / "theirs").save_model(tmp_path / "ours")
    values, expected = json.loads(cfg.read_text()), dict(golden.cfg)
    metadata, theirs = values.pop("metadata"), expected.pop("metadata")
    assert {key: values[key] for key in expected} == expected
    assert values.keys() == expected.keys()
    known = {key: value for key, value in theirs.items() if value is not None}
    assert {key: metadata[key] for key in known} == {**known, "sae_lens_version": "6.54.0"}
    tensors = load_file(weights)
    assert tensors.keys() == golden.tensors().keys()
    for name, tensor in golden.tensors().items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


@every([golden for golden in goldens() if golden.name in OLD])
def test_a_folder_of_an_older_version_is_rewritten_as_version_6(
    golden: Golden, tmp_path: Path
) -> None:
    golden.write(tmp_path / "old")
    SAE.load_from_disk(tmp_path / "old").save_model(tmp_path / "new")
    assert not compare(SAE.load_from_disk(tmp_path / "new"), golden.answers()).problems
    values = json.loads((tmp_path / "new" / CFG_FILE).read_text())
    metadata = values["metadata"]
    assert values["dtype"] in DTYPES
    assert metadata.keys() >= METADATA_OF_OLD
    assert metadata["hook_name"] in golden.cfg.values()
    assert "scaling_factor" not in load_file(tmp_path / "new" / WEIGHTS_FILE)


def test_the_golden_files_cover_the_grid() -> None:
    names = {golden.name for golden in goldens()}
    kinds = (*AUTOENCODERS, *TRANSCODERS, *TEMPORAL)
    for kind in kinds:
        for normalization in NORMALIZATIONS:
            for dtype in DTYPES:
                start = f"{kind.replace(' ', '_')}.{normalization}.{dtype}"
                assert any(name == start or name.startswith(f"{start}.") for name in names), start
    assert {"no_b_dec", "hook_z"} <= {part for name in names for part in name.split(".")}
