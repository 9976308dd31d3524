"""A process that makes a lock, tells the daemon, becomes another program, and then waits for that lock.

The variable `WHICH` has cache directory, lock file, namespace and key, one a line: arguments that name a module would
be a sign of life.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from neff.asking import Asker
from neff.keys import LockId, ModuleName


def main() -> None:
    root, path, namespace, key = os.environ["WHICH"].split("\n")
    lock, name, asker = Path(path), ModuleName(namespace, key), Asker()
    if "again" not in sys.argv:
        lock.touch(exist_ok=False)
        facts = lock.stat()
        asker.lock_taken(root, name, LockId(facts.st_ino, facts.st_ctime_ns))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], "again"])
    print(asker.wait_for_lock(root, name), lock.exists())


main()
