"""The client."""

from __future__ import annotations

from saekit_client.sync.encode import EncodeCalls
from saekit_client.sync.registry import RegistryCalls
from saekit_client.sync.run import RunCalls


class Client(EncodeCalls, RunCalls, RegistryCalls):
    """A connection to a saekit server. Safe to share between threads; a context manager.

    Methods that take inputs take one or several. One input gives one result, and raises if it
    fails; a list (or any iterable) of inputs is streamed and gives a `Batch`, in which every input
    has its own outcome.

    Every method raises `SAEKitError` (a subclass by status code) and takes a `timeout` in seconds.
    Calls that change nothing are repeated on UNAVAILABLE, as `RetryPolicy` says.
    """
