"""The processes of a run, and how they talk: who writes, what all agree on, and what happens when one fails.

An error on one rank ends all with its message. Where ranks work apart on what may fail (reading a batch), they agree
afterwards (`together`). What fails elsewhere is put into a store that each rank's watchman reads: a rank that waits in
a collective operation for one that has failed is ended instead of waiting for ever.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import attrs
import torch
import torch.distributed as dist
from torch import Tensor

from gentle_core.engine.place import Place
from gentle_core.errors import GentleError, Interrupted, RankError
from gentle_core.losses.talk import TALK

T = TypeVar("T")


WATCH_EVERY = 0.25
"""Seconds between two looks at whether another rank has failed."""

GRACE = 5.0
"""Seconds in which a rank may end by itself after another has failed."""

LAG = 0.2
"""Seconds for the threads of a group that cannot be ended to let go of what they have done."""


@attrs.define
class Agreed:
    """What the ranks have agreed on at the end of `Ranks.together`."""

    number: int = 0


class Ranks:
    """All processes of a run as one of them sees them; without a place, a process alone.

    Attributes:
        rank, size: number of this process, of how many.
        local_rank: number on its machine.
        place: where this was read from; None for a process alone.
        group: their process group; None for a process alone.
    """

    def __init__(self, place: Place | None = None, device: torch.device | None = None, timeout: float = 1800):
        self.rank, self.size, self.local_rank = (place.rank, place.size, place.local_rank) if place else (0, 1, 0)
        self.place = place
        self.group: Any = None
        self.device = device or torch.device("cpu")
        self.last_words: Callable[[str], None] = lambda message: None
        self._failure: RankError | None = None
        self._told = False
        if place is not None:
            self._connect(place, timeout)

    @property
    def main(self) -> bool:
        """Whether this is rank 0, which writes."""
        return self.rank == 0

    # -- words --------------------------------------------------------------------------------------------------------

    def largest(self, *values: int) -> list[int]:
        """The largest of each value over the ranks."""
        if self.group is None:
            return list(values)
        found = torch.tensor(values, dtype=torch.long)
        with TALK.timed():
            dist.all_reduce(found, op=dist.ReduceOp.MAX, group=self.group)
        return found.tolist()

    def gather(self, value: T) -> list[T]:
        """A value of each rank, in order; small objects."""
        if self.group is None:
            return [value]
        found: list[Any] = [None] * self.size
        with TALK.timed():
            dist.all_gather_object(found, value, group=self.group)
        return found

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work` returns on rank 0, on all; its error as well."""
        if self.group is None:
            return work()
        found: list[Any] = [None]
        with self.together():
            if self.main:
                found = [work()]
        with TALK.timed():
            dist.broadcast_object_list(found, src=0, group=self.group)
        return found[0]

    @contextlib.contextmanager
    def together(self, number: Callable[[], int] = int) -> Iterator[Agreed]:
        """Work that each rank does apart: an error of one is raised on all. Nothing in it may wait for another rank.

        The same exchange finds the largest `number()` of the ranks, as it is at the end; see `Agreed`.
        """
        error: Exception | None = None
        agreed = Agreed()
        try:
            yield agreed
        except Exception as caught:
            if self.group is None:
                raise
            error = caught
        failed, agreed.number = self.largest(error is not None, number())
        if not failed:
            return
        said = self.gather(None if error is None else _words(error))
        self._told = True
        if error is not None:
            _mark_said(error, self.rank)
            raise error
        rank = next(r for r, words in enumerate(said) if words is not None)
        raise _mark_said(_heard(rank, said[rank] or {}), self.rank)

    # -- tensors ------------------------------------------------------------------------------------------------------

    def gather_flat(self, x: Tensor) -> list[Tensor]:
        """The vector (n,) of each rank; n is the same on all."""
        if self.group is None:
            return [x]
        found = [torch.empty_like(x) for _ in range(self.size)]
        with TALK.timed():
            dist.all_gather(found, x, group=self.group)
        return found

    def gather_rows(self, x: Tensor, counts: Sequence[int]) -> list[Tensor]:
        """The rows (counts[r], …) of each rank r, CPU or device alike."""
        if self.group is None:
            return [x]
        padded = x.new_zeros(max(counts), *x.shape[1:])
        padded[: len(x)] = x
        return [p[:n] for p, n in zip(self.gather_flat(padded), counts, strict=True)]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their sums over the ranks."""
        self.sum_later_(tensors)()

    def sum_later_(self, tensors: Sequence[Tensor]) -> Callable[[], None]:
        """Begin to sum tensors of one type over the ranks; whoever calls what is returned finds the sums in them."""
        if self.group is None or not tensors:
            return lambda: None
        with TALK.timed():
            flat = torch.cat([t.reshape(-1) for t in tensors])
            work = dist.all_reduce(flat, group=self.group, async_op=True)

        def finish() -> None:
            with TALK.timed():
                work.wait()
                _scatter(flat, tensors)

        return finish

    def settle_(self, tensors: Sequence[Tensor], agreeable: bool) -> bool:
        """Replace tensors of one type by those of rank 0; return whether all ranks are agreeable."""
        if self.group is None:
            return agreeable
        with TALK.timed():
            like = tensors[0] if tensors else torch.empty(0, device=self.device)
            verdict = like.new_full((1,), float(agreeable))
            found = self.gather_flat(torch.cat([*(t.reshape(-1) for t in tensors), verdict]))
            _scatter(found[0][:-1], tensors)
            return bool(torch.stack([flat[-1] for flat in found]).all())

    # -- beginning and end --------------------------------------------------------------------------------------------

    def _connect(self, place: Place, timeout: float) -> None:
        # Its functions take the group of the moment of import as a default value. Imported later, as torch itself does
        # in the first step, they would keep the group, and so its threads, to the end of the process; see `close`.
        import torch.distributed.nn

        wait = timedelta(seconds=timeout)
        hosts = place.rank == 0 and not place.hosted
        try:
            store = dist.TCPStore(place.address, place.port, place.size, hosts, wait, wait_for_workers=False)
            backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            dist.init_process_group(
                backend, store=dist.PrefixStore("gentle", store), rank=place.rank, world_size=place.size, timeout=wait
            )
            port = store.port
            again = dist.TCPStore(place.address, port, place.size, False, wait, wait_for_workers=False)
            self._words = dist.PrefixStore("gentle", again)  # the watchman's own connection
        except (RuntimeError, ValueError) as error:
            raise GentleError(
                f"rank {place.rank} of {place.size} found no way to the others at {place.address}:{place.port} "
                f"within {timeout:.0f} s ({_first_line(error)}); were all processes started?"
            ) from error
        self._store, self.group = dist.PrefixStore("gentle", store), dist.group.WORLD
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._watchman, daemon=True)
        self._watch.start()

    def _watchman(self) -> None:
        while not self._ended.wait(WATCH_EVERY):
            try:
                if not self._words.check(["failed"]):
                    continue
                said = json.loads(self._words.get("failed"))
                self._words.add("heard", 1)
            except (RuntimeError, ValueError):  # whoever keeps the store is gone
                said = {"rank": 0, "text": "ended without a message", "code": 1, "lost": True}
            if said["rank"] == self.rank:
                return
            self._failure = _heard(said["rank"], said)
            if "lost" not in said:
                _mark_said(self._failure, self.rank)
            if self._ended.wait(GRACE):
                return
            with contextlib.suppress(Exception):
                self.last_words(str(self._failure))
            os._exit(self._failure.exit_code)

    def cause(self, error: BaseException) -> BaseException:
        """What ended the run where `error` ended this rank: another rank's failure if there is one. Tells the others of
        an error of this rank's own."""
        if self.group is None or self._told or isinstance(error, RankError):
            return error
        if isinstance(error, Interrupted):  # all ranks stopped together
            return _mark_said(error, self.rank)
        lost = isinstance(error, RuntimeError) and any(
            word in str(error) for word in ("gloo", "NCCL", "onnection", "imed out", "closed by peer")
        )
        deadline = time.monotonic() + (3.0 if lost else 0.0)
        while self._failure is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if self._failure is None and lost:
            self._failure = RankError(
                f"a rank ended, or did not answer for too long, without a message ({_first_line(error)})"
            )
        if self._failure is not None:
            self._told = True
            return self._failure
        self._tell(error)
        return error

    def _tell(self, error: BaseException) -> None:
        self._told = True
        with contextlib.suppress(RuntimeError):
            mine = json.dumps({"rank": self.rank, **_words(error)})
            self._store.compare_set("failed", "", mine)
            deadline = time.monotonic() + GRACE
            while (heard := self._store.add("heard", 0)) < self.size - 1 and time.monotonic() < deadline:
                time.sleep(0.05)
            if heard:
                _mark_said(error, self.rank)

    def close(self) -> None:
        """Leave the others, at the end of the process."""
        if self.group is None:
            return
        self._ended.set()
        self._watch.join()
        if not self._told:
            with contextlib.suppress(RuntimeError):
                dist.barrier()
        left = weakref.ref(self.group)
        self.group = None
        # A thread of the group that lets go of a tensor while the interpreter is being taken down aborts the process
        # (pytorch/pytorch#190489). With the last reference to the group its threads end, after what they still do. That
        # is waited for, though not for long after a failure: a thread may wait for a rank that never comes.
        if self._told:
            with contextlib.suppress(RuntimeError):  # where Python starts no thread any more
                leaving = threading.Thread(target=_leave, name="leave the ranks", daemon=True)
                leaving.start()
                leaving.join(GRACE)
        else:
            _leave()
        if left() is not None:  # someone else keeps it, as DeepSpeed does; its threads have nothing left to do
            time.sleep(LAG)


ALONE = Ranks()
"""One process without others."""


_joined: dict[Place, Ranks] = {}


@contextlib.contextmanager
def joined(place: Place | None, device: torch.device | None = None, timeout: float = 1800) -> Iterator[Ranks]:
    """The ranks of a run. They stay together until the process ends, for further runs in it.

    Raises:
        RankError: with the message of the rank that failed first, on all others.
    """
    if place is None:
        yield ALONE
        return
    if place not in _joined:
        _joined[place] = Ranks(place, device, timeout)
        atexit.register(_joined[place].close)
    ranks = _joined[place]
    try:
        yield ranks
    except BaseException as error:
        cause = ranks.cause(error)
        if cause is error:
            raise
        raise cause from error


def _leave() -> None:
    with contextlib.suppress(RuntimeError):
        dist.destroy_process_group()
    gc.collect()


E = TypeVar("E", bound=BaseException)


def _mark_said(error: E, rank: int) -> E:
    """Rank 0 says what ended the run; the others need not repeat it."""
    if rank:
        error.said = True  # type: ignore[attr-defined]
    return error


def _words(error: BaseException) -> dict[str, Any]:
    text = str(error) if isinstance(error, GentleError) else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return {"text": text, "code": getattr(error, "exit_code", 1 if isinstance(error, OSError) else 70)}


def _heard(rank: int, said: dict[str, Any]) -> RankError:
    error = RankError(f"rank {rank}: {said['text']}")
    error.exit_code = said["code"]
    return error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _scatter(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
