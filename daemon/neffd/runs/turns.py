"""Whose turn it is among what a remote has still to be told: nothing that fails keeps others waiting. Decisions only.

A look that fails lets all of its folder rest, since it is the folder that is listed. What was not taken rests by
itself, goes last, and in ever smaller company, so that the one that is to blame ends up alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from weakref import WeakKeyDictionary

from neffd.retry import Backoff
from neffd.runs import manifests
from neffd.runs.pending import Pending

# In one commit; the Hub advises to stay under 100 files.
_AT_ONCE = 8
FIRST_RETRY_S, LONGEST_RETRY_S = 30.0, 3600.0
# A look costs little, and what comes new to a folder waits for the next one.
_LONGEST_LOOK_RETRY_S = 600.0


class Turns:
    """Args:
    clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._folders: dict[str, Backoff] = {}
        self._single: WeakKeyDictionary[Pending, Backoff] = WeakKeyDictionary()

    def wait_s(self, one: Pending) -> float:
        """Seconds until it may be looked up and sent; 0 where it may be now."""
        rests = (self._folders.get(_folder_of(one)) if self._folders else None, self._single.get(one))
        return max((rest.wait_s for rest in rests if rest is not None), default=0.0)

    def in_order(self, candidates: Collection[Pending]) -> list[Pending]:
        """What failed most goes last; of the others who came first goes first."""
        return sorted(candidates, key=lambda one: (one.refusals, one.setbacks, one.vain_looks))

    def may_join(self, company: Sequence[Pending], one: Pending) -> bool:
        """Whether it may go together with these: only with its like, and what was refused goes by itself."""
        if not company:
            return True
        first = company[0]
        is_alike = not one.refusals + first.refusals and one.setbacks == first.setbacks
        most = max(1, _AT_ONCE >> max(0, first.setbacks - 1))  # once may be chance
        return is_alike and len(company) < most

    def looked(self, one: Pending) -> None:
        """What the remote was told of its run is known."""
        one.vain_looks = 0
        self._folders.pop(_folder_of(one), None)

    def looked_in_vain(self, one: Pending) -> None:
        """Nobody can tell now."""
        one.vain_looks += 1
        folder = _folder_of(one)
        rest = self._folders.setdefault(folder, Backoff(FIRST_RETRY_S, _LONGEST_LOOK_RETRY_S, self._clock))
        rest.failed()

    def taken(self, one: Pending) -> None:
        """The remote took it, and may be given more of its run later."""
        one.refusals = one.setbacks = 0
        self._single.pop(one, None)

    def set_back(self, one: Pending) -> None:
        """It was sent and not taken, whosever fault that was."""
        one.setbacks += 1
        self._single.setdefault(one, Backoff(FIRST_RETRY_S, LONGEST_RETRY_S, self._clock)).failed()

    def forget(self, one: Pending, others: Collection[Pending]) -> None:
        """It waits no more, unlike `others`."""
        folder = _folder_of(one)
        if folder in self._folders and folder not in map(_folder_of, others):
            del self._folders[folder]


def _folder_of(one: Pending) -> str:
    """What has to be listed for a look."""
    return manifests.type_folder_of(one.manifest.namespace, one.manifest.ingredients)
