"""Which cells run: a subset that meets every fault and every place, or all of them with --every-cell."""

from __future__ import annotations

import pytest

from tests.matrix.outcomes import OUTCOMES, quick_subset


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-cell", action="store_true", help="run the whole fault matrix, not its quick subset")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames:
        # A default, because pytest knows the option only where this folder is named on the command line.
        every_cell = metafunc.config.getoption("--every-cell", default=False)
        chosen = OUTCOMES.keys() if every_cell else quick_subset()
        cells = [cell for cell in OUTCOMES if cell in chosen]
        metafunc.parametrize(("fault", "place"), cells, ids=[f"{fault} x {place}" for fault, place in cells])
