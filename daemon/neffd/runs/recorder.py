"""Which modules each run used, in order of first use. Plain objects with an injected clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from neff.keys import ModuleName
from neffd.limits import MODULES, Share, fairly
from neffd.runs.identity import Identity

LOCAL, FETCHED, PREFETCHED, COMPILED, ASKED = "local", "fetched", "prefetched", "compiled", "asked"

# A run of which nothing is heard for this long, and that nobody is connected for, has ended.
IDLE_S = 300.0
# How often remotes are told of a run that goes on: so that it travels with the entries that it has just made.
OFFER_EVERY_S = 5.0
# How often it is written down that somebody is connected for a run.
_HEARD_EVERY_S = 600.0
# A manifest is written anew each time: the longer it is, the more seldom.
_OFFER_MODULE_S = 0.01
# In one run; in all that go on together, of which one user alone has half; and how many these may be while nobody is
# connected for them. From one look at them to the next, one user may begin as many again.
MAX_MODULES = 10_000
MAX_ALL_MODULES = 200_000
MAX_RUNS = 1_000


@dataclass(slots=True)
class Used:
    """One module of a run: where it was used, and how it came there."""

    root: str
    how: str
    position: int
    size_bytes: int | None = None
    compile_s: float | None = None


@dataclass(eq=False)
class Run:
    """One run; times are monotonic seconds but for `began_at`, which is the wall clock's.

    Attributes:
        number: the recorder's own, or the database's once it is there.
        is_begun: whether what it will need was looked for, in this life of the daemon.
        is_expected: whether anything is known of what it will need; None while that is being found out.
        last_fetched: cache directory, module, and the remote that it came from.
        followed: modules whose company was fetched with them.
        withheld: why others are not told of it; None where they are, or nobody has asked yet.
        offered: how many modules it had when it was last offered as a manifest, which was at `offered_s`.
        is_untold: whether it has ended, and not all of it was offered since: until then it is written down as going on,
            so that the next life of the daemon offers it.
        changed: what is not written down yet.
    """

    identity: Identity
    began_at: float
    heard_s: float
    offered_s: float
    row: int | None = None
    modules: dict[ModuleName, Used] = field(default_factory=dict)
    connections: set[int] = field(default_factory=set)
    changed: set[ModuleName] = field(default_factory=set)
    has_ended: bool = False
    is_untold: bool = False
    is_written: bool = False
    offered: int = 0
    is_begun: bool = False
    is_expected: bool | None = None
    last_fetched: tuple[str, ModuleName, str] | None = None
    followed: set[ModuleName] = field(default_factory=set)
    withheld: str | None = None

    @property
    def saved_s(self) -> float:
        """The compile seconds that fetching saved."""
        return sum(used.compile_s or 0.0 for used in self.modules.values() if used.how in (FETCHED, PREFETCHED))

    def counts(self) -> dict[str, float]:
        """How many modules came how, and what that saved."""
        how = Counter(used.how for used in self.modules.values())
        return {
            "modules": len(self.modules),
            LOCAL: how[LOCAL],
            FETCHED: how[FETCHED] + how[PREFETCHED],
            PREFETCHED: how[PREFETCHED],
            COMPILED: how[COMPILED],
            "saved_s": round(self.saved_s, 3),
        }


class Recorder:
    """The runs that go on.

    Args:
        clock: monotonic seconds.
        wall: seconds since the epoch.
        on_limit: told which limit a user has met.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        wall: Callable[[], float],
        on_limit: Callable[[str, int], None] = lambda reason, uid: None,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._on_limit = on_limit
        self._runs: dict[str, Run] = {}
        self._shares = Share(each=2 * MAX_RUNS)
        self._modules = Share(MAX_ALL_MODULES)

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    def resume(self, runs: Iterable[Run]) -> None:
        """Go on with runs of an earlier life."""
        for run in runs:
            self._runs[run.identity.name] = run
            self._shares.put(run.identity.uid)
            self._modules.put(run.identity.uid, len(run.modules))

    def may_join(self, identity: Identity) -> bool:
        """Whether a process may say that it belongs to this run: a user begins no more of them than are looked at."""
        return identity.name in self._runs or self._shares.has_room(identity.uid)

    def joined(self, identity: Identity, connection: int | None = None) -> tuple[Run, bool]:
        """A process of a run is there; its run, and whether that has just begun."""
        run = self._runs.get(identity.name)
        is_new = run is None
        if run is None:
            now_s = self._clock()
            run = self._runs[identity.name] = Run(identity, self._wall(), now_s, now_s)
            self._shares.put(identity.uid)
        elif identity != run.identity:
            is_new = _told_more(run, identity)
        if connection is not None:
            run.connections.add(connection)
        run.heard_s = self._clock()
        return run, is_new

    def of_others(self, identity: Identity) -> list[Run]:
        """Runs of the same instance that are other users'; none where the user has one."""
        if identity.name in self._runs:
            return []
        return [run for run in self._runs.values() if run.identity.instance == identity.instance]

    def left(self, run: Run, connection: int) -> None:
        """That connection has ended."""
        run.connections.discard(connection)
        run.heard_s = self._clock()

    def used(
        self,
        run: Run,
        root: str,
        name: ModuleName,
        how: str,
        *,
        size_bytes: int | None = None,
        compile_s: float | None = None,
    ) -> bool:
        """Note that the run used a module; true if that says something new."""
        run.heard_s = self._clock()
        known = run.modules.get(name)
        if known is None:
            if len(run.modules) >= MAX_MODULES or not (run.has_ended or self._modules.take(run.identity.uid)):
                self._on_limit(MODULES, run.identity.uid)
                return False
            run.modules[name] = Used(root, how, len(run.modules), size_bytes, compile_s)
        elif known.how == ASKED and how != ASKED:
            known.how, known.root = how, root
            known.size_bytes, known.compile_s = size_bytes or known.size_bytes, compile_s or known.compile_s
        else:
            return False
        run.changed.add(name)
        return True

    def compiled(self, root: str, name: ModuleName, seconds: float | None) -> None:
        """A process of this host has compiled a module: it did so for whoever had asked for it."""
        for run in self._runs.values():
            used = run.modules.get(name)
            if used is not None and used.how in (ASKED, LOCAL) and used.root == root and used.compile_s is None:
                used.how, used.compile_s = COMPILED, seconds
                run.changed.add(name)

    def end(self, run: Run) -> None:
        """The run is over."""
        run.has_ended, run.is_written, run.heard_s = True, False, self._clock()
        if self._runs.get(run.identity.name) is run:
            del self._runs[run.identity.name]
            self._shares.give_back(run.identity.uid)
            self._modules.give_back(run.identity.uid, len(run.modules))

    def over(self) -> list[Run]:
        """Runs that have ended without saying so; of too many, the most silent ones of whoever has the most, too."""
        since_s = self._clock() - IDLE_S
        silent = sorted((run for run in self._runs.values() if not run.connections), key=lambda run: run.heard_s)
        over = [run for run in silent if run.heard_s < since_s]
        surplus = max(0, len(self._runs) - len(over) - MAX_RUNS)
        return over + fairly(silent[len(over) :], lambda run: run.identity.uid)[:surplus]

    def grown(self) -> list[Run]:
        """Runs that go on, have met new modules, and were not told of just now."""
        now_s = self._clock()
        return [
            run
            for run in self._runs.values()
            if len(run.modules) > run.offered
            and now_s - run.offered_s > OFFER_EVERY_S + _OFFER_MODULE_S * len(run.modules)
        ]

    def note_presence(self) -> None:
        """Have written down now and then that runs go on which meet nothing new: they may do so for weeks."""
        since_s = self._clock() - _HEARD_EVERY_S
        for run in self._runs.values():
            if run.connections and run.heard_s < since_s:
                run.heard_s, run.is_written = self._clock(), False

    def recent(self, within_s: float) -> list[Run]:
        """Runs that somebody is connected for, or of which something was heard in the last `within_s` seconds."""
        since_s = self._clock() - within_s
        return [run for run in self._runs.values() if run.connections or run.heard_s > since_s]


def _told_more(run: Run, identity: Identity) -> bool:
    """Another process says otherwise what its run is; whether it is another one now."""
    is_other = bool(identity.run_key) and identity.run_key != run.identity.run_key and not run.modules
    named = identity if is_other else run.identity  # the launcher's greeting came after a rank's
    is_private = run.identity.is_private or identity.is_private
    if is_private and not run.identity.is_private:
        run.changed |= run.modules.keys()
    run.identity = replace(named, is_private=is_private)
    run.is_begun, run.is_written = run.is_begun and not is_other, False
    return is_other
