"""The neffd daemon: keeps a host's Neuron compile cache filled from, and shared through, remotes."""

from neff._version import __version__

__all__ = ["__version__"]
