"""Transcoders of circuit-tracer."""

from __future__ import annotations

from pathlib import Path

from tests.core.sae.foreign.case import (
    D_IN,
    D_SAE,
    Case,
    Draw,
    K,
    jump,
    relu,
    save_tensors,
    top_k,
)
from torch import Tensor


def circuit_tracer(root: Path, *, kind: str = "relu", skip: bool = False) -> Case:
    draw = Draw(12)
    W_enc, W_dec = draw("W_enc", D_SAE, D_IN).T, draw("W_dec", D_SAE, D_IN)
    b_enc, b_dec = draw("b_enc", D_SAE), draw("b_dec", D_IN)
    W_skip = draw("W_skip", D_IN, D_IN) if skip else None
    if kind == "jump_relu":
        threshold = draw("activation_function.threshold", D_SAE, positive=True)
    folder = root / "qwen3-4b-transcoders"
    file = folder / "layer_9.safetensors"
    save_tensors(draw.tensors, file)
    save_tensors(draw.tensors, folder / "layer_10.safetensors")
    (folder / "config.yaml").write_text(
        "model_name: Qwen/Qwen3-4B\nmodel_kind: transcoder_set\n"
        "feature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n"
        + (f"activation: topk\nk: {K}\n" if kind == "topk" else "")
    )
    (folder / "wanb-config.yaml").write_text(
        f"batch_size:\n  desc: null\n  value: 4096\n"
        f"d_model: {{value: {D_IN}}}\nd_feature: {{value: {D_SAE}}}\n"
    )

    def encode(x: Tensor) -> Tensor:
        p = x @ W_enc + b_enc
        if kind == "topk":
            return top_k(p, K)
        return jump(p, threshold) if kind == "jump_relu" else relu(p)

    def decode(acts: Tensor, x: Tensor) -> Tensor:
        y = acts @ W_dec + b_dec
        return y if W_skip is None else y + x @ W_skip.T

    prefix = {"relu": "", "jump_relu": "jumprelu_", "topk": "topk_"}[kind]
    return Case(
        file,
        file,
        "W_enc",
        encode,
        decode,
        {
            "architecture": f"{prefix}{'skip_' if skip else ''}transcoder",
            "model_name": "Qwen/Qwen3-4B",
            "hook_name": "blocks.9.mlp.hook_in",
            "hook_name_out": "blocks.9.mlp.hook_out",
            "context_size": 4096,
        },
    )


def circuit_tracer_clt_layer(root: Path, *, jump_relu: bool = False) -> Case:
    draw = Draw(13)
    W_enc, b_enc = draw("W_enc_2", D_SAE, D_IN).T, draw("b_enc_2", D_SAE)
    b_dec = draw("b_dec_2", D_IN)
    threshold = draw("threshold_2", D_SAE, positive=True) if jump_relu else 0.0
    folder = root / "clt-gemma-2-2b-2.5M"
    save_tensors(draw.tensors, folder / "W_enc_2.safetensors")
    decoder = Draw(14)
    W_dec = decoder("W_dec_2", D_SAE, 3, D_IN)
    save_tensors(decoder.tensors, folder / "W_dec_2.safetensors")
    (folder / "config.yaml").write_text(
        "model_name: google/gemma-2-2b\nmodel_kind: cross_layer_transcoder\n"
        "feature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"
    )
    return Case(
        folder / "W_enc_2.safetensors",
        folder / "W_enc_2.safetensors",
        "W_enc_2",
        lambda x: jump(x @ W_enc + b_enc, threshold),
        lambda a, _x: a @ W_dec.sum(dim=1) + b_dec,
        {
            "architecture": "jumprelu_transcoder" if jump_relu else "transcoder",
            "model_name": "google/gemma-2-2b",
            "hook_name": "blocks.2.hook_resid_mid",
            "hook_name_out": "blocks.2.hook_mlp_out",
        },
    )
