"""Gemma Scope and Llama Scope."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from tests.core.sae.foreign.case import (
    D_IN,
    D_OUT,
    D_SAE,
    Case,
    Draw,
    jump,
    relu,
    save_npz,
    save_tensors,
    write_json,
)
from torch import Tensor

from saekit_core.sae import Origin


def gemma_scope(
    root: Path, *, site: str = "res", names: str = "W", d_in: int = D_IN, layer: int = 12
) -> Case:
    draw = Draw(0)
    W_enc = draw(f"{names}_enc", d_in, D_SAE)
    W_dec = draw(f"{names}_dec", D_SAE, d_in)
    b_enc, b_dec = draw("b_enc", D_SAE), draw("b_dec", d_in)
    threshold = draw("threshold", D_SAE, positive=True)
    embedding = site == "embedding"
    repo = f"gemma-scope-2b-pt-{'res' if embedding else site}"
    where = "embedding" if embedding else f"layer_{layer}"
    path = root / repo / where / "width_16k" / "average_l0_71"
    save_npz(draw.tensors, path / "params.npz")
    scale = math.sqrt(d_in) if embedding else 1.0
    hook = {
        "res": f"blocks.{layer}.hook_resid_post",
        "mlp": f"blocks.{layer}.hook_mlp_out",
        "att": f"blocks.{layer}.attn.hook_z",
        "embedding": "hook_embed",
    }[site]
    return Case(
        path,
        path / "params.npz",
        f"{names}_enc",
        lambda x: jump(x / scale @ W_enc + b_enc, threshold),
        lambda a, _x: (a @ W_dec + b_dec) * scale,
        {
            "architecture": "jumprelu",
            "model_name": "gemma-2-2b",
            "hook_name": hook,
            "context_size": 1024,
            "reshape_activations": "hook_z" if site == "att" else "none",
        },
    )


def gemma_scope_transcoder(root: Path) -> Case:
    draw = Draw(1)
    W_enc, W_dec = draw("W_enc", D_IN, D_SAE), draw("W_dec", D_SAE, D_IN)
    b_enc, b_dec = draw("b_enc", D_SAE), draw("b_dec", D_IN)
    threshold = draw("threshold", D_SAE, positive=True)
    path = root / "gemma-scope-2b-pt-transcoders" / "layer_3" / "width_16k" / "average_l0_76"
    save_npz(draw.tensors, path / "params.npz")
    return Case(
        path,
        path / "params.npz",
        "W_dec",
        lambda x: jump(x @ W_enc + b_enc, threshold),
        lambda a, _x: a @ W_dec + b_dec,
        {
            "architecture": "jumprelu_transcoder",
            "hook_name": "blocks.3.ln2.hook_normalized",
            "hook_name_out": "blocks.3.hook_mlp_out",
            "model_name": "gemma-2-2b",
        },
    )


def gemma_scope_2(root: Path, *, site: str = "resid_post", config: bool = True) -> Case:
    draw = Draw(2)
    transcodes, affine = site.startswith("transcoder"), site.endswith("affine")
    d_out = D_OUT if transcodes else D_IN
    W_enc, W_dec = draw("w_enc", D_IN, D_SAE), draw("w_dec", D_SAE, d_out)
    b_enc, b_dec = draw("b_enc", D_SAE), draw("b_dec", d_out)
    threshold = draw("threshold", D_SAE, positive=True)
    skip = draw("affine_skip_connection", D_IN, d_out) if affine else None
    hf = {
        "resid_post": ("model.layers.7.output", "blocks.7.hook_resid_post"),
        "attn_out": ("model.layers.7.self_attn.o_proj.input", "blocks.7.attn.hook_z"),
        "mlp_out": (
            "model.layers.7.post_feedforward_layernorm.output",
            "blocks.7.hook_mlp_out",
        ),
    }.get(site, ("model.layers.7.pre_feedforward_layernorm.output", "blocks.7.mlp.hook_in"))
    folder = f"layer_7_width_16k_l0_big{'_affine' if affine else ''}"
    path = root / "gemma-scope-2-4b-pt" / site.removesuffix("_affine") / folder
    save_tensors(draw.tensors, path / "params.safetensors")
    values: dict[str, Any] = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-v3-4b-pt",
        "hf_hook_point_in": hf[0],
        "l0": 60,
        "width": D_SAE,
    }
    if transcodes:
        values["hf_hook_point_out"] = "model.layers.7.post_feedforward_layernorm.output"
        values["affine_connection"] = affine
    if config:
        write_json(path / "config.json", values)

    def decode(acts: Tensor, x: Tensor) -> Tensor:
        y = acts @ W_dec + b_dec
        return y if skip is None else y + x @ skip

    kind = "jumprelu"
    if transcodes:
        kind = "jumprelu_skip_transcoder" if affine else "jumprelu_transcoder"
    return Case(
        path,
        path / "params.safetensors",
        "w_enc",
        lambda x: jump(x @ W_enc + b_enc, threshold),
        decode,
        {
            "architecture": kind,
            "model_name": "google/gemma-3-4b-pt",
            "hook_name": hf[1],
            "hook_name_out": "blocks.7.hook_mlp_out" if transcodes else None,
            "d_out": d_out,
        },
    )


def llama_scope(
    root: Path, *, transcodes: bool = False, norms: bool = True, dtype: torch.dtype = torch.float32
) -> Case:
    draw = Draw(3, dtype)
    d_out = D_OUT if transcodes else D_IN
    W_enc = draw("encoder.weight", D_SAE, D_IN).T
    W_dec = draw("decoder.weight", d_out, D_SAE).T
    b_enc, b_dec = draw("encoder.bias", D_SAE), draw("decoder.bias", d_out)
    path = root / "Llama3_1-8B-Base-L8R-8x"
    save_tensors(draw.tensors, path / "checkpoints" / "final.safetensors")
    hook = "blocks.8.ln2.hook_normalized" if transcodes else "blocks.8.hook_resid_post"
    average_in, average_out = 1.5, 0.4 if transcodes else 1.5
    threshold = 0.25
    write_json(
        path / "hyperparams.json",
        {
            "d_model": D_IN,
            "d_sae": D_SAE,
            "act_fn": "jumprelu",
            "jump_relu_threshold": threshold,
            "norm_activation": "dataset-wise",
            "dataset_average_activation_norm": {"in": average_in, "out": average_out},
            "hook_point_in": hook,
            "hook_point_out": "blocks.8.hook_mlp_out" if transcodes else hook,
            "use_decoder_bias": True,
            "apply_decoder_bias_to_pre_encoder": False,
            "top_k": 50,
            **({"sparsity_include_decoder_norm": True} if norms else {}),
        },
    )
    s_in, s_out = math.sqrt(D_IN) / average_in, math.sqrt(D_IN) / average_out

    def encode(x: Tensor) -> Tensor:
        # lm-saes: scale to the raw activations, bring decoder rows to unit norm, then compare.
        p = (x * s_in) @ W_enc + b_enc
        raw = p / s_in
        if norms:
            raw = raw * (W_dec * s_in / s_out).norm(dim=1)
        return relu(p) * (raw > threshold)

    return Case(
        path,
        path / "checkpoints" / "final.safetensors",
        "encoder.weight",
        encode,
        lambda a, _x: (a @ W_dec + b_dec) / s_out,
        {
            "architecture": "jumprelu_transcoder" if transcodes else "jumprelu",
            "model_name": "meta-llama/Llama-3.1-8B",
            "hook_name": hook,
            "normalize_activations": "none",
        },
    )


def llama_scope_r1_distill(root: Path, *, recorded: bool = True, norms: bool = True) -> Case:
    draw = Draw(4)
    W_enc = draw("encoder.weight", 2 * D_IN, D_IN).T
    W_dec = draw("decoder.weight", D_IN, 2 * D_IN).T
    b_enc, b_dec = draw("encoder.bias", 2 * D_IN), draw("decoder.bias", D_IN)
    log_threshold = draw("log_jumprelu_threshold", 2 * D_IN)
    hook, average = "blocks.15.hook_resid_post", 2.0
    if recorded:
        draw.tensors[f"dataset_average_activation_norm.{hook}"] = torch.tensor(average)
    path = root / "Llama-Scope-R1-Distill" / "L15R"
    save_tensors(draw.tensors, path / "sae_weights.safetensors")
    write_json(
        path / "config.json",
        {
            "d_model": D_IN,
            "expansion_factor": 2,
            "act_fn": "jumprelu",
            "norm_activation": "dataset-wise",
            "hook_point_in": hook,
            "hook_point_out": hook,
            "sparsity_include_decoder_norm": norms,
        },
    )
    s = math.sqrt(D_IN) / average

    def encode(x: Tensor) -> Tensor:
        p = (x * s) @ W_enc + b_enc
        score = p * W_dec.norm(dim=1) if norms else p
        return relu(p) * (score > log_threshold.exp())

    return Case(
        path,
        path / "sae_weights.safetensors",
        "encoder.weight",
        encode,
        lambda a, _x: (a @ W_dec + b_dec) / s,
        {"architecture": "jumprelu", "hook_name": hook, "normalize_activations": "none"},
        origin=None if recorded else Origin(norm_scaling_factor=s),
    )
