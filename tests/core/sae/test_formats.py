"""Every foreign format is read to what its own library computes, mapped and owned alike."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.core.sae import foreign as folders
from tests.core.sae.foreign import Case
from tests.core.sae.reference import random_activations

from saekit_core.sae import SAE, Origin, SAEFormatError, read_sae_folder, read_sae_folder_owned
from saekit_core.sae.formats import FORMATS

CASES: dict[str, Callable[[Path], Case]] = {
    "gemma_scope": folders.gemma_scope,
    "gemma_scope, small w": lambda r: folders.gemma_scope(r, names="w"),
    "gemma_scope, mlp": lambda r: folders.gemma_scope(r, site="mlp"),
    "gemma_scope, attention": lambda r: folders.gemma_scope(r, site="att"),
    "gemma_scope, embedding": lambda r: folders.gemma_scope(r, site="embedding"),
    "gemma_scope_transcoder": folders.gemma_scope_transcoder,
    "gemma_scope_2": folders.gemma_scope_2,
    "gemma_scope_2, attention": lambda r: folders.gemma_scope_2(r, site="attn_out"),
    "gemma_scope_2, mlp": lambda r: folders.gemma_scope_2(r, site="mlp_out"),
    "gemma_scope_2, transcoder": lambda r: folders.gemma_scope_2(r, site="transcoder"),
    "gemma_scope_2, affine": lambda r: folders.gemma_scope_2(r, site="transcoder_affine"),
    "gemma_scope_2, no config": lambda r: folders.gemma_scope_2(
        r, site="transcoder_affine", config=False
    ),
    "llama_scope": folders.llama_scope,
    "llama_scope, plain": lambda r: folders.llama_scope(r, norms=False),
    "llama_scope, transcoder": lambda r: folders.llama_scope(r, transcodes=True),
    "llama_scope, plain transcoder": lambda r: folders.llama_scope(r, transcodes=True, norms=False),
    "llama_scope_r1_distill": folders.llama_scope_r1_distill,
    "llama_scope_r1_distill, plain": lambda r: folders.llama_scope_r1_distill(r, norms=False),
    "llama_scope_r1_distill, release": lambda r: folders.llama_scope_r1_distill(r, recorded=False),
    **{
        f"dictionary_learning, {kind}": lambda r, kind=kind: folders.dictionary_learning(
            r, kind=kind
        )
        for kind in (
            "AutoEncoder",
            "AutoEncoderNew",
            "GatedAutoEncoder",
            "AutoEncoderTopK",
            "BatchTopKSAE",
            "MatryoshkaBatchTopKSAE",
            "JumpReluAutoEncoder",
        )
    },
    "sparsify": folders.sparsify,
    "sparsify, square": lambda r: folders.sparsify(r, square=True),
    "sparsify, signed": lambda r: folders.sparsify(r, signed=True),
    "sparsify, transcoder": lambda r: folders.sparsify(r, module="layers.5.mlp", transcode=True),
    "sparsify, skip transcoder": lambda r: folders.sparsify(
        r, module="layers.5.mlp", transcode=True, skip_connection=True
    ),
    "openai": folders.openai,
    "openai, relu": lambda r: folders.openai(r, activation="ReLU"),
    "goodfire": folders.goodfire,
    "deepseek_r1": folders.deepseek_r1,
    "qwen_scope": folders.qwen_scope,
    "connor_rob_hook_z": folders.connor_rob_hook_z,
    **{
        f"circuit_tracer, {kind}{', skip' if skip else ''}": lambda r, kind=kind, skip=skip: (
            folders.circuit_tracer(r, kind=kind, skip=skip)
        )
        for kind in ("relu", "jump_relu", "topk")
        for skip in (False, True)
    },
    "circuit_tracer_clt_layer": folders.circuit_tracer_clt_layer,
    "circuit_tracer_clt_layer, jump": lambda r: folders.circuit_tracer_clt_layer(r, jump_relu=True),
}


def write(root: Path, name: str) -> Case:
    return CASES[name](root)


def read(case: Case, *, owned: bool, dtype: str | None = None) -> SAE:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="a layer of a cross-layer transcoder")
        if owned:
            return read_sae_folder_owned(case.path, origin=case.origin).build(dtype=dtype)
        return read_sae_folder(case.path, origin=case.origin, dtype=dtype)


@pytest.mark.parametrize("owned", [False, True], ids=["mapped", "owned"])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_encode_and_decode_are_those_of_the_format_s_own_library(
    tmp_path: Path, name: str, owned: bool
) -> None:
    case = write(tmp_path, name)
    sae = read(case, owned=owned, dtype="float64")
    x = random_activations(64, folders.D_IN)
    acts, state = sae.encode_with_state(x)
    expected = case.encode(x)
    assert torch.equal(acts != 0, expected != 0)
    assert 0 < (acts != 0).double().mean() < 1
    torch.testing.assert_close(acts, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        sae.decode(acts, state), case.decode(expected, x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", CASES)
def test_configuration_says_what_files_and_names_tell(tmp_path: Path, name: str) -> None:
    case = write(tmp_path, name)
    cfg = read(case, owned=False).cfg
    flat = {**cfg.to_dict(), **cfg.metadata.to_dict(), "d_out": cfg.d_out}
    assert {key: flat.get(key) for key in case.config} == dict(case.config)
    if "prepend_bos" not in case.config:
        assert cfg.prepend_bos is True


@pytest.mark.parametrize("name", CASES)
def test_a_format_names_the_files_that_the_reader_reads(tmp_path: Path, name: str) -> None:
    case = write(tmp_path, name)
    entry = FORMATS[name.split(",", maxsplit=1)[0]]
    folder = case.path if case.path.is_dir() else case.path.parent
    listing = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    file = None if case.path.is_dir() else case.path.name
    wanted = [other for other in listing if entry.wanted(other, file)]
    assert set(entry.files([*listing, "README.md"], file)) == set(wanted)
    for other in listing:
        if other not in wanted:
            (folder / other).unlink()
    read(case, owned=True)  # complete without the rest


@pytest.mark.parametrize("name", CASES)
def test_a_saved_sae_is_the_same_in_the_native_format(tmp_path: Path, name: str) -> None:
    sae = read(write(tmp_path / "foreign", name), owned=True)
    sae.save_model(tmp_path / "native")
    again = SAE.load_from_disk(tmp_path / "native")
    assert again.cfg.to_dict() == {**sae.cfg.to_dict(), "metadata": again.cfg.to_dict()["metadata"]}
    for key, tensor in sae.weights().items():
        assert torch.equal(again.weights()[key], tensor)


def test_weights_of_a_torch_or_safetensors_file_are_mapped_not_copied(tmp_path: Path) -> None:
    for case in (folders.sparsify(tmp_path / "a"), folders.goodfire(tmp_path / "b")):
        sae = read_sae_folder(case.path)
        before = case.weights.read_bytes()
        with torch.no_grad():
            sae.W_enc.zero_()
        assert case.weights.read_bytes() == before
        assert not sae.W_enc.is_contiguous()  # still as the file has it


def test_the_number_type_is_the_file_s_unless_the_format_has_one(tmp_path: Path) -> None:
    narrow = folders.deepseek_r1(tmp_path / "a", dtype=torch.bfloat16)
    assert read_sae_folder(narrow.path).dtype == torch.bfloat16
    scope = folders.llama_scope(tmp_path / "b", dtype=torch.bfloat16)
    assert read_sae_folder(scope.path).dtype == torch.bfloat16
    # The factor is folded into the weights as they are wanted, not as they are stored.
    wide, stored = read_sae_folder(scope.path, dtype="float32"), read_sae_folder(scope.path)
    assert torch.equal(wide.W_enc.bfloat16(), stored.W_enc)
    assert not torch.equal(wide.W_enc, stored.W_enc.float())


def test_sparsify_decoder_is_not_transposed(tmp_path: Path) -> None:
    case = folders.sparsify(tmp_path, square=True)
    stored = load_file(case.weights)
    sae = read_sae_folder(case.path)
    assert torch.equal(sae.W_dec, stored["W_dec"])
    assert torch.equal(sae.W_enc, stored["encoder.weight"].T)


@pytest.mark.parametrize(
    ("module", "transcodes", "hooks"),
    [
        ("layers.5", False, ("blocks.5.hook_resid_post", None)),
        ("h.11", False, ("blocks.11.hook_resid_post", None)),
        ("layers.5.mlp", False, ("blocks.5.mlp.hook_out", None)),
        ("layers.5.attention", False, ("blocks.5.attn.hook_out", None)),
        ("layers.5.mlp", True, ("blocks.5.mlp.hook_in", "blocks.5.mlp.hook_out")),
        ("embed_tokens", False, ("hook_embed", None)),
        ("mine", False, (None, None)),
    ],
)
def test_sparsify_reads_the_hook_point_from_the_module_in_the_folder_s_name(
    tmp_path: Path, module: str, transcodes: bool, hooks: tuple[str | None, str | None]
) -> None:
    case = folders.sparsify(tmp_path, module=module, transcode=transcodes)
    folders.write_json(
        case.path.parent / "config.json",
        {"model": "EleutherAI/pythia-160m", "dataset": "pile", "ctx_len": 512, "layers": [5]},
    )
    cfg = read_sae_folder(case.path).cfg
    assert (cfg.hook_name, cfg.metadata.hook_name_out) == hooks
    assert (cfg.model_name, cfg.context_size) == ("EleutherAI/pythia-160m", 512)


@pytest.mark.parametrize(
    ("trainer", "io", "hook"),
    [
        ({}, "out", "blocks.3.hook_resid_post"),
        ({"submodule_name": None}, "out", "blocks.3.hook_resid_post"),
        ({"submodule_name": "mlp_out_layer_3"}, "out", "blocks.3.hook_mlp_out"),
        ({"submodule_name": "gpt_neox.layers.3"}, "in", "blocks.3.hook_resid_pre"),
        ({"submodule_name": "attn_out"}, "out", "blocks.3.hook_attn_out"),
        ({"submodule_name": "router"}, "out", None),
    ],
)
def test_dictionary_learning_reads_the_hook_point_from_its_trainer(
    tmp_path: Path, trainer: dict[str, str], io: str, hook: str | None
) -> None:
    case = folders.dictionary_learning(tmp_path, **trainer)
    config = json.loads((case.path / "config.json").read_text())
    config["buffer"]["io"] = io
    folders.write_json(case.path / "config.json", config)
    assert read_sae_folder(case.path).cfg.hook_name == hook


@pytest.mark.parametrize("tied", [False, True])
def test_temporal_folders_have_the_tensors_of_the_native_format(tmp_path: Path, tied: bool) -> None:
    folder, sae = folders.temporal(tmp_path, tied=tied)
    again = read_sae_folder(folder)
    assert again.cfg.hook_name == "blocks.12.hook_resid_post"
    assert {**again.cfg.to_dict(), "metadata": None} == {**sae.cfg.to_dict(), "metadata": None}
    assert again.weights().keys() == sae.weights().keys()
    for name, tensor in sae.weights().items():
        assert torch.equal(again.weights()[name], tensor)
    (folder / "conf.yaml").write_text("llm: {dimin: 8}\nsae: {exp_factor: 4}\n")
    with pytest.raises(SAEFormatError, match=r"conf\.yaml: sae\.n_heads: missing"):
        read_sae_folder(folder)


def test_a_clt_layer_warns_that_its_reconstruction_is_none(tmp_path: Path) -> None:
    case = folders.circuit_tracer_clt_layer(tmp_path)
    with pytest.warns(UserWarning, match="feature activations, not for reconstruction"):
        read_sae_folder(case.path)


def test_origin_fills_what_files_leave_out_and_overrides_what_they_say(tmp_path: Path) -> None:
    case = folders.gemma_scope(tmp_path)
    bare = tmp_path / "mine"
    bare.mkdir()
    (case.path / "params.npz").rename(bare / "params.npz")
    cfg = read_sae_folder(bare).cfg
    assert (cfg.hook_name, cfg.model_name) == (None, None)
    origin = Origin(
        repo="google/gemma-scope-9b-it-res",
        path="layer_20/width_16k/average_l0_14",
        model_name="not-this-one",
        neuronpedia_id="gemma-2-9b-it/20-gemmascope-res-16k",
        config_overrides={"context_size": 77, "normalize_activations": "layer_norm"},
    )
    cfg = read_sae_folder(bare, origin=origin).cfg
    assert cfg.hook_name == "blocks.20.hook_resid_post"
    assert cfg.model_name == "gemma-2-9b-it"  # as the repository's name tells
    assert cfg.neuronpedia_id == "gemma-2-9b-it/20-gemmascope-res-16k"
    assert (cfg.context_size, cfg.normalize_activations) == (77, "layer_norm")
    cached = tmp_path / "models--google--gemma-scope-2-1b-pt" / "snapshots" / "0f3c"
    plain = folders.gemma_scope_2(tmp_path, config=False).path
    for site, hook in (("resid_post_all", "hook_resid_post"), ("mlp_out", "hook_mlp_out")):
        moved = cached / site / "layer_7_width_16k_l0_big"
        moved.parent.mkdir(parents=True)
        plain.rename(moved)
        assert read_sae_folder(moved).cfg.hook_name == f"blocks.7.{hook}"
        moved.rename(plain)
    named = tmp_path / "blocks.4.hook_mlp_out"
    bare.rename(named)
    assert read_sae_folder(named).cfg.hook_name == "blocks.4.hook_mlp_out"
    with pytest.raises(SAEFormatError, match=r"config_overrides\.hook: not a key"):
        read_sae_folder(named, origin=Origin(config_overrides={"hook": "x"}))
