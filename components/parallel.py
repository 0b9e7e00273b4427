"""A map over threads that keeps order and memory."""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

# Handing work to a thread costs as much as hashing a small file, so it is done for several at once.
BATCH_ITEMS = 64
BATCH_BYTES = 8 * 2**20
QUICK_S = 0.00025


def in_order(
    function: Callable[[In], Out], values: Iterable[In], size: Callable[[In], int]
) -> Iterator[Out]:
    """Yield `function` of each value, in their order, computed on all cores; see `batched`."""
    yield from batched(lambda batch: [function(value) for value in batch], values, size)


def quick_in_order(
    function: Callable[[In], Out], values: Iterable[In], size: Callable[[In], int]
) -> Iterator[Out]:
    """Do what `in_order` does, but without threads as long as a value takes less than QUICK_S.

    Hashing small local files in two threads takes twice the CPU time and no less time.
    """
    batches = _batches(values, size)
    for batch in batches:
        started = time.monotonic()
        found = [function(value) for value in batch]
        is_slow = time.monotonic() - started > QUICK_S * len(batch)
        yield from found
        if is_slow:
            break
    yield from in_order(function, itertools.chain.from_iterable(batches), size)


def batched(
    function: Callable[[list[In]], list[Out]], values: Iterable[In], size: Callable[[In], int]
) -> Iterator[Out]:
    """Yield what `function` makes of batches of the values, in their order, on all cores.

    `function` should spend its time outside of Python, and return to it seldom: threads that wait
    for its lock make two cores slower than one. What is in flight is bounded, at two batches for
    each core and one more, each of BATCH_ITEMS values, BATCH_BYTES of `size` (in bytes), or one
    larger value.
    """
    threads = len(os.sched_getaffinity(0))
    waiting: deque[Future[list[Out]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for batch in _batches(values, size):
            waiting.append(pool.submit(function, batch))
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(values: Iterable[In], size: Callable[[In], int]) -> Iterator[list[In]]:
    batch: list[In] = []
    room = BATCH_BYTES
    for value in values:
        if batch and (len(batch) == BATCH_ITEMS or size(value) > room):
            yield batch
            batch, room = [], BATCH_BYTES
        batch.append(value)
        room -= size(value)
    if batch:
        yield batch
