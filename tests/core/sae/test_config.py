"""Configurations of SAELens 3 to 6 are read, and the v6 layout is written."""

import copy
import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from saekit_core.sae import SAEConfig, SAEFormatError, SAEMetadata
from saekit_core.sae.layout import format_config

V3 = {
    "model_name": "gpt2-small",
    "hook_point": "blocks.8.hook_resid_pre",
    "hook_point_layer": 8,
    "hook_point_head_index": None,
    "dataset_path": "Skylion007/openwebtext",
    "context_size": 128,
    "d_in": 768,
    "d_sae": 24576,
    "dtype": "torch.float32",
    "device": "mps",
    "l1_coefficient": 8e-05,
    "normalize_activations": False,
}
V5 = {
    "architecture": "jumprelu",
    "d_in": 768,
    "d_sae": 1024,
    "activation_fn_str": "relu",
    "activation_fn_kwargs": {},
    "apply_b_dec_to_input": False,
    "finetuning_scaling_factor": False,
    "model_name": "gpt2-small",
    "hook_name": "blocks.3.attn.hook_z",
    "hook_layer": 3,
    "hook_head_index": None,
    "prepend_bos": False,
    "normalize_activations": "layer_norm",
    "dtype": "bfloat16",
    "device": "cuda",
    "neuronpedia_id": "gpt2-small/3-att",
    "model_from_pretrained_kwargs": {"center_writing_weights": True},
    "sae_lens_training_version": "5.1.0",
}
V6 = {
    "architecture": "topk",
    "d_in": 64,
    "d_sae": 256,
    "dtype": "float16",
    "device": "cpu",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "k": 32,
    "rescale_acts_by_decoder_norm": True,
    "metadata": {
        "sae_lens_version": "6.54.0",
        "model_name": "pythia-70m",
        "hook_name": "blocks.2.hook_resid_post",
        "context_size": 512,
        "prepend_bos": True,
        "exclude_special_tokens": [0, 1],
        "seqpos_slice": [None],
        "training_architecture": "topk",
        "a_key_of_tomorrow": {"deep": [1, 2]},
    },
}


def test_flat_v3_configuration_gets_the_defaults_of_its_time() -> None:
    cfg = SAEConfig.from_dict(V3)
    assert (cfg.architecture, cfg.d_in, cfg.d_sae, cfg.dtype) == ("standard", 768, 24576, "float32")
    assert cfg.apply_b_dec_to_input is True
    assert cfg.normalize_activations == "none"
    assert cfg.reshape_activations == "none"
    assert cfg.hook_name == "blocks.8.hook_resid_pre"
    assert cfg.hook_layer == 8
    assert cfg.prepend_bos is True
    assert cfg.activation_fn_str == "relu"
    assert cfg.metadata.extra["l1_coefficient"] == 8e-05


def test_flat_v5_configuration_keeps_what_it_says() -> None:
    cfg = SAEConfig.from_dict(V5)
    assert (cfg.architecture, cfg.dtype) == ("jumprelu", "bfloat16")
    assert cfg.apply_b_dec_to_input is False
    assert cfg.normalize_activations == "layer_norm"
    assert cfg.reshape_activations == "hook_z"
    assert cfg.prepend_bos is False
    assert cfg.neuronpedia_id == "gpt2-small/3-att"
    assert cfg.model_from_pretrained_kwargs == {"center_writing_weights": True}
    assert cfg.metadata.sae_lens_training_version == "5.1.0"


@pytest.mark.parametrize("name", ["activation_fn", "activation_fn_str"])
def test_topk_as_an_activation_function_becomes_the_topk_architecture(name: str) -> None:
    flat = {"d_in": 4, "d_sae": 8, name: "topk", "activation_fn_kwargs": {"k": 3}}
    cfg = SAEConfig.from_dict(flat)
    assert (cfg.architecture, cfg.k) == ("topk", 3)
    assert cfg.activation_fn_str == "topk"
    assert cfg.activation_fn_kwargs == {"k": 3}


@pytest.mark.parametrize(
    ("old", "new"), [(True, "expected_average_only_in"), (False, "none"), (None, "none")]
)
def test_normalisation_as_a_truth_value_is_read(old: bool | None, new: str) -> None:
    cfg = SAEConfig.from_dict({**V3, "normalize_activations": old})
    assert cfg.normalize_activations == new


def test_expansion_factor_stands_in_for_a_missing_width() -> None:
    flat = {key: value for key, value in V3.items() if key != "d_sae"}
    assert SAEConfig.from_dict({**flat, "expansion_factor": 32}).d_sae == 24576


def test_a_hook_point_of_all_layers_is_that_of_the_layer_stated() -> None:
    cfg = SAEConfig.from_dict({**V3, "hook_point": "blocks.{layer}.hook_mlp_out"})
    assert cfg.hook_name == "blocks.8.hook_mlp_out"


def test_v6_configuration_is_written_as_it_was_read() -> None:
    cfg = SAEConfig.from_dict(V6)
    assert cfg.to_dict() == V6
    assert SAEConfig.from_dict(cfg.to_dict()) == cfg
    assert cfg.metadata["a_key_of_tomorrow"] == {"deep": [1, 2]}
    assert cfg.metadata.get("no_such_key", 7) == 7


@pytest.mark.parametrize("flat", [V3, V5])
def test_an_upgraded_configuration_survives_writing_and_reading(flat: dict[str, Any]) -> None:
    cfg = SAEConfig.from_dict(flat)
    again = SAEConfig.from_dict(cfg.to_dict())
    assert again.to_dict() == cfg.to_dict()
    assert again.to_flat_dict() == cfg.to_flat_dict()


def test_reading_leaves_the_given_dictionary_alone() -> None:
    given = copy.deepcopy(V3)
    SAEConfig.from_dict(given)
    assert given == V3


def test_a_stray_k_of_another_architecture_is_kept_as_a_record() -> None:
    cfg = SAEConfig.from_dict({**V6, "architecture": "jumprelu"})
    assert cfg.k is None
    assert cfg.metadata.extra["k"] == 32


def test_flat_dictionary_has_both_generations_of_keys() -> None:
    flat = SAEConfig.from_dict(V6).to_flat_dict()
    assert flat["hook_name"] == flat["metadata"]["hook_name"] == "blocks.2.hook_resid_post"
    assert flat["hook_layer"] == 2
    assert flat["activation_fn_kwargs"] == {"k": 32}


def test_the_device_of_training_is_not_written() -> None:
    cfg = SAEConfig("standard", 4, 8, device="cuda:1")
    assert json.loads(format_config(cfg))["device"] == "cpu"


def test_a_hook_point_outside_the_blocks_has_no_layer() -> None:
    cfg = SAEConfig("standard", 4, 8, metadata=SAEMetadata(hook_name="hook_embed"))
    assert cfg.hook_layer is None


def test_configurations_are_frozen_and_hashable() -> None:
    cfg = SAEConfig.from_dict(V6)
    assert hash(cfg) == hash(SAEConfig.from_dict(V6))
    with pytest.raises(FrozenInstanceError):
        cfg.d_in = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"d_in": "768"}, "d_in"),
        ({"d_in": 768.0}, "d_in"),
        ({"d_in": None}, "d_in"),
        ({"d_sae": -1}, "d_sae"),
        ({"dtype": 32}, "dtype"),
        ({"dtype": "complex64"}, "dtype"),
        ({"activation_fn": "tanh-relu"}, "activation_fn"),
        ({"activation_fn_str": "topk"}, "activation_fn_kwargs.k"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": [3]}, "activation_fn_kwargs"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": "3"}}, "k"),
        ({"architecture": "gated", "activation_fn": "topk"}, "activation_fn"),
        ({"normalize_activations": 3}, "normalize_activations"),
        ({"reshape_activations": "hook_q"}, "reshape_activations"),
        ({"context_size": "128"}, "metadata.context_size"),
        ({"prepend_bos": 1}, "metadata.prepend_bos"),
        ({"hook_point": 8}, "metadata.hook_name"),
        ({"metadata": "gpt2"}, "metadata"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SAEFormatError) as caught:
        SAEConfig.from_dict({**V3, **changes})
    assert caught.value.field == field
    assert field.removeprefix("metadata.") in str(caught.value)
