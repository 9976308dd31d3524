"""The `neffd` command: read the configuration, run the daemon, report errors a person can act on."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neff._version import __version__

if TYPE_CHECKING:
    from neffd.config import Config

_THREADS_END_S = 1.0
# As shells have it.
_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code (0 ended as asked, 1 failed, 2 bad configuration or usage, 130 Ctrl-C)."""
    gc.disable()  # nothing of what is loaded goes again: looking for garbage costs a fifth of the start
    try:
        return _main(arguments)
    except KeyboardInterrupt:  # before it listens for signals
        return _INTERRUPTED
    finally:
        gc.enable()


def _main(arguments: list[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        from neffd import config as configuration
        from neffd.errors import NeffdError
    except ImportError as error:
        print(f"neffd: {error.name} is missing; hint: pip install 'neffd[daemon]'", file=sys.stderr)
        return 1
    try:
        config = configuration.load(options.config)
        if options.check_config:
            print(configuration.render(config), end="")
            return 0
        if options.forget_remote is not None:
            from neffd.publish.forget import forget_remote

            forget_remote(config, options.forget_remote, print)
            return 0
        return _run(config)
    except NeffdError as error:
        print(f"neffd: {error}", file=sys.stderr)
        return error.exit_code


def _run(config: Config) -> int:
    import asyncio  # not above: half of what is loaded before anybody minds a Ctrl-C

    from neffd import limits
    from neffd.memory import share_one_heap
    from neffd.store.database import Database
    from neffd.threads import begun

    share_one_heap()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold the token
    limits.raise_open_files()
    logging.basicConfig(level=config.log_level.upper(), format=_log_format(os.environ), stream=sys.stderr, force=True)
    database = begun(Database, config.state_dir)  # a large one is checked while the rest is loaded
    from neffd.notify import Notifier
    from neffd.service import Service

    async def serve() -> int:
        service = Service(config, database)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, service.stop)
        code = await service.run(Notifier())
        last_resort.args = (code,)
        last_resort.start()
        return code

    # The event loop, too, waits for threads when it is closed.
    last_resort = threading.Timer(_THREADS_END_S, _leave_threads, ())
    last_resort.daemon = True
    code = _loop_runner()(serve())
    if _threads_left(_THREADS_END_S):
        _leave_threads(code)
    last_resort.cancel()
    return code


def _leave_threads(code: int) -> None:
    """End at once: a thread in a dead file system, or a lookup in a dead network, cannot be ended.

    All that is durable is closed already.
    """
    stuck = ", ".join(_threads_left(0.0)) or "a lookup"
    logging.getLogger(__name__).warning("leaving threads behind: %s", stuck)
    logging.shutdown()
    os._exit(code)


def _log_format(environ: Mapping[str, str]) -> str:
    line = "%(levelname)s %(name)s: %(message)s"
    return line if environ.get("JOURNAL_STREAM") else f"%(asctime)s {line}"  # the journal has times of its own


def _loop_runner() -> Callable[[Any], int]:
    try:
        import uvloop
    except ImportError:
        import asyncio

        return asyncio.run
    return uvloop.run


def _threads_left(timeout_s: float) -> list[str]:
    deadline = time.monotonic() + timeout_s
    not_others = (threading.main_thread(), threading.current_thread())
    # No end waits for a daemon thread; our own last resort is one.
    others = [thread for thread in threading.enumerate() if thread not in not_others and not thread.daemon]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread.name for thread in others if thread.is_alive()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="neffd",
        description="The Neuron compile cache as a service on this host.",
        epilog="Example: neffd --config /etc/neffd/config.yaml",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML file; config.example.yaml documents every key"
    )
    parser.add_argument(
        "--check-config", action="store_true", help="print the configuration in effect, and start nothing"
    )
    parser.add_argument(
        "--forget-remote",
        metavar="NAME",
        help="give up what waits for a remote that is gone for good, and start nothing",
    )
    parser.add_argument("--version", action="version", version=f"neffd {__version__}")
    return parser
