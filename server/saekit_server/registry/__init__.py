"""Which SAEs are loaded, under which names and revisions."""

from saekit_server.registry.events import EventKind, RegistryEvent, Subscription
from saekit_server.registry.loaded import LoadedSAE, SAEInfo
from saekit_server.registry.manifest import Manifest
from saekit_server.registry.marks import Marks
from saekit_server.registry.polling import Poller
from saekit_server.registry.registry import Registry
from saekit_server.registry.shelf import LoadResult, RegistryStats
from saekit_server.registry.watch import FolderWatcher, PollReport

__all__ = [
    "EventKind",
    "FolderWatcher",
    "LoadResult",
    "LoadedSAE",
    "Manifest",
    "Marks",
    "PollReport",
    "Poller",
    "Registry",
    "RegistryEvent",
    "RegistryStats",
    "SAEInfo",
    "Subscription",
]
