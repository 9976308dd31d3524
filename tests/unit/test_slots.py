"""What may go at once, and who first: as a state machine, and the cases that matter by name."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from neffd.slots import Line, Slots
from neffd.tasks import Tasks


@dataclass(eq=False)
class Asker:
    is_urgent: bool = False


async def started(tasks: Tasks, slots: Slots, asker: Asker, amount: int = 1) -> asyncio.Task[None]:
    """Somebody who wants in, and waits by now if he has to."""
    entering = tasks.start(slots.enter(asker, amount), name="enter", watched=True)
    await asyncio.sleep(0)
    return entering


async def test_in_order_and_no_more_than_there_is() -> None:
    tasks, slots = Tasks(), Slots(2)
    entering = [await started(tasks, slots, Asker()) for _ in range(4)]
    assert [one.done() for one in entering] == [True, True, False, False]
    slots.leave()
    await entering[2]
    assert not entering[3].done()
    slots.leave()
    await entering[3]


async def test_what_a_trainer_waits_for_goes_first() -> None:
    tasks, slots = Tasks(), Slots(1)
    await slots.enter(Asker())
    prefetched = await started(tasks, slots, Asker())
    urgent = await started(tasks, slots, Asker(is_urgent=True))
    slots.leave()
    await urgent
    assert not prefetched.done()
    slots.leave()
    await prefetched


async def test_who_gives_up_in_the_turn_in_which_room_is_given_back_is_passed_over() -> None:
    tasks, slots = Tasks(), Slots(1)
    await slots.enter(Asker())
    gives_up, third = await started(tasks, slots, Asker()), await started(tasks, slots, Asker())
    gives_up.cancel()  # heard of in the next turn
    slots.leave()
    await third
    assert (gives_up.cancelled(), slots.held) == (True, 1)
    slots.leave()


async def test_who_gives_up_when_just_let_in_gives_it_back() -> None:
    tasks, slots = Tasks(), Slots(1)
    await slots.enter(Asker())
    second, third = await started(tasks, slots, Asker()), await started(tasks, slots, Asker())
    slots.leave()
    second.cancel()
    await third
    assert (second.cancelled(), slots.held) == (True, 1)


async def test_all_that_wait_and_who_holds_may_give_up_together() -> None:
    tasks, slots = Tasks(), Slots(1)

    async def hold() -> None:
        async with slots.hold(Asker()):
            await asyncio.Event().wait()

    holding = [tasks.start(hold(), name="hold", watched=True) for _ in range(4)]
    await asyncio.sleep(0)
    assert await tasks.stop(5) == []
    assert [one.cancelled() for one in holding] == [True] * 4
    assert slots.held == 0


async def test_somebody_who_becomes_urgent_goes_first() -> None:
    tasks, slots = Tasks(), Slots(4, kept_free=2)
    asker = Asker()
    await slots.enter(Asker(), 2)
    ahead, entering = await started(tasks, slots, Asker()), await started(tasks, slots, asker)
    assert not entering.done()
    asker.is_urgent = True
    slots.reconsider()
    await entering
    assert not ahead.done(), "the rest leaves a part free"
    slots.leave(2)
    await ahead


async def test_what_is_larger_than_all_goes_alone() -> None:
    tasks, slots = Tasks(), Slots(10, kept_free=2)
    small = Asker()
    await slots.enter(small, 1)
    large = await started(tasks, slots, Asker(), 100)
    behind = await started(tasks, slots, Asker(), 1)
    assert not large.done()
    assert not behind.done(), "nobody overtakes, or the large one would never go"
    slots.leave(1)
    await large
    assert not behind.done()
    slots.leave(100)
    await behind


async def test_who_leaves_the_queue_blocks_nobody() -> None:
    tasks, slots = Tasks(), Slots(10)
    await slots.enter(Asker(), 6)
    large, small = await started(tasks, slots, Asker(), 9), await started(tasks, slots, Asker(), 2)
    large.cancel()
    await small
    assert slots.held == 8


async def test_who_is_let_in_and_cancelled_at_once_gives_it_back() -> None:
    tasks, slots = Tasks(), Slots(1)
    await slots.enter(Asker())
    entering = await started(tasks, slots, Asker())
    slots.leave()
    entering.cancel()
    await asyncio.wait({entering})
    assert entering.cancelled()
    assert slots.held == 0


async def test_an_entry_holds_place_and_bytes_until_the_end() -> None:
    tasks, line = Tasks(), Line(2, 100)

    async def hold(size_bytes: int, until: asyncio.Event) -> None:
        async with line.hold(Asker(is_urgent=True), size_bytes):
            began.append(size_bytes)
            await until.wait()

    began: list[int] = []
    ends = [asyncio.Event() for _ in range(3)]
    holds = [
        tasks.start(hold(size_bytes, end), name="hold", watched=True)
        for size_bytes, end in zip((60, 50, 40), ends, strict=True)
    ]
    await asyncio.sleep(0)
    assert began == [60], "60 and 50 are too many bytes; the third has no place"
    ends[0].set()
    await holds[0]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert began == [60, 50, 40]
    for end in ends:
        end.set()
    await asyncio.gather(*holds)


async def test_a_prefetched_entry_that_is_larger_than_all_leaves_room_for_what_a_trainer_waits_for() -> None:
    tasks, line = Tasks(), Line(4, 100)
    began: list[str] = []
    end = asyncio.Event()

    async def hold(who: str, asker: Asker, size_bytes: int) -> None:
        async with line.hold(asker, size_bytes):
            began.append(who)
            await end.wait()

    held = []
    for who, asker, size_bytes in [
        ("large", large := Asker(), 1_000),
        ("prefetched", Asker(), 1),
        ("trainer", Asker(is_urgent=True), 25),
    ]:
        held.append(tasks.start(hold(who, asker, size_bytes), name=who, watched=True))
        await asyncio.sleep(0)
    assert began == ["large", "trainer"]
    large.is_urgent = True
    end.set()
    await asyncio.gather(*held)
    assert began == ["large", "trainer", "prefetched"]
    await line.hold(Asker(is_urgent=True), 100).__aenter__()  # all of it was given back, though one became urgent


_STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "leave", "cancel", "promote"]), st.booleans(), st.integers(1, 12)), max_size=40
)


@given(_STEPS, st.integers(1, 10), st.integers(0, 4))
def test_the_limit_holds_and_everybody_gets_in(steps: list[tuple[str, bool, int]], most: int, kept_free: int) -> None:
    asyncio.run(_check_steps(steps, most, min(kept_free, most - 1)))


async def _check_steps(steps: list[tuple[str, bool, int]], most: int, kept_free: int) -> None:
    tasks, slots = Tasks(), Slots(most, kept_free)
    inside: list[int] = []
    waiting: list[tuple[asyncio.Task[None], Asker, int]] = []

    async def look() -> None:
        await asyncio.sleep(0)
        for one in [one for one in waiting if one[0].done()]:
            waiting.remove(one)
            if not one[0].cancelled():
                inside.append(one[2])
        assert slots.held == sum(inside)
        assert sum(inside) <= most or len(inside) == 1

    for step, is_urgent, number in steps:
        if step == "enter":
            asker = Asker(is_urgent)
            waiting.append((await started(tasks, slots, asker, number), asker, number))
        elif step == "leave" and inside:
            slots.leave(inside.pop(number % len(inside)))
        elif step == "cancel" and waiting:
            waiting[number % len(waiting)][0].cancel()
        elif step == "promote" and waiting:
            waiting[number % len(waiting)][1].is_urgent = True
            slots.reconsider()
        await asyncio.sleep(0)
        await look()
    while waiting:
        assert inside, "somebody waits, and nothing is held"
        slots.leave(inside.pop())
        await asyncio.sleep(0)
        await look()
