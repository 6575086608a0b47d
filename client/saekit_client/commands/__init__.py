"""The subcommands of `saekit`."""
