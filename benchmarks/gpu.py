"""On a GPU, in process and in bfloat16: Encode and Steer against what the device can do.

Models of the shapes of Gemma 2 2B and Llama 3.1 8B with random weights, made on the device, and
jumprelu SAEs of 16k and 65k features. The ceilings are measured in the same run: a copy within
the device's memory, and a product of two 8192 × 8192 matrices. On a CPU
the same runs with tiny shapes and without bars, as a rehearsal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config, LlamaConfig

from benchmarks.harness import Bar, Options, Outcome, Report
from saekit_core.assets import default_model_dir
from saekit_core.lm.generation import Generation, StopRules
from saekit_core.lm.interventions import AffineClip, BoundSAE, FeatureEdit, Interventions, Watch
from saekit_core.lm.model import LanguageModel
from saekit_core.lm.placing import bind_sae
from saekit_core.lm.sampling import SamplingParams
from saekit_core.lm.stepper import Stepper
from saekit_core.lm.tokenizer import LMTokenizer
from saekit_core.sae import SAE, SAEConfig, SAEMetadata, encode_sparse

TOKENS: Final = 8192
"""Of an Encode batch."""
NEW_TOKENS: Final = 128
STREAMS: Final = (1, 8, 64)
L0: Final = 64


@dataclass(frozen=True)
class Shape:
    """A model and the features of its SAEs."""

    name: str
    config: Any
    layer: int
    widths: tuple[int, ...]


def shapes(device: str) -> tuple[Shape, ...]:
    """The models; tiny ones on a CPU."""
    if device == "cpu":
        tiny = {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "vocab_size": 2048,
        }
        return (
            Shape("gemma-2 tiny", Gemma2Config(**tiny), 2, (512,)),
            Shape("llama tiny", LlamaConfig(**tiny), 2, (512,)),
        )
    gemma = Gemma2Config()  # its defaults are those of the 9B model but for what is named here
    gemma.update({"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26})
    gemma.update({"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256})
    llama = LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128_256,
        max_position_embeddings=8192,
        rope_theta=500_000.0,
    )
    return (
        Shape("gemma-2-2b", gemma, 12, (16_384, 65_536)),
        Shape("llama-3.1-8b", llama, 16, (16_384, 65_536)),
    )


def measure(options: Options) -> Iterator[Report]:
    """One report of the ceilings, and two of each model."""
    bench = _Bench(options)
    yield bench.ceilings()
    for shape in shapes(options.device):
        model = _model(shape, bench.device, bench.dtype)
        for width in shape.widths:
            sae = bind_sae(model, _sae(model, shape.layer, width))
            yield bench.encode(shape, model, sae)
        yield bench.steer(shape, model, sae)
        del model, sae
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()


class _Bench:
    """Measures on one device; the ceilings first."""

    def __init__(self, options: Options) -> None:
        self.device = torch.device(options.device)
        self.dtype = torch.float32 if self.device.type == "cpu" else torch.bfloat16
        self._runs = options.runs
        self._bytes_per_s = self._flops_per_s = 0.0

    def ceilings(self) -> Report:
        """Bytes per second that a copy reads and writes, and operations of a large product."""
        n = 512 if self.device.type == "cpu" else 8192
        a = torch.randn(n, n, device=self.device, dtype=self.dtype)
        source = torch.empty(n * n * 8, device=self.device, dtype=torch.uint8)
        target = torch.empty_like(source)
        product = self._seconds(lambda: a @ a)
        copy = self._seconds(lambda: target.copy_(source))
        self._flops_per_s = 2 * n**3 / product.median
        self._bytes_per_s = 2 * source.nbytes / copy.median
        return self._report(
            "0-ceilings",
            "what the device can do",
            "s",
            {f"product of two {n}²": product, f"copy of {source.nbytes >> 20} MiB": copy},
            notes=(f"{self._flops_per_s / 1e12:.3g} TFLOP/s, {self._bytes_per_s / 1e9:.4g} GB/s",),
        )

    def encode(self, shape: Shape, model: LanguageModel, sae: BoundSAE) -> Report:
        """The SAE's part of a batch of `TOKENS`, and the whole of it with the model's forward."""
        d_in, d_sae = sae.sae.cfg.d_in, sae.sae.cfg.d_sae
        tokens = torch.randint(0, model.d_vocab, (TOKENS // 512, 512), device=self.device)
        seen: list[torch.Tensor] = []
        model.forward(tokens, taps={sae.hook: lambda h: seen.append(h.flatten(0, 1))})
        x = seen[0]
        p = torch.empty(len(x), d_sae, device=self.device, dtype=self.dtype)
        product = self._seconds(lambda: torch.addmm(sae.sae.b_enc, x, sae.sae.W_enc, out=p))
        encode = self._seconds(lambda: encode_sparse(sae.sae, x))
        whole = self._seconds(
            lambda: model.forward(
                tokens, taps={sae.hook: lambda h: _nothing(encode_sparse(sae.sae, h.flatten(0, 1)))}
            )
        )
        ideal = 2 * len(x) * d_in * d_sae / self._flops_per_s
        return self._report(
            f"1-encode-{shape.name}-{d_sae}",
            f"{len(x):,} tokens of {shape.name} to {d_sae:,} features",
            "s",
            {"product alone": product, "Encode": encode, "forward and Encode": whole},
            Bar("share of the product's ceiling", ideal / encode.median, least=0.60),
            Bar("compaction's share of Encode", 1 - product.median / encode.median, most=0.15),
        )

    def steer(self, shape: Shape, model: LanguageModel, sae: BoundSAE) -> Report:
        """Streams with an edit each and a watched feature, and without."""
        stepper = Stepper(model, model.new_slots(max(STREAMS), 2 * NEW_TOKENS))
        figures = {
            f"{n} streams": self._rate(lambda n=n: _generate(model, stepper, sae, n))
            for n in STREAMS
        }
        plain = self._rate(lambda: _generate(model, stepper, sae, 8, edited=False))
        one, eight, many = (outcome.median for outcome in figures.values())
        limit = self._bytes_per_s / model.parameter_bytes
        return self._report(
            f"2-steer-{shape.name}",
            f"steered streams of {shape.name}, one feature watched",
            "tokens/s",
            {**figures, "8 streams, unsteered": plain},
            Bar("1 stream ÷ weights read once a token", one / limit, least=0.60),
            Bar("8 streams ÷ 1", eight / one, least=6),
            Bar("64 streams ÷ 1", many / one, least=25),
            Bar("steered ÷ unsteered, 8 streams", eight / plain.median, least=0.97),
        )

    def _report(
        self,
        row: str,
        question: str,
        unit: str,
        outcomes: dict[str, Outcome],
        *bars: Bar,
        notes: tuple[str, ...] = (),
    ) -> Report:
        kept = bars if self.device.type == "cuda" else ()
        return Report(
            row=f"gpu-{row}",
            question=question,
            unit=unit,
            outcomes=outcomes,
            bars=kept,
            notes=notes,
        )

    def _seconds(self, work: Callable[[], object]) -> Outcome:
        seconds = []
        for turn in range(self._runs + 2):
            self._wait()
            began = time.perf_counter()
            work()
            self._wait()
            if turn >= 2:
                seconds.append(time.perf_counter() - began)
        return Outcome.of(seconds)

    def _rate(self, work: Callable[[], int]) -> Outcome:
        rates = []
        for turn in range(self._runs + 1):
            self._wait()
            began = time.perf_counter()
            count = work()
            self._wait()
            if turn:
                rates.append(count / (time.perf_counter() - began))
        return Outcome.of(rates)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _nothing(_: object) -> None:
    """A tap that only reads returns nothing."""


def _model(shape: Shape, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    torch.manual_seed(0)
    with torch.device(device):
        hf = AutoModelForCausalLM.from_config(shape.config, dtype=dtype)
    hf = hf.eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(default_model_dir())
    vocab = int(hf.get_input_embeddings().weight.shape[0])
    return LanguageModel(
        hf, LMTokenizer(tokenizer, d_vocab=vocab, eos_ids=()), name=shape.name, revision="random"
    )


def _sae(model: LanguageModel, layer: int, d_sae: int) -> SAE:
    d_in, device = model.d_model, model.device
    hook = f"blocks.{layer}.hook_resid_pre"
    generator = torch.Generator(device).manual_seed(1)
    seen: list[torch.Tensor] = []
    tokens = torch.randint(0, model.d_vocab, (4, 256), device=device, generator=generator)
    taps = {model.hook_point(hook): lambda h: seen.append(h.flatten(0, 1))}
    model.forward(tokens, taps=taps)
    W_enc = torch.randn(d_in, d_sae, device=device, generator=generator) / d_in**0.5
    x = seen[0].float()
    rank = int(len(x) * (1 - L0 / d_sae))
    parts = [
        (x @ part).kthvalue(min(rank + 1, len(x)), dim=0).values for part in W_enc.split(4096, 1)
    ]
    cfg = SAEConfig(
        "jumprelu",
        d_in,
        d_sae,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(device),
        apply_b_dec_to_input=False,
        metadata=SAEMetadata(hook_name=hook, prepend_bos=True),
    )
    state = {
        "W_enc": W_enc,
        "W_dec": W_enc.mT.contiguous(),
        "b_enc": torch.zeros(d_sae, device=device),
        "b_dec": torch.zeros(d_in, device=device),
        "threshold": torch.cat(parts).clamp(min=1e-3),
    }
    return SAE.from_state(cfg, {name: t.to(model.dtype) for name, t in state.items()})


def _generate(
    model: LanguageModel, stepper: Stepper, sae: BoundSAE, n: int, *, edited: bool = True
) -> int:
    """Tokens of n streams, each with an edit of its own."""
    prompt = model.tokenizer.encode_text("One day a little girl went to the park.", True)
    streams = [
        Generation(
            model.tokenizer,
            prompt,
            StopRules(NEW_TOKENS, (), True),
            SamplingParams(temperature=0),
            Interventions(
                edits=(FeatureEdit(sae, 7 * i + 1, AffineClip.add(2.0)),) if edited else ()
            ),
            watch=(Watch(sae, 7 * i + 2),) if edited else (),
            slot=i,
        )
        for i in range(n)
    ]
    stepper.prefill([(stream, stream.n_pending) for stream in streams])
    while running := [stream for stream in streams if stream.finish is None]:
        stepper.decode(running)
    return n * NEW_TOKENS
