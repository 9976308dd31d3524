"""`python -m tests.soak`: SOAK_S seconds (default 3,600), SOAK_KILLS kills (default 300 an hour), SOAK_SEED.

With SOAK_LEAK_MB the witness leaks so many megabytes an hour: a run of half an hour or more has to fail then.

What is found is written to SOAK_OUT (default: a new folder below the temporary one): `soak.json`, and where a promise
was broken all that the run has left. The exit code is 0 only if nothing was lost, torn, doubled or stuck, and the
witness uses no more than after its first minute.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.soak.plan import Settings
from tests.soak.run import Soak


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # nothing that was started stays
    settings = Settings.of(os.environ)
    out = Path(os.environ.get("SOAK_OUT") or tempfile.mkdtemp(prefix="neffd-soak-"))
    out.mkdir(parents=True, exist_ok=True)
    print(
        f"SOAK_S={settings.length_s:g} SOAK_KILLS={settings.kills} SOAK_SEED={settings.seed} SOAK_OUT={out}", flush=True
    )
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=out))
    soak = Soak(settings, folder)
    for missing in soak.left_out:
        print(f"left out, {missing}", flush=True)
    try:
        report = soak.run()
        report.write(out / "soak.json")
        print("\n".join(report.lines()), flush=True)
        if not report.is_good:
            shutil.copytree(folder / "disk", folder / "disk-kept")
            print(f"evidence is in {folder}", flush=True)
            return 1
    finally:
        soak.close()
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
