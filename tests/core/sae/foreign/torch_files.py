"""SAEs that are one file of ``torch.save``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tests.core.sae.foreign.case import (
    D_IN,
    D_SAE,
    Case,
    Draw,
    K,
    relu,
    save_torch,
    top_k,
    write_json,
)
from torch import Tensor


def openai(root: Path, *, activation: str = "TopK") -> Case:
    draw = Draw(7)
    W_enc, W_dec = draw("encoder.weight", D_SAE, D_IN).T, draw("decoder.weight", D_IN, D_SAE).T
    pre, latent = draw("pre_bias", D_IN), draw("latent_bias", D_SAE)
    normalize = activation == "TopK"
    values: dict[str, Any] = {
        **draw.tensors,
        "stats_last_nonzero": torch.zeros(D_SAE, dtype=torch.long),
        "activation": activation,
        "activation_state_dict": {"k": K, "postact_fn": "ReLU"} if normalize else {},
    }
    version = "_v5_32k" if normalize else "_v4"
    file = root / f"resid_delta_mlp{version}" / "autoencoders" / "8.pt"
    save_torch(values, file)

    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean(dim=1, keepdim=True)
        return mean, (x - mean).std(dim=1, keepdim=True)

    def encode(x: Tensor) -> Tensor:
        if not normalize:
            return relu((x - pre) @ W_enc + latent)
        mean, std = statistics(x)
        return top_k(((x - mean) / (std + 1e-5) - pre) @ W_enc + latent, K)

    def decode(acts: Tensor, x: Tensor) -> Tensor:
        y = acts @ W_dec + pre
        if not normalize:
            return y
        mean, std = statistics(x)
        return y * std + mean

    return Case(
        file,
        file,
        "encoder.weight",
        encode,
        decode,
        {
            "architecture": "topk" if normalize else "standard",
            "model_name": "gpt2-small",
            "hook_name": "blocks.8.hook_mlp_out",
            "prepend_bos": None,
        },
    )


def goodfire(root: Path) -> Case:
    draw = Draw(8)
    W_enc = draw("encoder_linear.weight", D_SAE, D_IN).T
    W_dec = draw("decoder_linear.weight", D_IN, D_SAE).T
    b_enc, b_dec = draw("encoder_linear.bias", D_SAE), draw("decoder_linear.bias", D_IN)
    file = root / "Goodfire" / "Llama-3.1-8B-Instruct-SAE-l19.pth"
    save_torch(draw.tensors, file)
    return Case(
        file,
        file,
        "decoder_linear.weight",
        lambda x: relu(x @ W_enc + b_enc),
        lambda a, _x: a @ W_dec + b_dec,
        {
            "model_name": "meta-llama/Llama-3.1-8B-Instruct",
            "hook_name": "blocks.19.hook_resid_post",
            "dtype": "float32",
        },
    )


def deepseek_r1(root: Path, *, dtype: torch.dtype = torch.float32) -> Case:
    draw = Draw(9, dtype)
    W_enc, W_dec = draw("encoder.weight", D_SAE, D_IN).T, draw("decoder.weight", D_IN, D_SAE).T
    b_enc, b_dec = draw("encoder.bias", D_SAE), draw("decoder.bias", D_IN)
    file = root / "qresearch" / "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"
    save_torch(draw.tensors, file)
    return Case(
        file,
        file,
        "decoder.weight",
        lambda x: relu(x @ W_enc + b_enc),
        lambda a, _x: a @ W_dec + b_dec,
        {
            "model_name": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
            "hook_name": "blocks.19.hook_resid_post",
            "dtype": str(dtype).removeprefix("torch."),
            "context_size": 1024,
        },
    )


def qwen_scope(root: Path) -> Case:
    draw = Draw(10)
    W_enc, W_dec = draw("W_enc", D_SAE, D_IN).T, draw("W_dec", D_IN, D_SAE).T
    b_enc, b_dec = draw("b_enc", D_SAE), draw("b_dec", D_IN)
    file = root / f"SAE-Res-Qwen3-1.7B-Base-W32K-L0_{K}" / "layer21.sae.pt"
    save_torch(draw.tensors, file)
    return Case(
        file,
        file,
        "W_dec",
        lambda x: top_k(x @ W_enc + b_enc, K),
        lambda a, _x: a @ W_dec + b_dec,
        {
            "architecture": "topk",
            "k": K,
            "model_name": "Qwen/Qwen3-1.7B-Base",
            "hook_name": "blocks.21.hook_resid_post",
            "apply_b_dec_to_input": False,
        },
    )


def connor_rob_hook_z(root: Path) -> Case:
    draw = Draw(11)
    W_enc, W_dec = draw("W_enc", D_IN, D_SAE), draw("W_dec", D_SAE, D_IN)
    b_enc, b_dec = draw("b_enc", D_SAE), draw("b_dec", D_IN)
    file = root / "gpt2-small_L5_Hcat_z_lr1.20e-03_l11.80e+00_v9.pt"
    save_torch(draw.tensors, file)
    write_json(
        root / "gpt2-small_L5_Hcat_z_lr1.20e-03_l11.80e+00_v9_cfg.json",
        {"act_name": "blocks.5.attn.hook_z", "act_size": D_IN, "dict_size": D_SAE, "seed": 49},
    )
    return Case(
        file,
        file,
        "W_enc",
        lambda x: relu((x - b_dec) @ W_enc + b_enc),
        lambda a, _x: a @ W_dec + b_dec,
        {
            "model_name": "gpt2-small",
            "hook_name": "blocks.5.attn.hook_z",
            "reshape_activations": "hook_z",
            "context_size": 128,
        },
    )
