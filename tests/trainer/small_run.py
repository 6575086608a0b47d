"""The run that tests of parameters vary."""

from saekit_trainer.config import LanguageModelSAERunnerConfig

SMALL = LanguageModelSAERunnerConfig(
    architecture="standard",
    d_sae=96,
    context_size=24,
    train_batch_size_tokens=256,
    store_batch_size_prompts=8,
    training_tokens=256 * 8,
    eval_contexts=6,
    feature_stats_tokens=24 * 8,
)
