from __future__ import annotations

from pathlib import Path

import pytest

from neff.hubrepo import custom_repo, misnamed, saved_repo_path


def _save(home: Path, text: str) -> None:
    home.mkdir(parents=True, exist_ok=True)
    (home / "optimum_neuron_custom_cache").write_text(text)


def test_the_environment_wins_over_the_saved_repo(tmp_path: Path) -> None:
    _save(tmp_path, "org/saved")
    assert custom_repo({"HF_HOME": str(tmp_path), "CUSTOM_CACHE_REPO": "org/env"}) == "org/env"
    assert custom_repo({"HF_HOME": str(tmp_path), "CUSTOM_CACHE_REPO": ""}) == "org/saved"


def test_no_repo() -> None:
    assert custom_repo({"HF_HOME": "/does/not/exist"}) is None


@pytest.mark.parametrize(
    ("text", "repo"),
    [
        ("org/cache\n", "org/cache"),
        ("  cache ", "cache"),
        ("", None),
        ("a/b/c", None),
        ("two\nlines", None),
        ("../x/y", None),
        ("ü/x", None),
        ("x" * 5000, None),
    ],
)
def test_only_a_repo_name_is_taken_from_the_file(tmp_path: Path, text: str, repo: str | None) -> None:
    _save(tmp_path, text)
    assert custom_repo({"HF_HOME": str(tmp_path)}) == repo


def test_a_file_that_is_no_text_or_no_file_is_no_repo(tmp_path: Path) -> None:
    (tmp_path / "optimum_neuron_custom_cache").write_bytes(b"\xff\xfe\x00")
    assert custom_repo({"HF_HOME": str(tmp_path)}) is None
    (tmp_path / "d" / "optimum_neuron_custom_cache").mkdir(parents=True)
    assert custom_repo({"HF_HOME": str(tmp_path / "d")}) is None


@pytest.mark.parametrize(
    ("environment", "directory"),
    [
        ({"HOME": "/home/u"}, "/home/u/.cache/huggingface"),
        ({"HOME": "/home/u", "XDG_CACHE_HOME": "/xdg"}, "/xdg/huggingface"),
        ({"HOME": "/home/u", "XDG_CACHE_HOME": "/xdg", "HF_HOME": "/hf"}, "/hf"),
    ],
)
def test_place_of_the_saved_repo(environment: dict[str, str], directory: str) -> None:
    assert saved_repo_path(environment) == f"{directory}/optimum_neuron_custom_cache"


@pytest.mark.parametrize(
    ("variable", "saved", "where"),
    [
        ("", "", None),
        ("org/env", "no name", None),
        ("", "org/saved\n", None),
        ("https://hub/org/env", "org/saved", "CUSTOM_CACHE_REPO"),
        (" ", "hf://org/saved", "file"),
    ],
)
def test_what_holds_no_name_of_a_repo_is_told(tmp_path: Path, variable: str, saved: str, where: str | None) -> None:
    _save(tmp_path, saved)
    environ = {"HF_HOME": str(tmp_path), "CUSTOM_CACHE_REPO": variable}
    assert misnamed(environ) == (saved_repo_path(environ) if where == "file" else where)
