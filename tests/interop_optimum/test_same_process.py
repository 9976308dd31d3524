"""neff and optimum-neuron in one process, whichever came first."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.hub.conftest import MakeHost
from tests.interop_optimum.conftest import MakeTrainer

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240)]

GRAPHS = ["adam_update", "convolution_block", "mlp_training_step", "softmax_cross_entropy"]
NEW_GRAPH = "attention_forward"
STOCK = "libneuronxla.neuron_cc_cache"
PATCHED = ["exists", "hlo_acquire_lock", "hlo_release_lock", "lookup", "try_lookup_for_compile"]
NEFF_FIRST = ("install_neff", "import_optimum")
OPTIMUM_FIRST = ("import_optimum", "install_neff")


@pytest.mark.parametrize("order", [NEFF_FIRST, OPTIMUM_FIRST], ids=["neff-first", "optimum-first"])
def test_hits_come_from_the_daemon(
    make_trainer: MakeTrainer, make_host: MakeHost, work_dir: str, order: tuple[str, str]
) -> None:
    with make_host("a") as host_a:
        maker = make_trainer("a", host_a)
        maker.call("install_neff")
        made = maker.call("compile_graphs", graphs=GRAPHS, work_dir=work_dir)
        assert host_a.ask("flush", timeout_s=30)[-1]["pending"] == 0

    with make_host("b") as host:
        trainer = make_trainer("b", host)
        for action in order:
            trainer.call(action)

        def check(graphs: list[str], *, hub_cache: bool) -> dict[str, Any]:
            found = trainer.call("compile_graphs", graphs=graphs, work_dir=work_dir, hub_cache=hub_cache)
            assert found.items() <= made.items()
            # A local entry, where optimum-neuron's own hit leaves none.
            assert all(trainer.entry(key) == maker.entry(key) != {} for key in found)
            hooks: dict[str, Any] = trainer.call("hooks")
            assert hooks["neff"] == PATCHED
            return hooks

        assert check(GRAPHS[:1], hub_cache=False)["factory"] == STOCK
        assert check(GRAPHS[1:2], hub_cache=True)["factory"] == STOCK
        assert check(GRAPHS[2:3], hub_cache=False)["factory"] == STOCK
        # From its second time on, optimum-neuron 0.4.5 leaves its own factory behind: all goes on through its proxy.
        assert check(GRAPHS[3:], hub_cache=True)["factory"] != STOCK
        check(GRAPHS, hub_cache=False)
        assert trainer.compiles == 0
        assert host.counter("neffd_fetched_entries", "remote=hub") == len(made)

        trainer.call("uninstall_neff")
        assert trainer.call("hooks")["neff"] == []
        asked = host.status()["counters"]["neffd_questions"]
        new = trainer.call("compile_graphs", graphs=[NEW_GRAPH], work_dir=work_dir)
        assert trainer.compiles == len(new)
        assert host.status()["counters"]["neffd_questions"] == asked


@pytest.mark.parametrize("order", [NEFF_FIRST, OPTIMUM_FIRST], ids=["neff-first", "optimum-first"])
def test_without_a_daemon_all_is_as_without_neff(
    make_trainer: MakeTrainer, make_host: MakeHost, work_dir: str, order: tuple[str, str]
) -> None:
    with make_host("a") as host:
        maker = make_trainer("a", host)
        maker.call("install_neff")
        made = maker.call("compile_graphs", graphs=GRAPHS[:2], work_dir=work_dir)
        assert host.ask("flush", timeout_s=30)[-1]["pending"] == 0

    def run(name: str, actions: tuple[str, ...]) -> tuple[Any, ...]:
        trainer = make_trainer(name, neff_uuid="00000000-0000-0000-0000-000000000001")
        for action in actions:
            trainer.call(action)
        # optimum-neuron's own hits; outside its context they are compiled, since it keeps nothing.
        assert trainer.call("compile_graphs", graphs=GRAPHS[:2], work_dir=work_dir, hub_cache=True) == made
        assert trainer.compiles == 0
        compiled = trainer.call("compile_graphs", graphs=GRAPHS, work_dir=work_dir)
        assert trainer.compiles == len(compiled)
        files = {
            path.relative_to(trainer.cache): path.read_bytes() for path in trainer.cache.rglob("*") if path.is_file()
        }
        return compiled, trainer.call("hooks")["factory"], files

    assert run("with", order) == run("without", ("import_optimum",))


def test_a_hub_that_only_the_daemon_reaches(make_trainer: MakeTrainer, make_host: MakeHost, work_dir: str) -> None:
    """optimum-neuron bypasses a repo that it cannot open; neffd is asked all the same."""
    with make_host("a") as host:
        maker = make_trainer("a", host)
        maker.call("install_neff")
        made = maker.call("compile_graphs", graphs=GRAPHS[:2], work_dir=work_dir)
        assert host.ask("flush", timeout_s=30)[-1]["pending"] == 0
    with make_host("b") as host:
        trainer = make_trainer("b", host, repo="nobody/nothing")
        trainer.call("import_optimum")
        trainer.call("install_neff")
        assert trainer.call("compile_graphs", graphs=GRAPHS[:2], work_dir=work_dir, hub_cache=True) == made
        assert trainer.compiles == 0
        assert "Bypassing Hub cache" in trainer.log
