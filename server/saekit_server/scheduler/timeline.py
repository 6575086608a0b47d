"""Job ids in the order of a time: deadlines, arrivals."""

from heapq import heappop, heappush
from itertools import count
from operator import itemgetter

from saekit_server.scheduler.job import JobId

_Item = tuple[float, int, JobId]


class Timeline:
    """A heap whose discarded ids stay until they surface, or until they are the greater part.

    Every step is O(log n) at worst: what is left over is cleared away a few items at a time, with
    no pause to rebuild the heap. It holds ids, not jobs, so that what is left over of a job that
    has ended keeps none of its memory.
    """

    def __init__(self) -> None:
        self._live: dict[JobId, _Item] = {}
        self._heap: list[_Item] = []
        self._old_heap: list[_Item] = []
        self._order = count()

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, job_id: JobId) -> bool:
        return job_id in self._live

    def time_of(self, job_id: JobId) -> float:
        return self._live[job_id][0]

    def add(self, time: float, job_id: JobId) -> None:
        item = (time, next(self._order), job_id)
        self._live[job_id] = item
        heappush(self._heap, item)

    def discard(self, job_id: JobId) -> None:
        self._live.pop(job_id, None)
        if not self._old_heap and len(self._heap) > 2 * len(self._live) + 64:
            self._heap, self._old_heap = [], self._heap
        for _ in range(min(4, len(self._old_heap))):
            # Without its last leaf a heap is still one, so both stay in order meanwhile.
            item = self._old_heap.pop()
            if self._is_live(item):
                heappush(self._heap, item)

    def first(self) -> float | None:
        """The earliest time, or None when empty."""
        heap = self._earlier_heap()
        return heap[0][0] if heap else None

    def pop_due(self, now: float) -> list[JobId]:
        """Removes and returns the ids whose time is `now` or earlier, earliest first."""
        due = []
        while (heap := self._earlier_heap()) and heap[0][0] <= now:
            job_id = heappop(heap)[2]
            del self._live[job_id]
            due.append(job_id)
        return due

    def _earlier_heap(self) -> list[_Item]:
        for heap in (self._heap, self._old_heap):
            while heap and not self._is_live(heap[0]):
                heappop(heap)
        if self._heap and self._old_heap:
            return min(self._heap, self._old_heap, key=itemgetter(0))
        return self._heap or self._old_heap

    def _is_live(self, item: _Item) -> bool:
        return self._live.get(item[2]) is item
