"""sae-lens' side of ``benchmarks.training``, in its own environment; it speaks as ``train_worker``.

A Llama folder becomes a ``SAETransformerBridge``, a GPT-2 one a ``HookedSAETransformer`` with
converted weights: both are ways to run it on a local folder.
"""

import json
import logging
import sys
import tempfile
import time

import numpy as np
import torch
from datasets import Dataset
from sae_lens import LanguageModelSAERunnerConfig, LoggingConfig, SAETrainingRunner
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from sae_lens.registry import get_sae_training_class
from sae_lens.training.sae_trainer import SAETrainer
from sae_lens_encode import load_model as load_gpt2
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from worker_io import answers, peak_bytes, reset_peak


def load_model(folder):
    if AutoConfig.from_pretrained(folder).model_type == "gpt2":
        return load_gpt2(folder)
    return SAETransformerBridge.boot_transformers(
        folder,
        device="cpu",
        hf_model=AutoModelForCausalLM.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
    )


def config(settings, job, folder):
    sae = dict(settings.pop("sae"))
    # Contexts there, runs of the model here.
    settings["n_batches_in_buffer"] *= settings["store_batch_size_prompts"]
    _, cls = get_sae_training_class(sae.pop("architecture"))
    return LanguageModelSAERunnerConfig(
        sae=cls(**sae),
        **settings,
        hook_name=job["hook"],
        is_dataset_tokenized=True,
        # The scale is estimated from one batch here too.
        n_batches_for_norm_estimate=1,
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=folder,
        verbose=False,
    )


def main():
    answer = answers()
    logging.disable(logging.WARNING)
    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    model = load_model(job["model"])
    rows = np.load(job["contexts"])[job["held_out"] :]
    dataset = Dataset.from_dict({"tokens": rows.tolist()})
    stamps = []
    step = SAETrainer.step

    def stamped(self, batch):
        stamps.append(time.perf_counter())
        return step(self, batch)

    SAETrainer.step = stamped
    answer({})
    for line in sys.stdin:
        wanted = json.loads(line)
        stamps.clear()
        reset_peak()
        began = time.perf_counter()
        torch.manual_seed(wanted["settings"]["seed"])
        with tempfile.TemporaryDirectory() as unwanted:
            cfg = config(wanted["settings"], job, wanted["folder"] or unwanted)
            runner = SAETrainingRunner(cfg, override_dataset=dataset, override_model=model)
            runner.run()
        answer(
            {
                "tokens": cfg.training_tokens,
                "seconds": time.perf_counter() - began,
                "step_seconds": stamps[-1] - stamps[0],
                "steps": len(stamps) - 1,
                "peak": peak_bytes(),
            }
        )


if __name__ == "__main__":
    main()
