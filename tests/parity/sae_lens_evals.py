"""The peer's side of the evaluations: what sae-lens' `run_evals` says, and its store's tokens.

``python sae_lens_evals.py FOLDER`` reads what `tests.trainer.eval_cases` wrote there, and writes
``figures.json``.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from sae_lens import SAE, ActivationsStore, HookedSAETransformer
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import load_file
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import AutoTokenizer, GPT2LMHeadModel


def load_model(folder: Path) -> HookedSAETransformer:
    """A GPT-2 folder as a HookedTransformer with its weights as they are."""
    hf = GPT2LMHeadModel.from_pretrained(folder)
    c = hf.config
    cfg = HookedTransformerConfig(
        n_layers=c.n_layer,
        d_model=c.n_embd,
        d_head=c.n_embd // c.n_head,
        n_heads=c.n_head,
        n_ctx=c.n_positions,
        d_vocab=c.vocab_size,
        act_fn=c.activation_function,
        eps=c.layer_norm_epsilon,
        normalization_type="LN",
        device="cpu",
    )
    model = HookedSAETransformer(cfg, tokenizer=AutoTokenizer.from_pretrained(folder))
    model.load_and_process_state_dict(
        convert_gpt2_weights(hf, cfg),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.eval()


def figures(model: HookedSAETransformer, sae: SAE[Any], tokens: torch.Tensor) -> dict[str, Any]:
    """Every figure of `run_evals` on `tokens`, in one batch."""
    store = ActivationsStore.from_sae(
        model,
        sae,
        Dataset.from_dict({"tokens": tokens.tolist()}),
        context_size=tokens.shape[1],
        store_batch_size_prompts=len(tokens),
    )
    scalars, featurewise = run_evals(
        sae=sae,
        activation_store=store,
        model=model,
        activation_scaler=ActivationScaler(),
        eval_config=get_eval_everything_config(len(tokens), 1, 1),
    )
    density = featurewise["feature_density"]
    return {**{k: v for group in scalars.values() for k, v in group.items()}, "density": density}


def store_tokens(model: HookedSAETransformer, sae: SAE[Any], case: dict[str, Any]) -> Any:
    """The token ids of the first batch of a store on text."""
    dataset = Dataset.from_dict({"text": case["texts"]})
    store = ActivationsStore.from_sae(model, sae, dataset, **case["options"])
    return store.get_batch_tokens().tolist()


def main() -> None:
    folder = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    model = load_model(folder / "model")
    cases = json.loads((folder / "cases.json").read_text())
    tokens = load_file(folder / "tokens.safetensors")["tokens"]
    saes = {name: SAE.load_from_disk(folder / "saes" / name) for name in cases["saes"]}
    first = next(iter(saes.values()))
    result = {
        "versions": {name: version(name) for name in ("sae-lens", "transformer-lens", "torch")},
        "inputs": cases["inputs"],
        "figures": {name: figures(model, sae, tokens) for name, sae in saes.items()},
        "store_tokens": {
            name: store_tokens(model, first, case) for name, case in cases["stores"].items()
        },
    }
    (folder / "figures.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
