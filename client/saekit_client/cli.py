"""The `saekit` command."""

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points

import typer

from saekit_client.commands import features, saes
from saekit_client.commands.decode import decode
from saekit_client.commands.demo import demo
from saekit_client.commands.encode import encode
from saekit_client.commands.output import print_error
from saekit_client.commands.run import run
from saekit_client.commands.steer import steer
from saekit_client.commands.tokenize import tokenize
from saekit_client.errors import SAEKitError

_OWN: dict[str, Callable[..., None]] = {
    "encode": encode,
    "decode": decode,
    "run": run,
    "steer": steer,
    "tokenize": tokenize,
    "demo": demo,
}
_GROUPS = {"saes": saes.app, "features": features.app}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 ok, 1 the server refused or failed, 2 usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    word = arguments[0] if arguments else ""
    if word not in _OWN and word not in _GROUPS:
        added = {point.name: point for point in entry_points(group="saekit.commands")}
        if word in added:
            return _run_added(added[word], arguments[1:])
        app = _app(added)
    else:
        app = _app({})
    try:
        app(args=arguments, prog_name="saekit")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except SAEKitError as error:
        print_error(f"{error.code.name}: {error}")
        return 1
    return 0


def _app(added: dict[str, EntryPoint]) -> typer.Typer:
    app = typer.Typer(
        help="Sparse autoencoders over gRPC: encode, decode, run, steer, train and serve.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name, command in _OWN.items():
        app.command(name)(command)
    for name, group in _GROUPS.items():
        app.add_typer(group, name=name)
    for name, point in added.items():
        # Listed in the help only: main runs them before the arguments are parsed here.
        app.command(name, help=f"From {_package(point)}: see `saekit {name} --help`.")(_listed)
    return app


def _listed() -> None:
    """Stands for a command of another package."""


def _run_added(point: EntryPoint, arguments: list[str]) -> int:
    try:
        command = point.load()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("saekit"):
            raise
        extra = _package(point).removeprefix("saekit_")
        print_error(
            f"{point.name} needs {error.name}, which is missing: pip install 'saekit[{extra}]'"
        )
        return 1
    code: int = command(arguments)
    return code


def _package(point: EntryPoint) -> str:
    return point.module.partition(".")[0]


if __name__ == "__main__":
    sys.exit(main())
