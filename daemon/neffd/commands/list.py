"""`neff list`: what a cache repo holds."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from neff import exitcodes
from neffd.commands.options import add_json, repo_id

EXAMPLE = "neff list -v 2.21 aws-neuron/optimum-neuron-cache"
JSON = {
    "repo_id": "the cache repo",
    "models": "compiler_version, model_type, model_id, entries (how many stand under its name; optimum-neuron 0.4.5 "
    "puts only the first there, --model shows all), optimum_neuron, mode",
    "entries": "with --model: compiler_version, hash, and the facts of `neff lookup`; runs of the oldest registry",
    "files": "with --model: compiler_version, path, size_bytes of its compiled files: of traced models, and of the "
    "modules that its recorded runs used",
    "modules": "of compiler versions without a registry: compiler_version, module, size_bytes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", type=repo_id, help="the repo (default: the one that is set)")
    parser.add_argument("-m", "--model", metavar="MODEL", help="only this model, with its entries and compiled files")
    parser.add_argument(
        "-v", "--version", metavar="VERSION", help="only this compiler version; a beginning such as 2.21 is enough"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from neffd.commands.chosenrepo import chosen
    from neffd.commands.errors import none_set

    name = chosen(args.name)
    if name is None:
        raise none_set("name the one to list, such as aws-neuron/optimum-neuron-cache, or set one")
    from neffd.commands import hub

    return exitcodes.OK if hub.run_async(_list(args, name)) else exitcodes.NOT_FOUND


async def _list(args: argparse.Namespace, name: str) -> bool:
    """Print what there is, as it comes; returns whether there was anything."""
    from neffd.commands import hub, listing, output

    printer = _Json(name) if args.json else _Lines(output.is_terminal())
    async with hub.opened(name) as client:
        if not args.json and output.is_terminal():
            print(output.title(f"*** Repo id: {name} ***"))
        async for item in listing.items(client, args.version, args.model):
            printer.add(item)
    if not printer.count and not args.json:
        print(f"Nothing was found in {name}.", file=sys.stderr)
    printer.close()
    return printer.count > 0


class _Lines:
    """Prints each item as it comes, below a line for its compiler version."""

    def __init__(self, terminal: bool) -> None:
        self.count = 0
        self._terminal = terminal
        self._compiler: str | None = None

    def add(self, item: dict[str, Any]) -> None:
        from neffd.commands import output

        self.count += 1
        if not self._terminal:
            print(output.line(item))
            return
        if item["compiler_version"] != self._compiler:
            self._compiler = item["compiler_version"]
            print(f"\n{output.title(f'compiler {self._compiler}')}")
        print(_for_a_person(item))

    def close(self) -> None:
        """Nothing is left to print."""


class _Json:
    """Collects everything into one document: the items of one kind under one name."""

    def __init__(self, repo_id: str) -> None:
        self._repo_id = repo_id
        self._items: dict[str, list[dict[str, Any]]] = {"models": [], "entries": [], "files": [], "modules": []}

    @property
    def count(self) -> int:
        return sum(map(len, self._items.values()))

    def add(self, item: dict[str, Any]) -> None:
        self._items[_KINDS[item["kind"]]].append({name: value for name, value in item.items() if name != "kind"})

    def close(self) -> None:
        from neffd.commands import output

        output.print_json("list", repo_id=self._repo_id, **self._items)


_KINDS = {"model": "models", "entry": "entries", "file": "files", "module": "modules"}


def _for_a_person(item: dict[str, Any]) -> str:
    from neff.protocol import safe_text
    from neffd.commands import output

    facts = {name: value for name, value in item.items() if name not in ("kind", "compiler_version")}
    if item["kind"] == "model":
        mode = f", {item['mode']}" if item["mode"] else ""
        count = f"{item['entries']} {'entry' if item['entries'] == 1 else 'entries'}"
        text = f"{item['model_type']}  {item['model_id']}  {count}  (optimum-neuron {item['optimum_neuron']}{mode})"
    elif item["kind"] == "entry":
        known = [f"{fact} {value}" for fact, value in facts.items() if fact != "hash" and value is not None]
        text = "  ".join([str(facts.get("hash") or facts.get("neuron_hash") or "-"), ", ".join(known)])
    else:
        name = item["path"] if item["kind"] == "file" else item["module"]
        text = f"{name}  {output.size(item['size_bytes'])}"
    return f"  {safe_text(text)}"
