"""Loading a `HookedSAETransformer`: names, processing of weights, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.lm.hooked_support import RESID, TOKENS, sae_at
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM

from saekit_core import lm
from saekit_core.lm import (
    HookedSAETransformer,
    LMError,
    ModelNotFoundError,
    UnknownHookPointError,
    UnsupportedModelError,
)
from saekit_core.lm.loading import official_name

raw = HookedSAETransformer.from_pretrained_no_processing
STEPS = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")


def resid(model: HookedSAETransformer) -> Tensor:
    with torch.no_grad():
        _, cache = model.run_with_cache(TOKENS, names_filter=RESID)
    found: Tensor = cache[RESID]
    return found


def traces(model: HookedSAETransformer, folder: Path) -> dict[str, bool]:
    """Which steps of processing have left their mark on a model."""
    with torch.no_grad():
        hf = AutoModelForCausalLM.from_pretrained(folder)
        logits, h = model(TOKENS), resid(model)
        _, cache = model.run_with_cache(TOKENS, names_filter="blocks.1.ln1.hook_out")
    hf_logits = hf(TOKENS).logits
    shift = (logits - hf_logits).abs().max() > 1e-3
    means = cache["blocks.1.ln1.hook_out"].mean(-1).abs().max()
    return {
        "fold_ln": bool(means < 1e-5),
        "center_writing_weights": bool(h.mean(-1).abs().max() < 1e-5),
        "center_unembed": bool(shift),
        "fold_value_biases": not bool(model.blocks[1].attn.b_V.any()),
    }


def test_without_processing_it_is_the_model_of_hugging_face(
    hooked_models: dict[str, HookedSAETransformer], llama_dir: Path, gpt2_dir: Path
) -> None:
    for name, folder in (("llama", llama_dir), ("gpt2", gpt2_dir)):
        hf = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
        model = hooked_models[name]
        assert isinstance(model, TransformerBridge)
        assert not model.training
        with torch.no_grad():
            expected = hf(TOKENS, output_hidden_states=True)
            torch.testing.assert_close(model(TOKENS), expected.logits)
        torch.testing.assert_close(resid(model), expected.hidden_states[1])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_by_default_weights_are_processed_and_predictions_stay(
    hooked_models: dict[str, HookedSAETransformer], llama_dir: Path, gpt2_dir: Path, kind: str
) -> None:
    folder = {"llama": llama_dir, "gpt2": gpt2_dir}[kind]
    model = HookedSAETransformer.from_pretrained(folder, device="cpu")
    with torch.no_grad():
        found, expected = model(TOKENS), hooked_models[kind](TOKENS)
    torch.testing.assert_close(
        found.log_softmax(-1), expected.log_softmax(-1), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(found.mean(-1), torch.zeros(2, 7), atol=1e-4, rtol=0)
    assert expected.mean(-1).abs().max() > 1e-3


@pytest.mark.parametrize("asked", [*((step,) for step in STEPS), STEPS, ()])
def test_each_step_of_processing_is_done_exactly_where_it_is_asked_for(
    gpt2_dir: Path, asked: tuple[str, ...]
) -> None:
    expected = {step: step in asked for step in STEPS}
    assert traces(raw(gpt2_dir, device="cpu", **dict.fromkeys(asked, True)), gpt2_dir) == expected
    without = {step: False for step in STEPS if step not in asked}
    model = HookedSAETransformer.from_pretrained(gpt2_dir, device="cpu", **without)
    assert traces(model, gpt2_dir) == expected


def test_centred_weights_give_the_centred_residual_stream(
    hooked_models: dict[str, HookedSAETransformer], gpt2_dir: Path
) -> None:
    metadata = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    sae = sae_at(metadata={"hook_name": RESID, **metadata})
    model = raw(gpt2_dir, device="cpu", **sae.cfg.model_from_pretrained_kwargs)
    h = resid(hooked_models["gpt2"])
    torch.testing.assert_close(resid(model), h - h.mean(-1, keepdim=True))


def test_an_unknown_argument_is_refused(gpt2_dir: Path) -> None:
    for load in (raw, HookedSAETransformer.from_pretrained):
        with pytest.raises(TypeError, match="centre_writing_weights"):
            load(gpt2_dir, centre_writing_weights=True)


@pytest.mark.parametrize(
    ("short", "official"),
    [
        ("gpt2-small", "gpt2"),
        ("GPT2-Small", "gpt2"),
        ("gemma-2-2b", "google/gemma-2-2b"),
        ("pythia-70m-deduped", "EleutherAI/pythia-70m-deduped"),
        ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
        ("qwen3-0.6b", "Qwen/Qwen3-0.6B"),
        ("someone/gpt2-small", "someone/gpt2-small"),
    ],
)
def test_classic_short_names_are_known(short: str, official: str) -> None:
    assert official_name(short) == official


def test_a_short_name_loads_from_the_local_cache(
    gpt2_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--gpt2"
    shutil.copytree(gpt2_dir, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = raw("gpt2-small", device="cpu")
    assert model.cfg.model_name == "gpt2"
    assert torch.equal(model(TOKENS), raw(gpt2_dir, device="cpu")(TOKENS))


@pytest.mark.parametrize("name", ["no-such-model", "someone/no-such-model"])
def test_a_model_that_is_not_there_says_in_one_line_what_to_do(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="without a network, give a folder") as caught:
        HookedSAETransformer.from_pretrained(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelNotFoundError, match=r"folder \./nowhere does not exist"):
        HookedSAETransformer.from_pretrained("./nowhere")


def test_a_model_that_is_loaded_already_is_taken_over(
    hooked_models: dict[str, HookedSAETransformer], llama_dir: Path
) -> None:
    hf = AutoModelForCausalLM.from_pretrained(llama_dir).eval()
    model = raw(hf_model=hf)
    assert model.original_model is hf
    assert torch.equal(model(TOKENS), hooked_models["llama"](TOKENS))
    tokenizer = AutoTokenizer.from_pretrained(llama_dir)
    tokenizer.pad_token = "<|user|>"
    hf = AutoModelForCausalLM.from_pretrained(llama_dir)
    model = raw(llama_dir, hf_model=hf, tokenizer=tokenizer, dtype=torch.bfloat16, device="cpu")
    assert model.tokenizer.pad_token == "<|user|>"
    assert model(TOKENS).dtype is torch.bfloat16
    assert raw(llama_dir, tokenizer=tokenizer, device="cpu").tokenizer.pad_token == "<|user|>"
    for refused in ({"revision": "main"}, {"n_devices": 2}, {"device_map": "auto"}):
        with pytest.raises(LMError, match="hf_model is loaded already"):
            raw(hf_model=hf, **refused)
    hf.config.name_or_path = hf.name_or_path = ""
    with pytest.raises(LMError, match="give model_name"):
        raw(hf_model=hf)


def test_bos_and_padding_follow_their_arguments(llama_dir: Path) -> None:
    model = raw(llama_dir, device="cpu", default_prepend_bos=False, default_padding_side="left")
    tokens = model.to_tokens(["the cat", "the cat sat on a mat"])
    assert tokens[0, 0] == model.tokenizer.pad_token_id
    assert tokens[1, 0] != model.tokenizer.bos_token_id
    assert raw(llama_dir, device="cpu").to_tokens("the cat")[0, 0] == model.tokenizer.bos_token_id


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"dtype": "int8"}, "dtype"),
        ({"device": "tpu"}, "device"),
        ({"device": "cpu:x"}, "device"),
        ({"device": "cpu", "device_map": "auto"}, "device_map"),
        ({"revision": "000000000000"}, "revision"),
        ({"revision": "main", "checkpoint_index": 0}, "revision"),
        ({"checkpoint_index": 0}, "checkpoint"),
        ({"default_padding_side": "top"}, "default_padding_side"),
    ],
)
def test_a_value_that_is_not_to_be_had_is_refused_by_name(
    llama_dir: Path, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(LMError) as caught:
        raw(llama_dir, **options)
    assert caught.value.field == field


def test_parts_go_where_a_device_map_sends_them(
    hooked_models: dict[str, HookedSAETransformer], llama_dir: Path
) -> None:
    model = raw(llama_dir, device_map={"": "cpu"})
    assert torch.equal(model(TOKENS), hooked_models["llama"](TOKENS))
    spliced = model.run_with_saes(TOKENS, saes=[sae_at()], use_error_term=True)
    assert torch.equal(spliced, model(TOKENS))


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="says what one device is told")
def test_more_devices_than_there_are_is_an_error(llama_dir: Path) -> None:
    with pytest.raises(LMError, match="n_devices=2"):
        raw(llama_dir, n_devices=2)


def test_a_bridge_of_ones_own_takes_saes_too(gpt2_dir: Path) -> None:
    model = HookedSAETransformer.boot_transformers(str(gpt2_dir), device="cpu")
    assert isinstance(model, HookedSAETransformer)
    clean = model(TOKENS)
    assert torch.equal(model.run_with_saes(TOKENS, saes=[sae_at()], use_error_term=True), clean)
    model.enable_compatibility_mode()
    assert model.run_with_saes(TOKENS, saes=[sae_at()]).shape == clean.shape


def test_a_recurrent_model_takes_saes_though_a_server_refuses_it(
    llama_dir: Path, tmp_path: Path
) -> None:
    config = MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=400, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(llama_dir).save_pretrained(tmp_path)
    model = raw(tmp_path, device="cpu")
    sae = sae_at("blocks.0.hook_resid_post")
    assert torch.equal(model.run_with_saes(TOKENS, saes=[sae], use_error_term=True), model(TOKENS))
    assert not torch.equal(model.run_with_saes(TOKENS, saes=[sae]), model(TOKENS))


def test_an_architecture_without_an_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "ctrl"}')
    with pytest.raises(UnsupportedModelError, match="for which TransformerLens has no adapter"):
        HookedSAETransformer.from_pretrained(tmp_path)


def test_the_snippets_of_the_interface_run_on_the_embedded_model() -> None:
    from saekit_core.assets import default_sae_root
    from saekit_core.sae import SAE

    sae = SAE.load_from_disk(default_sae_root() / "blocks.2.hook_resid_pre")
    model = HookedSAETransformer.from_pretrained(device="cpu", dtype="float32")
    tokens = model.to_tokens("Once upon a time, there was a boat.")
    model.add_sae(sae)
    output = model.run_with_saes(tokens, saes=[sae])
    output, cache = model.run_with_cache_with_saes(tokens, saes=[sae])
    assert output.shape == (*tokens.shape, model.cfg.d_vocab)
    acts = cache[f"{sae.cfg.hook_name}.hook_sae_acts_post"]
    assert torch.equal(acts, sae.encode(cache[f"{sae.cfg.hook_name}.hook_sae_input"]))
    loss = model.run_with_saes(tokens, saes=[], return_type="loss")
    assert loss < model.run_with_saes(tokens, return_type="loss", saes=[sae]) + 1


def test_importing_the_package_stays_light() -> None:
    code = (
        "import sys, saekit_core.lm as lm; assert 'torch' not in sys.modules; "
        "lm.UnknownHookPointError; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'HookedSAE'"):
        lm.HookedSAE  # noqa: B018
    assert issubclass(UnknownHookPointError, LMError)
