"""What happens in each Python below `neff run` before its own code: the private sitecustomize."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.client.running import CLIENT, SITE, answer_of, environment, finished, neff_run, python

SOURCE = SITE / "sitecustomize.py"
# The hook, as far as it shows: who waits for libneuronxla, which of our modules are there, what is importable.
LOOK = """
import json, sys
finders = [type(finder).__name__ for finder in sys.meta_path if type(finder).__module__ == "_neff_importhook"]
site = sys.modules.get("sitecustomize")
print(json.dumps({
    "hooks": len(finders), "neff": sorted(name for name in sys.modules if name.split(".")[0] == "neff"),
    "sitecustomize": getattr(site, "__file__", None), "path": sys.path, "marks": getattr(sys, "marks", []),
    "user": "usercustomize" in sys.modules, "flags": list(sys.flags), "bytecode": sys.dont_write_bytecode,
}))
"""
IMPORT = "import libneuronxla.neuron_cc_cache as cache\nassert cache.value == 1\n"


def pythons() -> list[str]:
    """Every Python that can be found here, each version once; this one first."""
    found = {sys.version_info[:2]: sys.executable}
    for minor in range(6, 20):
        path = shutil.which(f"python3.{minor}")
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            found.setdefault((3, minor), path)
    return list(found.values())


def below(words: Sequence[str], **env: str) -> subprocess.CompletedProcess[bytes]:
    return finished(neff_run(*words), environment(NEFF_DEBUG="1", **env))


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A folder with a libneuronxla."""
    package = tmp_path / "stack" / "libneuronxla"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "neuron_cc_cache.py").write_text("value = 1\nclass CompileCacheFs: pass\n")
    return package.parent


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder with a sitecustomize of the user's."""
    folder = tmp_path / "their site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys\nsys.marks = getattr(sys, 'marks', []) + [[p for p in sys.path if 'launch' in p]]\n"
    )
    return folder


@pytest.fixture(scope="module")
def environment_with_spaces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment without neffd, whose site-packages hold a sitecustomize."""
    home = tmp_path_factory.mktemp("made here") / "an environment"
    venv.create(home, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "sitecustomize.py").write_text("import sys\nsys.marks = ['venv']\n")
    return home / "bin" / "python"


def test_it_is_written_for_every_python() -> None:
    source = SOURCE.read_text("ascii")
    ast.parse(source, feature_version=(3, 6))
    for node in ast.walk(ast.parse(source)):
        assert not isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.NamedExpr), "not in Python 2"
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None
            assert all(argument.annotation is None for argument in node.args.args)


@pytest.mark.parametrize("executable", pythons())
def test_the_hook_waits_for_libneuronxla_and_nothing_else_is_loaded(executable: str) -> None:
    is_supported = finished(python("import sys; sys.exit(sys.version_info < (3, 10))", executable=executable))
    bare = answer_of(finished(python(LOOK, executable=executable)))
    seen = answer_of(below(python(LOOK, executable=executable)))
    assert seen["hooks"] == (is_supported.returncode == 0)
    assert seen["neff"] == []
    assert [path for path in seen["path"] if path != str(SITE)] == bare["path"]
    for same in ("sitecustomize", "user", "flags", "bytecode", "marks"):
        assert seen[same] == bare[same]


def test_what_does_not_compile_pays_next_to_nothing() -> None:
    code = "import sys; names = sorted(sys.modules); import json; print(json.dumps(names))"
    bare, run = answer_of(finished(python(code))), answer_of(below(python(code)))
    assert set(run) - set(bare) <= {"__future__"}


@pytest.mark.parametrize("executable", pythons())
def test_libneuronxla_is_found_as_ever_and_gets_the_hook(executable: str, stack: Path) -> None:
    bare = answer_of(finished(python(LOOK, executable=executable), environment(PYTHONPATH=str(stack))))
    code = f"{IMPORT}{LOOK}"
    seen = answer_of(below(python(code, executable=executable), PYTHONPATH=str(stack)))
    assert ("neff.hook" in seen["neff"]) == (
        finished(python("import sys; sys.exit(sys.version_info >= (3, 10))", executable=executable)).returncode == 1
    )
    assert seen["bytecode"] is False
    # The client's folder comes onto the path no more than it was there: an editable installation has it there.
    assert [path for path in seen["path"] if path != str(SITE)] == bare["path"]


def test_nothing_is_left_in_our_folders(tmp_path: Path, stack: Path) -> None:
    copy = tmp_path / "installed" / "neff"
    shutil.copytree(
        CLIENT / "neff",
        copy,
        ignore=lambda folder, names: [name for name in names if name == "__pycache__" and Path(folder, name).is_dir()],
    )
    before = sorted(copy.rglob("*"))
    for executable in pythons():
        env = environment(PYTHONPATH=f"{copy}/launch/site:{stack}", NEFF_DEBUG="1")
        seen = answer_of(finished(python(IMPORT + LOOK, executable=executable), env))
        assert seen["neff"] == [] or "neff.hook" in seen["neff"]
    assert sorted(copy.rglob("*")) == before


@pytest.mark.parametrize("switch", ["-I", "-E", "-S"])
def test_a_python_that_shuts_the_environment_out_has_no_hook(switch: str) -> None:
    done = below([sys.executable, switch, "-c", LOOK])
    assert answer_of(done)["hooks"] == 0


def test_switched_off_inside_a_run(theirs: Path) -> None:
    words = ["env", "NEFF_DISABLE=1", *python(LOOK)]
    seen = answer_of(below(words, PYTHONPATH=str(theirs)))
    assert (seen["hooks"], seen["marks"]) == (0, [[]])


def test_a_users_own_sitecustomize_runs_once_as_if_ours_were_not_there(theirs: Path) -> None:
    seen = answer_of(below(python(LOOK), PYTHONPATH=str(theirs)))
    assert seen["hooks"] == 1
    assert seen["sitecustomize"] == str(theirs / "sitecustomize.py")
    assert seen["marks"] == [[]]  # once, without our folder in its sys.path
    assert seen["path"].count(str(SITE)) == 1


def test_an_environment_with_spaces_keeps_its_own_sitecustomize(environment_with_spaces: Path, theirs: Path) -> None:
    words = python(LOOK, executable=environment_with_spaces)
    seen = answer_of(below(words))
    assert (seen["hooks"], seen["marks"]) == (1, ["venv"])
    first_of_two = answer_of(below(words, PYTHONPATH=str(theirs)))
    assert (first_of_two["hooks"], first_of_two["marks"]) == (1, [[]])


@pytest.mark.parametrize(
    "failing",
    [
        "raise RuntimeError('odd')",
        "import a_module_that_is_not_there",
        "raise ImportError('no name')",
        "raise SystemExit(5)",
        "this is no Python",
    ],
)
def test_a_failing_one_is_told_as_python_tells_it(theirs: Path, failing: str) -> None:
    (theirs / "sitecustomize.py").write_text(failing + "\n")
    words = python("import sys; print('sitecustomize' in sys.modules)")
    bare = finished(words, environment(PYTHONPATH=str(theirs)))
    ours = finished(words, environment(PYTHONPATH=f"{SITE}:{theirs}"))
    assert (ours.returncode, ours.stdout) == (bare.returncode, bare.stdout)
    # Who ends Python in there gets a traceback, of which the last line is theirs.
    assert ours.stderr.splitlines()[-1] == bare.stderr.splitlines()[-1]
    assert ours.stderr == bare.stderr or b"SystemExit" in bare.stderr


def test_a_run_inside_a_run(stack: Path, theirs: Path) -> None:
    inner = [os.fsdecode(word) for word in neff_run(*python(IMPORT + LOOK))]
    seen = answer_of(below(inner, PYTHONPATH=f"{theirs}:{stack}"))
    assert seen["path"].count(str(SITE)) == 1
    assert "neff.hook" in seen["neff"]
    assert seen["marks"] == [[]]


def test_a_run_of_another_installation_inside_a_run(tmp_path: Path, theirs: Path) -> None:
    other = tmp_path / "other" / "neff"
    shutil.copytree(CLIENT / "neff", other)
    env = environment(PYTHONPATH=f"{SITE}:{other}/launch/site:{theirs}", NEFF_DEBUG="1")
    seen = answer_of(finished(python(LOOK), env))
    assert (seen["hooks"], seen["marks"]) == (1, [[]])


@pytest.mark.parametrize("own", ["", "import sys; sys.path.append('/added')"])
def test_a_launcher_that_hands_on_sys_path_keeps_the_hook(theirs: Path, own: str) -> None:
    (theirs / "sitecustomize.py").write_text(own)
    code = """
import os, subprocess, sys
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
subprocess.run([sys.executable, "-c", sys.argv[1]])
"""
    assert answer_of(below(python(code, LOOK), PYTHONPATH=str(theirs)))["hooks"] == 1


def test_no_current_directory_comes_onto_the_path(tmp_path: Path) -> None:
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(LOOK)
    for pythonpath in ({}, {"PYTHONPATH": ""}):
        done = finished(neff_run(sys.executable, script), environment(**pythonpath), cwd=tmp_path)
        assert not {"", str(tmp_path)} & set(answer_of(done)["path"])


def test_a_module_of_the_users_own_that_is_called_neff_is_left_alone(tmp_path: Path, stack: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"{IMPORT}import neff\nassert neff.own\n{LOOK}")
    (tmp_path / "neff.py").write_text("own = True\n")
    done = finished(neff_run(sys.executable, script), environment(PYTHONPATH=str(stack)))
    assert answer_of(done)["neff"] == ["neff"]
    # A folder of compiled graphs may well have the name, and is no module.
    (tmp_path / "neff.py").unlink()
    (tmp_path / "neff").mkdir()
    script.write_text(f"{IMPORT}{LOOK}")
    done = finished(neff_run(sys.executable, script), environment(PYTHONPATH=str(stack)))
    assert "neff.hook" in answer_of(done)["neff"]


def test_a_trainer_that_installs_the_hook_itself(stack: Path) -> None:
    code = f"import neff\nassert neff.install()\n{IMPORT}{LOOK}"
    seen = answer_of(below(python(code), PYTHONPATH=f"{CLIENT}:{stack}"))
    assert "neff.hook" in seen["neff"]
    code = f"{IMPORT}import neff\nassert neff.install()\nneff.uninstall()\n{LOOK}"
    assert answer_of(below(python(code), PYTHONPATH=f"{CLIENT}:{stack}"))["hooks"] == 0


def test_spawned_and_forked_workers_have_it_too(tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(
        "import multiprocessing, sys\n"
        "def look(_):\n"
        "    return sum(type(finder).__module__ == '_neff_importhook' for finder in sys.meta_path)\n"
        "if __name__ == '__main__':\n"
        "    for method in ('fork', 'spawn', 'forkserver'):\n"
        "        with multiprocessing.get_context(method).Pool(1) as pool:\n"
        "            assert pool.map(look, [0]) == [1], method\n"
    )
    done = below([sys.executable, str(script)])
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_client_that_is_broken_or_gone_harms_nobody(tmp_path: Path, stack: Path) -> None:
    copy = tmp_path / "installed" / "neff"
    shutil.copytree(CLIENT / "neff", copy)
    env = environment(PYTHONPATH=f"{copy}/launch/site:{stack}")
    (copy / "installation.py").write_text("raise RuntimeError('odd')\n")
    assert answer_of(finished(python(IMPORT + LOOK), env))["bytecode"] is False
    told = finished(python(IMPORT), env | {"NEFF_DEBUG": "1"}).stderr
    assert told == b"neff: no hook in this process: RuntimeError: odd\n"
    (copy / "importhook.py").unlink()
    assert answer_of(finished(python(IMPORT + LOOK), env))["hooks"] == 0
    shutil.rmtree(copy)
    assert answer_of(finished(python(IMPORT + LOOK), env))["hooks"] == 0
