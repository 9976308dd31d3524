"""`neff cleanup`: remove from the cache directory what is of no use, and more if told to."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from neff import exitcodes
from neffd.commands.options import add_json, add_option

if TYPE_CHECKING:
    from neffd.commands.inuse import InUse
    from neffd.commands.localcache import LocalEntry

EXAMPLE = "neff cleanup --old-versions --dry-run"
JSON = {
    "cache_dir": "the directory",
    "dry_run": "whether nothing was removed in truth",
    "removed": "what (failed, lock, incomplete, version), path, size_bytes",
    "left": "path, and why it could not be removed",
    "skipped": "what was left since somebody may be compiling it, and why: text, or null",
}

_NAMED = 3  # of what was left; the rest is only counted


@dataclass
class _Cleaner:
    """Removes, or only says what it would remove."""

    dry_run: bool
    removed: list[dict[str, object]] = field(default_factory=list)
    left: list[dict[str, str]] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)  # by reason

    def remove_unless(self, why: str | None, what: str, path: Path, size_bytes: int) -> None:
        """Remove it, or leave it for a reason."""
        from neff.protocol import safe_text

        if why is None:
            self.remove(what, path, size_bytes)
        else:
            self.skipped.setdefault(why, []).append(f"{what} {safe_text(path)}")

    def skipped_text(self) -> str | None:
        """What was left and why; None where nothing was."""
        return "; ".join(f"{_some(items)}, since {why}" for why, items in self.skipped.items()) or None

    def leave(self, path: Path, error: OSError) -> None:
        """It could not be removed, or not even be looked into."""
        from neff.protocol import safe_text

        self.left.append({"path": safe_text(path), "why": str(error.strerror)})

    def remove(self, what: str, path: Path, size_bytes: int) -> None:
        """A file, or a folder with all in it; links are removed, never followed."""
        from neff.protocol import safe_text
        from neffd.store import fsops

        try:
            if not self.dry_run:
                if fsops.is_folder(path):
                    _remove_marks_first(path)
                    shutil.rmtree(path)
                else:
                    path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            self.leave(path, error)
            return
        self.removed.append({"what": what, "path": safe_text(path), "size_bytes": size_bytes})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="also entries without a NEFF that nobody compiles")
    add_option(parser, "old-versions", action="store_true", help="also everything of other compiler versions")
    add_option(
        parser,
        "compiler_version",
        metavar="VERSION",
        help="the one that is not old, such as 2.21 (default: that of the installed neuronx-cc)",
    )
    parser.add_argument(
        "--wipe", action="store_true", help="everything that was compiled; what waits for upload is kept"
    )
    add_option(parser, "dry-run", action="store_true", help="only say what would be removed")
    add_option(parser, "cache_dir", metavar="DIR", help="the cache directory (default: that of the Neuron tools)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    from neffd.commands import inuse, localcache

    root = localcache.root_of(args.cache_dir)
    cleaner = _Cleaner(args.dry_run)
    versions = localcache.namespaces(root)  # of a directory that is closed to us there is nothing else to say
    in_use = inuse.look(root, args.socket)
    if args.wipe:
        _refuse_if_used(in_use)
    old = set(versions) if args.wipe else _old_versions(args, root)
    for namespace in versions:
        _clean_version(cleaner, in_use, root / namespace, is_old=namespace in old, everything=args.all)
    _print(args, root, cleaner)
    return exitcodes.FAILED if cleaner.left else exitcodes.OK


def _refuse_if_used(in_use: InUse) -> None:
    from neffd.commands.errors import CommandError

    why = in_use.anything()
    if why is not None:
        who = "" if in_use.compilers else "neff status   (who compiles); "
        raise CommandError(f"the directory is in use: {why}", f"{who}try again when it has ended")


def _old_versions(args: argparse.Namespace, root: Path) -> set[str]:
    from neffd.commands import localcache
    from neffd.commands.errors import CommandError

    if not args.old_versions:
        return set()
    current = args.compiler_version or localcache.installed_compiler()
    if current is None:
        mend = "name the one to keep: --compiler_version VERSION"
        raise CommandError("no neuronx-cc is installed here: nobody can tell which versions are old", mend)
    names = localcache.namespaces(root)
    old = {name for name in names if not localcache.is_of_version(name, current)}
    if old == set(names) and args.compiler_version:
        raise CommandError(f"{root} holds nothing of compiler {current}", "neff du   (shows the versions)")
    return old


def _clean_version(cleaner: _Cleaner, in_use: InUse, folder: Path, *, is_old: bool, everything: bool) -> None:
    """All of an old one; of others, and of one that is in use, entry by entry."""
    from neffd.commands import localcache

    try:
        entries = list(localcache.listed_entries(folder.parent, folder.name))
    except OSError as error:
        cleaner.leave(folder, error)
        return
    if is_old:
        why = in_use.why_any(entries)
        cleaner.remove_unless(why, "version", folder, localcache.tree_bytes(folder))
        if why is None:
            return
    for entry in entries:
        _clean_entry(cleaner, in_use, entry, everything=everything)


def _clean_entry(cleaner: _Cleaner, in_use: InUse, entry: LocalEntry, *, everything: bool) -> None:
    why = in_use.why(entry)
    if entry.state == "failed":
        cleaner.remove("failed", entry.path, entry.size_bytes)
    elif entry.state == "compiling":
        for lock in entry.locks:
            cleaner.remove_unless(why, "lock", entry.path / lock, 0)
    elif everything and entry.state in ("pending", "empty"):
        cleaner.remove_unless(why, "incomplete", entry.path, entry.size_bytes)


def _remove_marks_first(folder: Path) -> None:
    """From then on nobody takes a half-removed entry for a ready one."""
    from neff import keys
    from neffd.store import fsops

    is_namespace = keys.is_namespace(folder.name)
    mark = keys.ready_mark(folder.name if is_namespace else folder.parent.name)
    for entry in folder.glob("MODULE_*") if is_namespace else [folder]:
        if fsops.is_folder(entry):
            (entry / mark).unlink(missing_ok=True)


def _print(args: argparse.Namespace, root: Path, cleaner: _Cleaner) -> None:
    import sys

    from neffd.commands import output

    if args.json:
        facts = {"removed": cleaner.removed, "left": cleaner.left, "skipped": cleaner.skipped_text()}
        output.print_json("cleanup", cache_dir=str(root), dry_run=args.dry_run, **facts)
        return
    would = "would remove" if args.dry_run else "removed"
    for item in cleaner.removed:
        print(f"{would} {item['what']} {item['path']}")
    for kept in cleaner.left:
        print(f"neff: not removed: {kept['path']}: {kept['why']}", file=sys.stderr)
    if cleaner.skipped:
        print(f"neff: left as it is: {cleaner.skipped_text()}", file=sys.stderr)
    freed = output.size(sum(int(str(item["size_bytes"])) for item in cleaner.removed))
    count = f"{len(cleaner.removed)} {'path' if len(cleaner.removed) == 1 else 'paths'}"
    print(f"{would} {count}, {freed}" if cleaner.removed else "nothing to clean up")


def _some(items: list[str]) -> str:
    more = len(items) - _NAMED
    return ", ".join([*items[:_NAMED], *([f"{more} more"] if more > 0 else [])])
