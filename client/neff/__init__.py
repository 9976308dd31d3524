"""neff: what runs inside a trainer, and the `neff` command. The standard library only.

    import neff
    neff.install()

lets the Neuron compile cache of this process ask the daemon (neffd) for a graph before it is compiled. Importing the
package does nothing by itself and loads next to nothing.
"""

from __future__ import annotations

from neff._version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from neff.runs.session import Session

__all__ = ["__version__", "install", "run_key", "session", "uninstall"]


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


def run_key(
    model: str | os.PathLike[str] | None = None,
    *,
    config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    task: str | None = None,
    dtype: object = None,
    num_cores: int | None = None,
    flags: str | Sequence[str] | None = None,
    compiler: str | None = None,
    target: str | None = None,
    packages: Mapping[str, str] | Iterable[str] | None = None,
    python: str | None = None,
    **sizes: Any,
) -> str:
    """The digest of what determines a job's graphs; docs/runs.md has an example of each ingredient.

    Reads no weight, asks no network, imports nothing heavy. The same ingredients give the same key in any process, on
    any host, by any Python.

    Args:
        model: a directory with a config.json, that file, or the name of a model whose config.json is in the Hub's
            cache on this host.
        config: the model's configuration, or where its config.json is. Default: the model's own.
        task: as optimum-neuron names it, such as text-generation.
        dtype: of the computation: bf16, "bfloat16", torch.bfloat16, ...
        num_cores: cores of a process. Default: NEURON_RT_NUM_CORES.
        flags: of the compiler, as a shell line or a list. Default: NEURON_CC_FLAGS.
        compiler: version of neuronx-cc, or a namespace. Default: the one installed.
        target: such as trn1. Default: NEURON_PLATFORM_TARGET_OVERRIDE, else `--target` of the flags, else this host.
        packages: names of those whose versions count, or versions by name. Default: those that build graphs.
        python: a Python, or a script that one runs, whose packages count. Default: this process's.
        sizes: input shapes by name, as whole numbers or lists of them (`batch_size`, `sequence_length`, ...), and the
            parallel layout (`tensor_parallel_size`, `pipeline_parallel_size`, ..., `logical_nc_config`).

    Returns:
        `RUN_` and 32 hexadecimal digits.

    Raises:
        ValueError: an argument makes no sense, or the model's configuration is not on this host.
    """
    from neff.runs.ingredients import describe

    return describe(
        model,
        config=config,
        task=task,
        dtype=dtype,
        num_cores=num_cores,
        flags=flags,
        compiler=compiler,
        target=target,
        packages=packages,
        python=python,
        **sizes,
    ).key


def session(
    model: str | os.PathLike[str] | None = None,
    *,
    prefetch: bool = True,
    private: bool | None = None,
    **ingredients: Any,
) -> Session:
    """Name the run that the body of a `with` statement is: its graphs are recorded under its key, and brought ahead.

        with neff.session(model="org/model", batch_size=1, sequence_length=4096, tensor_parallel_size=8, dtype="bf16"):
            train()

    Sets the hook as `install` does. Children inherit the run. Inside a run of the same key it changes nothing; inside
    another run it is a run of its own. Whatever goes wrong is said once and keeps nobody from anything: without a key
    the body runs all the same.

    Args:
        model: as for `run_key`.
        prefetch: whether the daemon should bring the modules that earlier runs like this one used.
        private: whether the model must not be told of on public remotes. Default: where it is a local one.
        ingredients: everything else that `run_key` takes.

    Returns:
        What `with` enters; its `key` is the run key, or None.
    """
    from neff.runs.session import Session

    return Session(prefetch, model=model, private=private, **ingredients)
