"""The `saekit` command."""

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

_GROUPS = ("saes", "features")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 ok, 1 the server refused or failed, 2 usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    group = arguments[0] if arguments and arguments[0] in _GROUPS else ""
    added = {point.name: point for point in entry_points(group=_entry_point_group(group))}
    depth = 1 if group else 0
    if len(arguments) > depth and arguments[depth] in added:
        # Before the client's own commands are imported, which need not concern it.
        return _run_added(added[arguments[depth]], arguments[depth + 1 :])
    return _run_own(arguments, {group: added})


def _entry_point_group(group: str) -> str:
    return f"saekit.commands.{group}" if group else "saekit.commands"


def _run_own(arguments: list[str], added: Mapping[str, Mapping[str, EntryPoint]]) -> int:
    from saekit_client.commands.output import print_error
    from saekit_client.errors import SAEKitError

    try:
        _app(added)(args=arguments, prog_name="saekit")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except SAEKitError as error:
        print_error(f"{error.code.name}: {error}")
        return 1
    return 0


def _app(added: Mapping[str, Mapping[str, EntryPoint]]) -> "typer.Typer":
    """The command; `added` has what others add to a group, by its name; "": to the top."""
    import typer

    from saekit_client.commands import features, saes
    from saekit_client.commands.decode import decode
    from saekit_client.commands.demo import demo
    from saekit_client.commands.encode import encode
    from saekit_client.commands.run import run
    from saekit_client.commands.steer import steer
    from saekit_client.commands.tokenize import tokenize

    app = typer.Typer(
        help="Sparse autoencoders over gRPC: encode, decode, run, steer, train and serve.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command in (encode, decode, run, steer, tokenize, demo):
        app.command(command.__name__)(command)
    for name, group in zip(_GROUPS, (saes.app, features.app), strict=True):
        _list_added(group, added.get(name, {}), f"saekit {name}")
        app.add_typer(group, name=name)
    _list_added(app, added.get("", {}), "saekit")
    return app


def _list_added(app: "typer.Typer", added: Mapping[str, EntryPoint], before: str) -> None:
    """List in the help what main runs before the arguments are parsed here."""
    listed = {command.name for command in app.registered_commands}
    for name, point in added.items():
        if name not in listed:
            text = f"From {_package(point)}: see `{before} {name} --help`."
            app.command(name, help=text)(_listed)


def _listed() -> None:
    """Stands for a command of another package."""


def _run_added(point: EntryPoint, arguments: list[str]) -> int:
    try:
        command = point.load()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("saekit"):
            raise
        from saekit_client.commands.output import print_error

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
