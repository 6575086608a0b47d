"""From a folder or a name to a model, or to one line that says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    RwkvConfig,
    RwkvForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from saekit_core.lm.boot import boot_model
from saekit_core.lm.errors import LMError, ModelNotFoundError, UnsupportedModelError
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.revision import model_revision


def test_a_folder_boots_with_its_dimensions(llama: LanguageModel) -> None:
    assert llama.name == "tiny-llama"
    assert (llama.n_layers, llama.d_model, llama.max_context) == (3, 32, 96)
    assert llama.d_vocab == len(llama.tokenizer.hf)
    assert llama.device.type == "cpu"
    assert llama.dtype is torch.float32
    assert llama.tokenizer.default_prepend_bos
    assert llama.tokenizer.eos_ids == (llama.tokenizer.hf.eos_token_id,)


def test_the_fastest_attention_is_used_where_the_architecture_allows(
    llama: LanguageModel, gpt2: LanguageModel, gemma2: LanguageModel
) -> None:
    assert llama.hf.config._attn_implementation == "sdpa"
    assert gpt2.hf.config._attn_implementation == "sdpa"
    assert gemma2.hf.config._attn_implementation == "eager"
    assert llama.bridge.original_model.config._attn_implementation == "eager"
    assert llama.hf.config._attn_implementation == "sdpa"


def test_revision_follows_what_determines_an_answer(
    llama: LanguageModel, llama_dir: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(llama_dir, copy)
    assert len(llama.revision) == 12
    assert llama.ref is None
    assert int(llama.revision, 16) >= 0
    assert model_revision(copy) == llama.revision
    (copy / "README.md").write_text("a model")
    assert model_revision(copy) == llama.revision
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert model_revision(copy) != llama.revision


def test_a_folder_of_another_revision_is_refused(llama: LanguageModel, llama_dir: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=f"has revision {llama.revision}, not abc"):
        boot_model(llama_dir, revision="abc")


def test_half_precision_boots_with_the_same_hook_points(
    llama: LanguageModel, llama_dir: Path
) -> None:
    half = boot_model(llama_dir, dtype="bfloat16", device="cpu")
    assert half.dtype is torch.bfloat16
    assert half.hook_names() == llama.hook_names()
    for name in llama.hook_names():
        assert half.runs_plain(half.hook_point(name)) == llama.runs_plain(llama.hook_point(name))
    seen: list[torch.Tensor] = []
    point = half.hook_point("blocks.1.hook_resid_pre")
    logits = half.forward(
        torch.tensor([[1, 2, 3]]), taps={point: seen.append}, logits_at=torch.tensor([2])
    )
    assert seen[0].dtype is torch.bfloat16
    assert logits is not None
    assert logits.dtype is torch.float32
    assert half.new_slots(2, 8).bytes * 2 == llama.new_slots(2, 8).bytes


@pytest.mark.parametrize("name", ["someone/no-such-model", "no-such-model"])
def test_an_unknown_name_says_in_one_line_what_to_do_without_a_network(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="without a network, give a folder") as caught:
        boot_model(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.field == "model"


@pytest.mark.parametrize("path", ["./nowhere", "/no/where", "a/b/c", Path("nowhere")])
def test_a_folder_that_is_not_there_is_not_looked_for_elsewhere(path: str | Path) -> None:
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        boot_model(path)


def test_a_folder_without_config_or_with_broken_weights_is_named(
    llama_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFoundError, match=r"has no config\.json"):
        boot_model(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(llama_dir, broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="cannot be read as a model"):
        boot_model(broken)


def test_encoder_decoders_are_refused(tmp_path: Path) -> None:
    T5ForConditionalGeneration(
        T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=1, vocab_size=20)
    ).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="is an encoder-decoder"):
        boot_model(tmp_path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: MambaForCausalLM(
                MambaConfig(hidden_size=8, num_hidden_layers=1, vocab_size=20, state_size=4)
            ),
            "has linear_attention layers",
        ),
        (
            lambda: RwkvForCausalLM(RwkvConfig(hidden_size=8, num_hidden_layers=2, vocab_size=20)),
            "is recurrent",
        ),
    ],
    ids=["mamba", "rwkv"],
)
def test_recurrent_and_hybrid_models_are_refused(
    tmp_path: Path, model: Callable[[], PreTrainedModel], message: str
) -> None:
    model().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=message):
        boot_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen3_next", "layer_types": ["linear_attention"]}, "linear_attention"),
        ({"model_type": "ctrl"}, "is a ctrl, for which TransformerLens has no adapter"),
        ({"model_type": "nobodys"}, "cannot load"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "is a BertForMaskedLM"),
    ],
)
def test_other_architectures_are_refused_before_their_weights_are_read(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    config = {"model_type": "llama", "num_hidden_layers": 1, **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=message):
        boot_model(tmp_path)


def test_an_unknown_dtype_or_device_is_named(llama_dir: Path) -> None:
    with pytest.raises(LMError, match="dtype 'int8'") as caught:
        boot_model(llama_dir, dtype="int8")
    assert caught.value.field == "dtype"
    with pytest.raises(LMError, match="device 'tpu'") as caught:
        boot_model(llama_dir, device="tpu")
    assert caught.value.field == "device"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without CUDA is told")
def test_cuda_without_a_gpu_is_an_error_with_the_remedy(llama_dir: Path) -> None:
    with pytest.raises(LMError, match=r"'cuda' is not available .* use --device cpu"):
        boot_model(llama_dir, device="cuda")


def test_a_cached_hub_model_boots_without_a_network_at_its_commit(
    llama: LanguageModel, llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--someone--tiny"
    shutil.copytree(llama_dir, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    booted = boot_model("someone/tiny", device="cpu")
    assert (booted.name, booted.revision, booted.ref) == ("someone/tiny", commit, "main")
    where = torch.tensor([4])
    tokens = torch.tensor([[1, 2, 3, 4, 5]])
    expected = llama.forward(tokens, taps={}, logits_at=where)
    assert torch.equal(booted.forward(tokens, taps={}, logits_at=where), expected)  # type: ignore[arg-type]
