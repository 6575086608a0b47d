"""The directory of public SAE releases: which there are, where they lie, what is known of them.

It needs nothing but Python, so that the command line and the client's installation can search it.
"""

from saekit_core.directory.releases import Directory, Entry, Release, public_releases

__all__ = ["Directory", "Entry", "Release", "public_releases"]
