"""neff: what runs inside a trainer, and the `neff` command. The standard library only.

    import neff
    neff.install()

lets the Neuron compile cache of this process ask the daemon (neffd) for a graph before it is compiled. Importing the
package does nothing by itself and loads next to nothing.
"""

from __future__ import annotations

from neff._version import __version__

__all__ = ["__version__", "install", "uninstall"]


def install(socket: str | None = None) -> bool:
    """Let this process's Neuron compile cache ask the daemon before it compiles.

    Imports nothing of Neuron: the hook is set at once if libneuronxla's cache module is already imported, else when
    it is. May be called at any time, from any thread, more than once. Without libneuronxla, or with a cache on S3,
    nothing ever happens. No failure of the daemon or of this package reaches the caller: graphs are compiled then.

    Args:
        socket: path of the daemon's socket. Default: `NEFFD_SOCKET`, else /run/neffd/neffd.sock, else
            $XDG_RUNTIME_DIR/neffd/neffd.sock. A later call with another path replaces it.

    Returns:
        Whether the hook is set, now or as soon as libneuronxla is imported. False if the environment says
        `NEFF_DISABLE=1`.
    """
    from neff.installation import INSTALLATION

    return INSTALLATION.install(socket)


def uninstall() -> None:
    """Undo `install`: the original methods are put back and the connections to the daemon closed."""
    from neff.installation import INSTALLATION

    INSTALLATION.uninstall()
