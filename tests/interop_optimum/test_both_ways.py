"""One Hub repo, filled by optimum-neuron and read by neffd, and the other way round."""

from __future__ import annotations

import pytest

from tests.harness import entries
from tests.harness.daemon import Daemon
from tests.harness.waiting import eventually
from tests.hub.process import HubProcess
from tests.integration.hub.conftest import REPO, MakeHost
from tests.interop_optimum.conftest import MakeTrainer
from tests.interop_optimum.trainer import NAMESPACE

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240)]

GRAPHS = ["convolution_block", "mlp_training_step", "softmax_cross_entropy"]


def on_hub(hub: HubProcess, key: str) -> dict[str, bytes]:
    """A module's files on the Hub."""
    prefix = f"{NAMESPACE}/{key}/"
    return {path.removeprefix(prefix): data for path, data in hub.read_files(REPO).items() if path.startswith(prefix)}


def test_the_environment_is_a_trainers(make_trainer: MakeTrainer) -> None:
    versions = make_trainer("a").call("versions")
    assert versions["optimum-neuron"] == "0.4.5"
    assert versions["huggingface_hub"].startswith("0.")


def test_what_optimum_neuron_synchronised_is_served(
    make_trainer: MakeTrainer, make_host: MakeHost, hub: HubProcess, model: str, work_dir: str
) -> None:
    trainer = make_trainer("a")
    trainer.call("import_optimum")
    made = trainer.call("compile_graphs", graphs=GRAPHS, work_dir=work_dir, hub_cache=True, model=model)
    traced = trainer.call("cache_traced", folder=model, model=model)
    locked = trainer.cache / NAMESPACE / f"MODULE_1+{next(iter(made))[-8:]}" / "model.hlo_module.pb.lock"
    locked.parent.mkdir()
    locked.touch()  # of another trainer that still compiles; optimum-neuron uploads it like everything else
    trainer.call("synchronize")
    assert len(made) == trainer.compiles == 2 * len(GRAPHS)
    paths = hub.read_files(REPO)
    assert f"{NAMESPACE}/{traced}/config.json" in paths
    assert str(locked.relative_to(trainer.cache)) in paths

    with make_host("b") as host:
        other = make_trainer("b", host)
        other.call("install_neff")
        assert other.call("compile_graphs", graphs=GRAPHS, work_dir=work_dir) == made
        assert other.compiles == 0
        for key in made:
            assert other.entry(key) == trainer.entry(key) != {}
        assert host.counter("neffd_suspicious") == 0
        assert sorted(folder.name for folder in (other.cache / NAMESPACE).iterdir()) == sorted(made)


def test_what_neffd_published_is_read_by_optimum_neuron(
    make_trainer: MakeTrainer, make_host: MakeHost, hub: HubProcess, work_dir: str
) -> None:
    runs = {f"{NAMESPACE}/0_RUNS/llama/org/name/RUN_{'ab' * 16}-00000000.json": b"{}"}
    hub.seed_files(REPO, runs, private=True)  # which optimum-neuron does not know
    with make_host("a") as host:
        trainer = make_trainer("a", host)
        trainer.call("install_neff")
        made = trainer.call("compile_graphs", graphs=GRAPHS, work_dir=work_dir)
        assert host.ask("flush", timeout_s=30)[-1]["pending"] == 0
    assert all("neffd.json" in on_hub(hub, key) for key in made)

    other = make_trainer("b")
    other.call("import_optimum")
    assert other.call("compile_graphs", graphs=GRAPHS, work_dir=work_dir, hub_cache=True) == made
    assert other.compiles == 0
    assert not list(other.cache.rglob("model.neff")), "optimum-neuron itself keeps no local copy of a hit"


def test_the_registry_is_read_beside_entries_of_neffd(
    make_trainer: MakeTrainer, make_host: MakeHost, hub: HubProcess, model: str, work_dir: str
) -> None:
    trainer = make_trainer("a")
    trainer.call("import_optimum")
    theirs = trainer.call("compile_graphs", graphs=GRAPHS[:1], work_dir=work_dir, hub_cache=True, model=model)
    trainer.call("synchronize")
    with make_host("b") as host:
        other = make_trainer("b", host)
        other.call("import_optimum")
        other.call("install_neff")
        every = other.call("compile_graphs", graphs=GRAPHS, work_dir=work_dir)
        assert theirs.items() < every.items()
        assert host.ask("flush", timeout_s=30)[-1]["pending"] == 0
        published = {key: on_hub(hub, key) for key in every}
        assert sum("neffd.json" in files for files in published.values()) == len(every) - len(theirs)

        (configuration,) = other.call("cached_configurations", model=model)
        assert configuration["tp_degree"] == 2
        assert other.call("cached_models") == [["llama", "org", "tiny"]]
        other.call("synchronize")
        assert {key: on_hub(hub, key) for key in every} == published


def test_a_copy_that_optimum_neuron_wrote_over_ours_is_served(
    make_trainer: MakeTrainer, make_host: MakeHost, hub: HubProcess, work_dir: str
) -> None:
    """It compares no keys before it uploads: `neffd.json` then tells of bytes that are gone."""
    graph = GRAPHS[:1]
    with make_host("a") as host:
        trainer = make_trainer("a", host)
        trainer.call("install_neff")
        first = trainer.call("compile_graphs", graphs=graph, work_dir=work_dir)
        assert host.ask("flush", timeout_s=30)[-1]["pending"] == 0
    other = make_trainer("b")
    other.call("import_optimum")
    second = other.call("compile_graphs", graphs=graph, work_dir=work_dir)
    other.call("synchronize")
    assert first.keys() == second.keys()
    assert not first.items() & second.items()
    with make_host("c") as host:
        reader = make_trainer("c", host)
        reader.call("install_neff")
        assert reader.call("compile_graphs", graphs=graph, work_dir=work_dir) == second
        assert reader.compiles == 0
        for key in second:
            assert reader.entry(key) == entries.shared(on_hub(hub, key))


@pytest.mark.parametrize("staging", ["beside", "inside"])
def test_synchronising_a_directory_of_neffd_does_no_harm(
    make_trainer: MakeTrainer, make_host: MakeHost, hub: HubProcess, work_dir: str, staging: str
) -> None:
    """The directory holds fetched entries, own ones that wait for upload, and perhaps neffd's staging folder."""
    with make_host("a") as host:
        trainer = make_trainer("a", host)
        trainer.call("install_neff")
        fetched = trainer.call("compile_graphs", graphs=GRAPHS[:1], work_dir=work_dir)
        assert host.ask("flush", timeout_s=30)[-1]["pending"] == 0
    before = hub.read_files(REPO)

    host = make_host("b", overrides={"upload": {"quiet_s": 600, "max_delay_s": 600}})
    if staging == "inside":
        move_staging_inside(host)
    with host:
        other = make_trainer("b", host)
        other.call("import_optimum")
        other.call("install_neff")
        every = other.call("compile_graphs", graphs=GRAPHS, work_dir=work_dir)
        wait_until_waiting(host, len(every) - len(fetched))
        other.call("synchronize")
        assert before.items() <= hub.read_files(REPO).items()
        assert host.ask("flush", timeout_s=30)[-1] == {"id": 1, "pending": 0, "parked": [], "done": True}
        host.wait_until_pushed(len(every) - len(fetched), "hub")
        for key in every:
            assert entries.shared(on_hub(hub, key)) == other.entry(key) != {}


def test_staging_inside_the_directory_stays_there(
    make_trainer: MakeTrainer, make_host: MakeHost, hub: HubProcess
) -> None:
    name = entries.module(1)
    host = make_host("a", overrides={"upload": {"quiet_s": 600, "max_delay_s": 600}})
    move_staging_inside(host)
    with host:
        entries.write(host.cache, name, entries.files(name))
        wait_until_waiting(host, 1)
        trainer = make_trainer("a", host)
        trainer.call("import_optimum")
        trainer.call("synchronize")
    assert {path for path in hub.read_files(REPO) if not path.startswith(f"{name}/")} <= {".gitattributes"}


def move_staging_inside(host: Daemon) -> None:
    """Make the place beside the cache directory useless."""
    host.cache.with_name(f"{host.cache.name}.neffd").write_text("in the way")


def wait_until_waiting(host: Daemon, count: int) -> None:
    """Until so many entries are pinned and in the journal."""
    eventually(lambda: host.status()["remotes"][0]["journal"]["waiting"] == count, f"{count} entries in the journal")
