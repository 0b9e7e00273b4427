"""A map over threads that keeps order and memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

# Handing work to a thread costs as much as hashing a small file, so it is done for several at once.
BATCH_ITEMS = 32
BATCH_BYTES = 8 * 2**20


def in_order(
    function: Callable[[In], Out], values: Iterable[In], size: Callable[[In], int]
) -> Iterator[Out]:
    """Yield `function` of each value, in their order, computed on all cores; see `batched`."""
    yield from batched(lambda batch: [function(value) for value in batch], values, size)


def batched(
    function: Callable[[list[In]], list[Out]], values: Iterable[In], size: Callable[[In], int]
) -> Iterator[Out]:
    """Yield what `function` makes of batches of the values, in their order, on all cores.

    `function` should spend its time outside of Python, and return to it seldom: threads that wait
    for its lock make two cores slower than one. What is in flight is bounded, at a batch more than
    there are cores: BATCH_ITEMS values or BATCH_BYTES of `size`, in bytes, or a single larger
    value.
    """
    threads = len(os.sched_getaffinity(0))
    waiting: deque[Future[list[Out]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for batch in _batches(values, size):
            waiting.append(pool.submit(function, batch))
            if len(waiting) > threads:
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
