"""`RunConfig`: what a training run is apart from its SAEs, by SAELens' names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, fields
from typing import Any, Literal, Self

from saekit_trainer.config_checks import check_run
from saekit_trainer.errors import ConfigError
from saekit_trainer.nested_config import LoggingConfig, logger_values
from saekit_trainer.schedules import SchedulerName
from saekit_trainer.unknown_names import refuse_unknown


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Model, data, optimisation, number types, output and logs of a run.

    A value of None takes the preset of the architecture (`saekit_trainer.presets`) or is read off
    the model.

    Raises:
        ConfigError: an unknown name (the nearest known one is suggested), a value out of range,
            or values that contradict each other.
    """

    model_name: str | None = None
    """Model by Hugging Face name or local folder; without it, the embedded default model."""

    dataset_path: str | None = None
    """Text, or tokens, to train on: .txt files (documents separated by lines <|endoftext|>, if
    any), .jsonl or .parquet files (a path or a glob), a .npy file of token ids, or a Hugging Face
    data set (name or local folder). Without it, the model writes its own text."""
    dataset_split: str = "train"
    """Split of a Hugging Face data set."""
    dataset_column: str | None = None
    """Column or field to read, of text or of token ids; without it the first there is of tokens,
    input_ids, text, content and problem."""
    on_broken_sample: Literal["stop", "skip"] = "stop"
    """Whether a sample that cannot be read ends the run with a message, or is left out and
    counted."""
    use_cached_activations: bool = False
    """Whether the activations are read from disk, where `saekit train cache-activations` put them,
    in an order that is random across all of them."""
    cached_activations_path: str | None = None
    """The folder of those activations."""
    streaming: bool = True
    """Whether a Hugging Face data set is streamed rather than downloaded."""
    context_size: int = 128
    """Tokens per context, BOS included."""
    prepend_bos: bool = True
    """Whether contexts begin with the beginning-of-sequence token, which then also separates
    documents."""
    sequence_separator_token: int | Literal["default", "bos", "eos", "sep"] | None = "default"
    """What stands between documents of text that share a context: a token id, the special token of
    that name, or nothing; by default BOS, or EOS where contexts do not begin with BOS."""
    disable_concat_sequences: bool = False
    """Give each document of text that is long enough one context, and leave out the others."""
    exclude_special_tokens: bool | tuple[int, ...] = False
    """Tokens whose activations are left out of training: all special ones, or these ids. Evaluation
    always leaves out the special ones."""
    seqpos_slice: tuple[int | None, ...] = (None,)
    """Positions of a context whose activations are trained on, as the arguments of slice."""
    self_text_tokens: int = 131_072
    """Tokens of its own text that the model writes at most, where there is no data set; then they
    are used again. With max_seconds, writing ends after a fifth of it at the latest."""
    self_text_temperature: float = 1.0
    """Sampling temperature of that text."""
    training_tokens: int = 2_000_000
    """Activations to train on."""
    max_seconds: float | None = None
    """End the training steps after this wall time, even before training_tokens; the schedules are
    fitted to it."""
    train_batch_size_tokens: int = 1024
    """Activations per training step, of all processes together where torchrun starts several."""
    store_batch_size_prompts: int = 32
    """Contexts per run of the model."""
    n_batches_in_buffer: int = 8
    """Runs of the model that the mixing buffer holds; it is never smaller than two training
    batches."""
    prefetch_llm_batches: int | bool | None = None
    """Runs of the model that a thread does ahead of the training steps that need them; 0 for none.
    The batches are the same. None: 1, but 0 where the model runs on a CPU, whose cores the steps
    need too."""
    eval_contexts: int = 64
    """First contexts of the data set, kept out of training for the evaluation."""
    feature_stats_tokens: int = 32_768
    """Tokens over which density, maximum activation and example snippets of the features are
    taken at the end."""
    seed: int = 42
    """Determines initial weights, the order of the data and the model's own text."""

    lr: float | None = None
    """Peak learning rate of Adam."""
    adam_beta1: float = 0.9
    """Decay of Adam's mean of gradients."""
    adam_beta2: float = 0.999
    """Decay of Adam's mean of squared gradients."""
    lr_scheduler_name: SchedulerName = "constant"
    """Course of the learning rate between warm-up and decay."""
    lr_warm_up_steps: int | None = None
    """Steps of linear warm-up; 2% of the run, at most 1,000, by default."""
    lr_decay_steps: int | None = None
    """Last steps, in which the learning rate falls linearly to lr_end; a fifth of the run by
    default."""
    lr_end: float | None = None
    """Where annealing and decay end; lr/100 by default."""
    n_restart_cycles: int = 1
    """Cosine cycles of cosineannealingwarmrestarts."""
    dead_feature_threshold: float = 1e-8
    """A feature fires on a token where its activation is above this."""
    dead_feature_window: int = 200
    """Steps without firing after which a feature counts as dead."""
    feature_sampling_window: int = 1000
    """Steps over which feature density is reported."""

    shard_features: bool = False
    """Whether the processes that torchrun starts divide each SAE's features among them, for SAEs
    that are too wide for one device, rather than the tokens of each batch. The result is the
    same."""
    device: str = "auto"
    """auto (the fastest there is), cpu, cuda or mps. Of several processes each takes its own
    GPU."""
    dtype: Literal["float32", "float64"] = "float32"
    """Number type of weights and arithmetic in training. For bfloat16 arithmetic on float32 weights
    see autocast."""
    save_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number type of the weights on disk."""
    autocast: bool = False
    """Whether the matrix products of the SAE's steps are done in bfloat16."""
    autocast_lm: bool = False
    """Whether those of the model are."""
    compile: bool = False
    """Both of compile_sae and compile_llm."""
    compile_sae: bool = False
    """Whether torch.compile makes the SAE's forward pass and gradients faster; the first steps then
    take longer."""
    compile_llm: bool = False
    """Whether torch.compile makes the model's blocks before the hook point faster."""
    compilation_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """Mode of torch.compile."""

    output_path: str | None = None
    """Folder to write the finished SAE to; without it and checkpoint_path, it is only returned."""
    checkpoint_path: str | None = None
    """Folder in which the run gets a folder of its own, with the checkpoints as SAE folders named
    by the tokens they have seen, and the finished SAE as final_TOKENS."""
    n_checkpoints: int = 0
    """Checkpoints before the end, evenly spaced in tokens."""
    resume_state_minutes: float = 5.0
    """Minutes from one state to the next, in the folder resume of the run's own under
    checkpoint_path: all that the run needs to go on, and end with the very same weights. They are
    longer where writing one would take more than 2 % of them. Another state is written when the run
    is told to stop, and after the last step."""
    n_resume_states: int = 2
    """The newest states that are kept while the run goes; of a finished one, the last. With 0 none
    is written."""
    resume_from_checkpoint: str | None = None
    """Go on from a state: its folder, or that of its run, or latest, which is the newest under
    checkpoint_path that this run can go on from, if there is one (it begins anew otherwise). The
    configuration has to be the one that the run began with, but for places, logs, device, and
    whatever else leaves the steps done as they are, such as a larger training_tokens before the
    learning rate decays."""
    resume_changes: tuple[str, ...] = ()
    """Fields that may nevertheless differ from there on, such as lr after a run that diverged."""

    log_to_wandb: bool = False
    """Whether metrics go to Weights & Biases."""
    wandb_project: str = "saekit"
    """Project there."""
    wandb_entity: str | None = None
    """User or team there."""
    wandb_id: str | None = None
    """Id of the run there, and name of its folder under checkpoint_path."""
    run_name: str | None = None
    """Name of the run there; ARCHITECTURE-D_SAE-LR-TOKENS by default."""
    wandb_log_frequency: int = 10
    """Steps from one record of the metrics to the next, in every log."""
    eval_every_n_wandb_logs: int = 100
    """Records from one evaluation on held-out contexts (CE loss score, KL) to the next, whichever
    logs there are."""
    eval_every_n_steps: int | None = None
    """The same in steps: wandb_log_frequency × eval_every_n_wandb_logs unless given; 0 for none
    before the end."""
    log_weights_to_wandb: bool = False
    """Whether every folder that is written is also uploaded, as an artifact."""
    log_to_jsonl: bool = True
    """Whether metrics go to metrics.jsonl in the run's folder, if it has one: that under
    checkpoint_path, else output_path."""
    log_to_tensorboard: bool = False
    """Whether metrics go to event files in the folder tensorboard there."""
    prometheus_port: int | None = None
    """Port on which http://…/metrics shows the metrics while the run lasts."""
    prometheus_host: str = "127.0.0.1"
    """Address of the network interface for it; 0.0.0.0 for all."""
    html_report: bool = True
    """Whether the run leaves report.html in its folder, if it has one: curves, densities, example
    snippets."""

    logger: InitVar[LoggingConfig | Mapping[str, Any] | None] = None
    """The logging values by SAELens 6's grouping, instead of their flat names."""

    def __new__(cls, *_: object, **values: object) -> Self:
        """Refuse unknown names with a hint, before the constructor's own TypeError."""
        refuse_unknown(values, cls.parameter_names())
        return super().__new__(cls)

    def __post_init__(self, logger: LoggingConfig | Mapping[str, Any] | None) -> None:
        self._take("dtype", str(self.dtype).removeprefix("torch."))
        for name in ("exclude_special_tokens", "seqpos_slice", "resume_changes"):
            if isinstance(value := getattr(self, name), list):
                self._take(name, tuple(value))
        if logger is not None:
            self._unfold("logger", logger_values(logger))
        check_run(self)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Every flat name that the configuration knows."""
        return tuple(f.name for f in fields(cls))

    @classmethod
    def parameter_names(cls) -> tuple[str, ...]:
        """Every name that the constructor takes."""
        return (*cls.field_names(), "logger")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The configuration of a mapping, such as a TOML file's.

        Raises:
            ConfigError: as the constructor.
        """
        return cls(**values)

    def _unfold(self, group: str, values: Mapping[str, Any]) -> None:
        """Take the values of a nested group over into the flat fields.

        Raises:
            ConfigError: a flat field says something else.
        """
        refuse_unknown(values, self.field_names())
        for name, value in values.items():
            default = type(self).__dataclass_fields__[name].default
            flat = getattr(self, name)
            if flat not in (default, value):
                raise ConfigError(f"{name}: {flat!r} contradicts {value!r} in {group}", field=name)
            self._take(name, value)

    def _take(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
