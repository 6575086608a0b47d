"""`saekit serve`."""

import argparse
import asyncio
import logging
import math
import os
import signal
from pathlib import Path

import uvloop
from rich.console import Console
from rich.logging import RichHandler

from saekit_core.lm.errors import LMError
from saekit_core.sae import SAEError
from saekit_server.config import ServeConfig
from saekit_server.errors import DomainError
from saekit_server.server import Server

_AT_LEAST_1 = (
    "slots",
    "max_length",
    "max_batch_tokens",
    "max_queued_requests",
    "max_queued_tokens",
    "threads",
)
_EPILOG = """\
examples:
  saekit serve                                    the embedded model and its SAEs
  saekit serve --model ./gpt2 --sae-dir ./saes --watch
  saekit serve --model google/gemma-2-2b --dtype bfloat16 \\
      --sae res12=hf://user/repo/layer_12@main --slots 32 --http 0.0.0.0:9090
  saekit serve --model ./gpt2 --manifest saes.toml
"""


def serve(argv: list[str]) -> int:
    """Runs a server until SIGINT or SIGTERM; the exit status."""
    config = parse(argv)
    console = Console(stderr=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        datefmt="%X",
        handlers=[RichHandler(console=console, show_path=False)],
    )
    # These tell of every file and request at INFO.
    for name in ("httpx", "transformer_lens", "grpc"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        # Sixteen streams make a fifth more tokens per second than on asyncio's own loop.
        return uvloop.run(_serve(Server(config), console))
    except (DomainError, LMError, SAEError, OSError) as error:
        console.print(f"[red]saekit serve:[/red] {error}", highlight=False)
        return 1


async def _serve(server: Server, console: Console) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with console.status(f"loading {server.config.model or 'the embedded model'}"):
        starting = asyncio.create_task(server.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            # What is half loaded has nobody to drain for.
            return 130
        try:
            await starting
        except Exception:
            await server.stop()
            raise
    console.print(server.parts.memory.table())
    names = [info.sae_id for info in server.parts.registry.list()]
    console.print(f"{len(names)} SAEs: {', '.join(names) or 'none'}", highlight=False)
    if server.http_address:
        print(f"saekit: metrics on http://{server.http_address}/metrics", flush=True)
    # The line that scripts wait for.
    print(f"saekit: serving on {server.address}", flush=True)
    failed = asyncio.create_task(server.failed.wait())
    await asyncio.wait({stopping, failed}, return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        console.print("[red]the device does not answer[/red]")
        # The stuck thread cannot be joined, which a normal exit would wait for.
        os._exit(1)
    console.print("draining")
    await server.stop()
    failed.cancel()
    return 0


def parse(argv: list[str]) -> ServeConfig:
    """The settings of a command line; exits with status 2 for one that is wrong."""
    d = ServeConfig()
    parser = argparse.ArgumentParser(
        prog="saekit serve",
        description="Serve a language model and its SAEs over gRPC.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("model")
    group.add_argument("--model", metavar="NAME_OR_DIR", help="default: the embedded model")
    group.add_argument("--revision", help="revision of a model on the Hugging Face hub")
    group.add_argument("--device", default=d.device, choices=["auto", "cpu", "cuda", "mps"])
    group.add_argument("--dtype", default=d.dtype, choices=["float32", "bfloat16", "float16"])
    group = parser.add_argument_group("SAEs")
    group.add_argument(
        "--sae",
        dest="saes",
        action="append",
        default=[],
        metavar="[NAME=]SPEC",
        help="load this SAE: release/id, hf://user/repo/path@revision, file:FOLDER; repeatable",
    )
    group.add_argument(
        "--sae-dir", type=Path, metavar="DIR", help="load every SAE below this folder"
    )
    group.add_argument("--watch", action="store_true", help="follow changes of --sae-dir")
    group.add_argument(
        "--manifest", type=Path, metavar="FILE", help="TOML file that the SAEs are to be like"
    )
    group.add_argument(
        "--sae-dtype", choices=["float32", "bfloat16", "float16"], help="default: each its own"
    )
    group = parser.add_argument_group("sizes")
    group.add_argument(
        "--slots", type=int, default=d.slots, metavar="N", help="Steer rows at once (%(default)s)"
    )
    group.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="tokens of an input, generation included (the model's context, at most 4096)",
    )
    group.add_argument(
        "--memory-fraction",
        type=float,
        default=d.memory_fraction,
        metavar="F",
        help="share of the device's memory to plan for (%(default)s)",
    )
    group.add_argument(
        "--max-batch-tokens",
        type=int,
        default=d.max_batch_tokens,
        metavar="N",
        help="padded tokens of one forward batch (%(default)s)",
    )
    group.add_argument(
        "--max-queued-requests", type=int, default=d.max_queued_requests, metavar="N"
    )
    group.add_argument("--max-queued-tokens", type=int, default=d.max_queued_tokens, metavar="N")
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads (torch's choice)")
    group = parser.add_argument_group("network")
    group.add_argument(
        "--listen",
        default=d.listen,
        metavar="HOST:PORT",
        help="gRPC; port 0 takes a free one (%(default)s)",
    )
    group.add_argument(
        "--http", metavar="HOST:PORT", help="/metrics, /healthz and /readyz (none by default)"
    )
    group.add_argument("--drain", dest="drain_s", type=float, default=d.drain_s, metavar="SECONDS")
    group.add_argument("--grace", dest="grace_s", type=float, default=d.grace_s, metavar="SECONDS")
    given = vars(parser.parse_args(argv))
    if given["watch"] and given["sae_dir"] is None:
        parser.error("--watch needs --sae-dir")
    if given["sae_dir"] is not None and not given["sae_dir"].is_dir():
        parser.error(f"--sae-dir {given['sae_dir']} is no folder")
    for name in _AT_LEAST_1:
        if given[name] is not None and given[name] < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {given[name]}")
    for name in ("drain_s", "grace_s"):
        if not 0 <= given[name] < math.inf:
            parser.error(f"--{name.removesuffix('_s')} must be 0 or more, got {given[name]}")
    if not 0 < given["memory_fraction"] <= 1:
        parser.error(
            f"--memory-fraction must be above 0 and at most 1, got {given['memory_fraction']}"
        )
    given["saes"] = tuple(given["saes"])
    return ServeConfig(**given)
