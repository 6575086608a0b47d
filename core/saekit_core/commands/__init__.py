"""Commands that work without a server; each takes its arguments and returns the exit status."""
