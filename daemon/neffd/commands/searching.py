"""What `neff lookup` asks of the Hub: the model's configuration, and the few folders where its entries can be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from neff import exitcodes, keys
from neffd.commands import hub
from neffd.commands.errors import CommandError, no_model
from neffd.remotes.hub.client import HubClient, NotThere
from neffd.runs import documents, entries, layout, modelconfig, neuronhash, search
from neffd.runs.documents import Found
from neffd.runs.jsontext import MAX_DOCUMENT_BYTES, BadDocument, read_object
from neffd.runs.neuronhash import HashedRun
from neffd.tasks import Tasks

T = TypeVar("T")

_PARALLEL = 16
_STOP_S = 1.0
_CONFIG, _PIPELINE = "config.json", "model_index.json"


@dataclass
class Answer:
    """What was found.

    Args:
        found: entries that fit the model, in no order.
        hashed: of the oldest registry, which knows training runs by name.
        searched: the namespaces that were searched.
        guess: why the configuration may not be the one that optimum-neuron hashes; empty where it is.
        unreadable: paths of files that are not of the format.
    """

    found: list[Found] = field(default_factory=list)
    hashed: list[HashedRun] = field(default_factory=list)
    searched: list[str] = field(default_factory=list)
    guess: str = ""
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Model:
    """The model that is looked for.

    Args:
        name: its id on the Hub, or None for a folder.
        configs: its configuration under each task that may be meant; empty for a pipeline.
        unet: the configuration of a pipeline's one part that is always there, where it is in a folder.
    """

    name: str | None
    configs: dict[str, modelconfig.ModelConfig]
    unet: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_pipeline(self) -> bool:
        return not self.configs

    def wanted(self) -> search.Wanted:
        if self.is_pipeline:
            names = [("stable-diffusion", self.name)] if self.name else []
            return search.Wanted((entries.pipeline_digest(),), tuple(names))
        digests = [entries.arch_digest(config.config, config.model_type, task) for task, config in self.configs.items()]
        types = dict.fromkeys(config.model_type for config in self.configs.values())
        names = [(model_type, self.name) for model_type in types] if self.name else []
        return search.Wanted(tuple(dict.fromkeys(digests)), tuple(names))

    def fits(self, found: Found) -> bool:
        """Whether an entry can be this model's. A digest says so, except that all pipelines have the same."""
        if self.is_pipeline:
            theirs = found.entry.config.get("unet", {})
            return found.entry.model_id == self.name if self.name else modelconfig.is_same_part(self.unet, theirs)
        if found.path.digest is not None:
            return True
        config = self.configs.get(found.entry.task or "") or next(iter(self.configs.values()))
        return config.agrees_with(found.entry.config)


async def search_registry(repo_id: str, model: Model | str, task: str | None) -> Answer:
    """Look for the entries of a model; raises CommandError.

    Requests: one or two for the model's configuration, one for the root of the repo, one for every dozen of compiler
    versions, one for each folder with entries of it, one for each entry.

    Args:
        model: from a folder, or the name of one on the Hub.
        task: None for any.
    """
    if isinstance(model, str):
        model = await _model_on_hub(model, task)
    answer = Answer(guess=next((config.guess for config in model.configs.values()), ""))
    async with hub.opened(repo_id) as client:
        answer.searched, has_hashes = await _namespaces(client)
        folders = await _existing_folders(client, model.wanted(), answer.searched)
        await _read_entries(client, model, folders, answer)
        if has_hashes and model.name:
            answer.hashed = await _hashed_runs(client, model.name, answer)
    return answer


async def _model_on_hub(name: str, task: str | None) -> Model:
    tasks = (task,) if task else modelconfig.TASKS
    if not layout.is_model_id(name):
        raise CommandError(f"{name}: neither a folder nor the name of a model", exit_code=exitcodes.USAGE)
    async with hub.opened(name, no_model) as client:
        for file in (_CONFIG, _PIPELINE):
            try:
                data = await hub.content(client, file, MAX_DOCUMENT_BYTES)
            except NotThere:
                continue
            return Model(name, _configs(_parsed(data, f"{file} of {name}"), file, tasks, name))
    raise CommandError(f"{name} has neither {_CONFIG} nor {_PIPELINE}: no model", exit_code=exitcodes.NOT_FOUND)


def model_in(name: str, task: str | None) -> Model | None:
    """The model whose configuration is in the folder `name`; None if that is no folder. Raises CommandError."""
    folder = Path(name)
    if not folder.is_dir():
        return None
    file = next((file for file in (_CONFIG, _PIPELINE) if (folder / file).is_file()), None)
    if file is None:
        raise CommandError(f"{folder} has neither {_CONFIG} nor {_PIPELINE}: no model", exit_code=exitcodes.NOT_FOUND)
    configs = _configs(_local_config(folder / file), file, (task,) if task else modelconfig.TASKS, name)
    return Model(None, configs) if configs else Model(None, configs, _local_config(folder / "unet" / _CONFIG))


def _local_config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            return _parsed(stream.read(MAX_DOCUMENT_BYTES + 1), str(path))
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None


def _parsed(data: bytes, what: str) -> dict[str, Any]:
    try:
        return read_object(data)
    except BadDocument as error:
        raise CommandError(f"{what}: {error}") from None


def _configs(raw: dict[str, Any], file: str, tasks: Sequence[str], name: str) -> dict[str, modelconfig.ModelConfig]:
    """The configuration under each task; nothing for the index of a pipeline."""
    if "model_type" not in raw and "unet" in raw:
        return {}
    if file == _PIPELINE:
        message = f"{name} is a pipeline without a unet: optimum-neuron registers none of these"
        raise CommandError(message, exit_code=exitcodes.NOT_FOUND)
    try:
        text, other = (modelconfig.from_json(raw, task) for task in (modelconfig.TEXT_GENERATION, None))
    except BadDocument as error:
        raise CommandError(f"{name}: {error}") from None
    return {task: text if task == modelconfig.TEXT_GENERATION else other for task in tasks}


async def _namespaces(client: HubClient) -> tuple[list[str], bool]:
    """The compiler versions of a repo, the newest first, and whether it has the oldest registry."""
    found, has_hashes = list[str](), False
    async for page in client.tree("", "main"):
        found += [path for path in _paths(page, "directory") if keys.is_namespace(path)]
        has_hashes = has_hashes or neuronhash.FILE in _paths(page, "file")
    return sorted(found, key=lambda name: (keys.compiler_version(name), name), reverse=True), has_hashes


async def _existing_folders(client: HubClient, wanted: search.Wanted, namespaces: Sequence[str]) -> list[str]:
    """Those of the folders in which entries can be that exist."""
    candidates = {name: search.folders(wanted, name, layout.RELEASES) for name in namespaces}
    asked = [path for name in namespaces for path in (*search.version_folders(name), *candidates[name])]
    ids = await _folder_ids(client, asked)
    more: list[str] = []
    for name in namespaces:
        if not search.is_complete(name, ids):
            unknown = await _other_versions(client, name)
            more += search.folders(wanted, name, unknown)
    ids |= await _folder_ids(client, more)
    return search.to_list(
        path for path in [*(path for name in namespaces for path in candidates[name]), *more] if path in ids
    )


async def _folder_ids(client: HubClient, paths: Sequence[str]) -> dict[str, str]:
    found = await client.paths_info(paths, "main") if paths else []
    return {str(item.get("path")): str(item.get("oid")) for item in found if item.get("type") == "directory"}


async def _other_versions(client: HubClient, namespace: str) -> list[str]:
    """Versions of optimum-neuron in a registry that are no known releases."""
    folder = layout.registry(namespace)
    names: list[str] = []
    async for page in hub.pages(client, folder):
        names += [path.rpartition("/")[2] for path in _paths(page, "directory")]
    return [name for name in names if layout.is_version(name) and name not in layout.RELEASES]


async def _read_entries(client: HubClient, model: Model, folders: Sequence[str], answer: Answer) -> None:
    """Those that fit. optimum-neuron gives only a model's first an alias: the others lie where that one belongs."""
    found = await _read_folders(client, folders, answer)
    answer.found = [one for one in found if model.fits(one)]
    beside = {folder for one in answer.found if (folder := digest_folder(one)) is not None} - set(folders)
    known = {_identity(one.path) for one in found}
    others = await _read_folders(client, sorted(beside), answer) if beside else []
    answer.found += [one for one in others if _identity(one.path) not in known]


def digest_folder(found: Found) -> str | None:
    """Where all entries of the architecture of one that was found by its alias are; None for any other."""
    if found.path.digest is not None or not layout.has_digests(found.path.version):
        return None
    return layout.digest_folder(found.path.namespace, found.path.version, found.entry.arch_digest)


def _identity(path: layout.EntryPath) -> tuple[str, str, str]:
    return path.namespace, path.version, path.hash


async def _read_folders(client: HubClient, folders: Sequence[str], answer: Answer) -> list[Found]:
    async def files_of(folder: str) -> list[str]:
        return [path async for page in hub.pages(client, folder) for path in _paths(page, "file")]

    paths = [path for listed in await together(files_of, folders) for path in listed]
    parsed = {path: where for path in paths if (where := layout.parse(path)) is not None}
    # The same entry, by its digest and by its alias.
    distinct = {_identity(where): path for path, where in parsed.items()}

    async def read(path: str) -> Found | None:
        try:
            return documents.read(await hub.content(client, path, MAX_DOCUMENT_BYTES), parsed[path])
        except (BadDocument, NotThere):
            answer.unreadable.append(path)
            return None

    return [found for found in await together(read, list(distinct.values())) if found is not None]


async def _hashed_runs(client: HubClient, name: str, answer: Answer) -> list[HashedRun]:
    try:
        runs = neuronhash.read(await hub.content(client, neuronhash.FILE, neuronhash.MAX_BYTES))
    except (BadDocument, NotThere):
        answer.unreadable.append(neuronhash.FILE)
        return []
    return [run for run in runs if run.model_id == name]


async def together(ask: Callable[[str], Awaitable[T]], items: Sequence[str]) -> list[T]:
    """The answers, in order; a few questions at a time, and none goes on after one has failed."""
    limit = asyncio.Semaphore(_PARALLEL)

    async def one(item: str) -> T:
        async with limit:
            return await ask(item)

    tasks = Tasks()
    running = [tasks.start(one(item), name="registry", watched=True) for item in items]
    try:
        return list(await asyncio.gather(*running))
    finally:
        await tasks.stop(_STOP_S)


def _paths(page: Sequence[dict[str, Any]], kind: str) -> list[str]:
    return [str(item.get("path")) for item in page if item.get("type") == kind]
