"""Brings what a run is going to need, in the order in which it will need it; counts what was used of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from neff.keys import ModuleName
from neffd.fetch.flight import READY_HERE, Answer, Flight
from neffd.metrics import Metrics
from neffd.runs.budget import Budget, Spending
from neffd.runs.manifests import UsedModule
from neffd.runs.recorder import Run
from neffd.tasks import Tasks

# Asked for together, that is one question; the fetchers' own queue decides what goes first.
_PARALLEL = 100

Resolve = Callable[[ModuleName], "Answer | Flight"]
_Place = tuple[str, ModuleName]


@dataclass(frozen=True)
class Brought:
    """A module that came before anybody asked for it; `compile_s` is what compiling it once took, if that is known."""

    run: Run
    source: str
    remote: str
    size_bytes: int
    compile_s: float | None


@dataclass(eq=False)
class _Account:
    """What one source may cost one run, however often it has something to guess: one guess at a time."""

    spending: Spending
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(eq=False)
class _Guess:
    """What is fetched for one run, because of one source; `coming` has not landed yet."""

    run: Run
    root: str
    modules: Mapping[ModuleName, UsedModule]
    source: str
    account: _Account
    coming: dict[asyncio.Future[Answer], Flight] = field(default_factory=dict)

    @property
    def spending(self) -> Spending:
        return self.account.spending

    def brought(self, flight: Flight, compile_s: float | None) -> Brought:
        stated = self.modules[flight.name].compile_s
        return Brought(self.run, self.source, flight.remote, flight.total_bytes, compile_s or stated)

    def must_wait(self, stated_bytes: int | None) -> bool:
        """Whether something has to land before one more is begun."""
        return len(self.coming) >= _PARALLEL or bool(self.coming and not self.spending.fits(stated_bytes))


class Prefetcher:
    """Brings modules and keeps the accounts.

    Args:
        on_brought: told of each module that has come before anybody asked: cache directory, module, remote.

    Attributes:
        bytes_per_s: how fast modules came last; None before the first.
    """

    def __init__(
        self,
        tasks: Tasks,
        metrics: Metrics,
        budget: Budget,
        clock: Callable[[], float],
        on_brought: Callable[[str, ModuleName, str], None] = lambda root, name, remote: None,
    ) -> None:
        self._tasks = tasks
        self._metrics = metrics
        self._budget = budget
        self._clock = clock
        self._on_brought = on_brought
        self._brought: dict[_Place, Brought] = {}
        self._coming: dict[_Place, tuple[_Guess, Flight]] = {}
        self._used_bytes: dict[tuple[Run, str], int] = {}
        self._guesses: list[_Guess] = []
        self._accounts: dict[tuple[Run, str], _Account] = {}
        self.bytes_per_s: float | None = None

    def start(
        self,
        run: Run,
        root: str,
        modules: Mapping[ModuleName, UsedModule],
        source: str,
        resolve: Resolve,
        room_bytes: int | None = None,
    ) -> None:
        """Begin to bring `modules` into the cache directory `root`, as far as `source` is worth it.

        Args:
            room_bytes: more than that the directory may not hold.
        """
        account = self._accounts.get((run, source))
        if account is None:
            account = _Account(Spending(self._budget.allowance_bytes(source, run.identity.uid)))
            self._accounts[run, source] = account
        if room_bytes is not None:
            account.spending.narrow(room_bytes)
        guess = _Guess(run, root, modules, source, account)
        self._guesses.append(guess)
        self._tasks.start(self._bring_all(guess, resolve), name=f"prefetch-{run.identity.name}")

    def used(self, root: str, name: ModuleName, *, was_there: bool) -> Brought | None:
        """Somebody needs a module; what is known of it if it was brought in advance, the first time.

        Args:
            was_there: it was found in the cache directory: so it has come, even if we have not been told yet.
        """
        place = root, name
        if was_there and place in self._coming:
            guess, flight = self._coming[place]
            self._has_come(place, guess.brought(flight, None))
        brought = self._brought.pop(place, None)
        if brought is not None:
            self._metrics.prefetch_used_bytes.labels(brought.source).inc(brought.size_bytes)
            key = brought.run, brought.source
            self._used_bytes[key] = self._used_bytes.get(key, 0) + brought.size_bytes
        return brought

    def awaited(self) -> set[ModuleName]:
        """What was brought, or comes, and nobody has used yet."""
        return {name for places in (self._brought, self._coming) for _, name in places}

    def ended(self, run: Run) -> None:
        """The run is over: what it has not used by now was fetched for nothing; what still comes is judged then."""
        if any(guess.run is run for guess in self._guesses):
            return
        self._accounts = {key: account for key, account in self._accounts.items() if key[0] is not run}
        wasted_bytes = {source: 0 for of, source in self._used_bytes if of is run}
        for place, brought in list(self._brought.items()):
            if brought.run is run:
                wasted_bytes[brought.source] = wasted_bytes.get(brought.source, 0) + brought.size_bytes
                del self._brought[place]
        for source, size_bytes in wasted_bytes.items():
            self._metrics.prefetch_wasted_bytes.labels(source).inc(size_bytes)
            used_bytes = self._used_bytes.pop((run, source), 0)
            self._budget.judged(source, used_bytes, size_bytes, run.identity.uid)

    async def _bring_all(self, guess: _Guess, resolve: Resolve) -> None:
        try:
            async with guess.account.turn:
                began_s, before_bytes = self._clock(), guess.spending.spent_bytes
                await self._bring_in_order(guess, resolve)
                took_s, brought_bytes = self._clock() - began_s, guess.spending.spent_bytes - before_bytes
        finally:
            self._guesses.remove(guess)
        if guess.run.has_ended:
            self.ended(guess.run)
        if brought_bytes and took_s > 0:
            self.bytes_per_s = brought_bytes / took_s

    async def _bring_in_order(self, guess: _Guess, resolve: Resolve) -> None:
        for number, (name, module) in enumerate(guess.modules.items()):
            while guess.must_wait(module.size_bytes):
                await self._land(guess)
            if guess.run.has_ended or guess.spending.is_over(module.size_bytes):
                break
            answer = resolve(name)
            if isinstance(answer, Flight):
                guess.coming[answer.outcome] = answer
                guess.spending.begun(answer.outcome, module.size_bytes)
                self._coming[guess.root, name] = guess, answer
            if number % _PARALLEL == 0:
                await asyncio.sleep(0)  # there may be thousands, and all of them here
        while guess.coming:
            await self._land(guess)

    async def _land(self, guess: _Guess) -> None:
        """Wait until some have landed."""
        landed, _ = await asyncio.wait(guess.coming, return_when=asyncio.FIRST_COMPLETED)
        for outcome in landed:
            flight, answer = guess.coming.pop(outcome), outcome.result()
            place = guess.root, flight.name
            if not answer.ready or answer == READY_HERE:
                guess.spending.landed(outcome, flight.own_bytes)
                self._coming.pop(place, None)
                continue
            guess.spending.landed(outcome, flight.total_bytes)
            if place in self._coming:
                brought = guess.brought(flight, answer.compile_s)
                is_asked_for = flight.name in guess.run.modules  # a rank was faster: no guess any more
                self._coming.pop(place) if is_asked_for else self._has_come(place, brought)

    def _has_come(self, place: _Place, brought: Brought) -> None:
        self._coming.pop(place, None)
        self._metrics.prefetched_bytes.labels(brought.source).inc(brought.size_bytes)
        self._brought[place] = brought
        self._on_brought(*place, brought.remote)
