"""Runs first in every Python below `neff run`: sets neffd's hook, then makes way for the next sitecustomize.

Any Python may come by here, so this is written for all of them since 2.7; the hook itself is set from 3.10 on. It is
not set for what is imported elsewhere, but when libneuronxla is: until then no module of neffd's is loaded.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_CLIENT = os.path.dirname(os.path.dirname(_HERE))
_AWAITED = "libneuronxla.neuron_cc_cache"


def _is_set(name):
    return os.environ.get(name, "") not in ("", "0")


def _say(error):
    if _is_set("NEFF_DEBUG") and sys.stderr is not None:
        sys.stderr.write("neff: no hook in this process: " + type(error).__name__ + ": " + str(error) + "\n")


def _wait_for_libneuronxla():
    if sys.version_info < (3, 10) or _is_set("NEFF_DISABLE"):
        return
    if any(getattr(type(finder), "__module__", "") == "_neff_importhook" for finder in sys.meta_path):
        return  # a run inside a run
    source = os.path.join(_CLIENT, "importhook.py")
    with open(source, "rb") as file:
        code = compile(file.read(), source, "exec")
    importhook = {"__name__": "_neff_importhook"}
    exec(code, importhook)

    def imported(module):
        finder.uninstall()
        # Another user's Python, or another version, leaves nothing in our folders.
        writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        try:
            _install()
        except Exception as error:
            _say(error)
        finally:
            sys.dont_write_bytecode = writes_bytecode

    finder = importhook["PostImportFinder"](_AWAITED, imported)
    finder.install()


def _install():
    if "neff" not in sys.modules:
        _load_client()
    from neff.installation import INSTALLATION

    INSTALLATION.install()


def _load_client():
    """Makes this folder's client importable as `neff`, and nothing else that lies beside it."""
    import importlib.machinery
    import importlib.util

    theirs = importlib.machinery.PathFinder.find_spec("neff")
    # A folder that happens to be called so is no package; a module of the user's own is not to be hidden.
    origin = None if theirs is None else theirs.origin
    if origin is not None and not os.path.exists(os.path.join(os.path.dirname(origin), "installation.py")):
        raise ImportError(origin + " has the name of neffd's client")
    init = os.path.join(_CLIENT, "__init__.py")
    spec = importlib.util.spec_from_file_location("neff", init, submodule_search_locations=[_CLIENT])
    module = importlib.util.module_from_spec(spec)
    sys.modules["neff"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules["neff"]
        raise


def _is_here(path):
    return isinstance(path, str) and os.path.abspath(path) == _HERE


try:
    _wait_for_libneuronxla()
except Exception as _error:
    _say(_error)

# The next one under the same name: whatever it raises, also that there is none, is told to Python's own `site`, which
# knows what to do. Python 2 clears a module that is forgotten, so it is kept in mind.
_path, _this = list(sys.path), sys.modules.pop(__name__, None)
sys.path[:] = [_entry for _entry in sys.path if not _is_here(_entry)]
try:
    import sitecustomize  # noqa: F401
finally:
    # Back in its place: some launchers hand sys.path on as PYTHONPATH.
    if any(map(_is_here, _path)) and not any(map(_is_here, sys.path)):
        sys.path.insert(0, _HERE)
