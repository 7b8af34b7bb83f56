"""One batch job, opened: its plan, its parts, and the making of one part. Any process can do it."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Protocol

from gpuvec import errors, telemetry
from gpuvec.api.engine import Engine
from gpuvec.api.job_output import Output
from gpuvec.api.job_sources import JobSources, is_collection
from gpuvec.meta.batch_jobs import JobPlan, JobSpec, PartPlan, Receipt, has_receipt, write_receipt
from gpuvec.once import cached_property
from gpuvec.query.collect import stream_rows
from gpuvec.query.cut import Block, Driver, cut, driver_of, driver_rows, first_numbers, key_bounds
from gpuvec.query.estimate import row_bytes
from gpuvec.query.plan import Plan, Search
from gpuvec.query.plan_json import plan_from_json
from gpuvec.query.session import Session
from gpuvec.rows import Rows
from gpuvec.storage.outside import kind_of_place

PART_S = 2.0  # that a part shall take, when a measurement decides
PART_BYTES = 256 << 20  # of a part's rows, at most
FEW_ROWS = 1024  # queries that are one part without measuring
PROBE_ROWS = 256
MOST_PARTS = 99_999
TRIES = 3  # of a part, where another one may succeed
_WAITS_S = (0.2, 1.0)

Tell = Callable[[], None]  # called often; raises to end the work


class Runner(Protocol):
    """Where parts are made."""

    def cut_up(self, job: "BatchJob") -> JobPlan:
        """Return the parts of a job; see `BatchJob.cut_up`."""

    def receipts(self, job: "BatchJob", parts: list[int], tell: Tell) -> Iterator[Receipt]:
        """Yield the receipts of parts as they are done; closing ends the work.

        Raises:
            PartFailed: a part cannot be made.
        """


class PartFailed(Exception):
    """A part cannot be made, however often it is tried."""

    def __init__(self, part: int, tries: int, cause: BaseException) -> None:
        super().__init__(f"part {part}: {cause}")
        self.part = part
        self.tries = tries
        self.cause = cause

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.part, self.tries, self.cause)


class BatchJob:
    """A job that exists, over the rows that it was submitted with.

    Args:
        engine: of its database.
        session: whose memory and threads to use.
        spec: what to do.
    """

    def __init__(self, engine: Engine, session: Session, spec: JobSpec) -> None:
        self.engine = engine
        self.session = session
        self.spec = spec
        self.output = Output(spec.output, output_options(engine, spec.output))

    @cached_property
    def plan(self) -> Plan:
        """The whole plan; what it reads is looked at when it is first asked for."""
        keeper = JobSources(self.engine, self.session, self.spec.job_id)
        return plan_from_json(self.spec.plan, keeper)

    @cached_property
    def driver(self) -> Driver | None:
        """Where the plan can be cut."""
        return driver_of(self.plan, is_collection)

    def close(self) -> None:
        """Let go of what the plan reads; it is opened again when it is asked for."""
        for name in ("plan", "driver"):
            self.__dict__.pop(name, None)

    def part_plan(self, plan: JobPlan, part: int) -> Plan:
        """Return the plan of one part's rows."""
        if plan.kind == "whole":
            return self.plan
        return cut(self.plan, _block(plan, plan.parts[part]))

    def make(self, plan: JobPlan, part: int, worker: str, tell: Tell) -> Receipt:
        """Make one part: its file, then its receipt.

        A part that has a receipt by the time that its rows are computed is dropped.
        """
        begun = time.perf_counter()
        node = self.part_plan(plan, part)

        def pieces() -> Iterator[Rows]:
            for piece in stream_rows(node, self.session, None):
                tell()
                yield piece

        def wanted() -> bool:
            tell()
            return not self.engine.run(has_receipt(self.spec.job_id, part))

        columns = self.plan.columns.leaving
        with telemetry.span("job_part", job=self.spec.job_id, part=part):
            rows, size = self.output.write(part, pieces(), columns, wanted)
        seconds = time.perf_counter() - begun
        receipt = Receipt(part=part, rows=rows, size_bytes=size, seconds=seconds, worker=worker)
        self.engine.run(write_receipt(self.spec.job_id, receipt))
        telemetry.JOB_PARTS.add(1, "done")
        return receipt

    def make_surely(self, plan: JobPlan, part: int, worker: str, tell: Tell) -> Receipt:
        """Make one part, again where stores or nodes failed that may answer next time.

        Raises:
            PartFailed: with the last error.
        """
        for number in range(TRIES):
            try:
                return self.make(plan, part, worker, tell)
            except Exception as error:
                if number == TRIES - 1 or not may_pass(error):
                    telemetry.JOB_PARTS.add(1, "failed")
                    raise PartFailed(part, number + 1, error) from error
                telemetry.JOB_PARTS.add(1, "retried")
                time.sleep(_WAITS_S[number])
        raise AssertionError("unreachable")

    def cut_up(self, width: int) -> JobPlan:
        """Decide the parts: as many queries each as a measurement says take `PART_S`.

        Args:
            width: of the runner: there shall be work for all.
        """
        driver = self.driver
        if driver is None:
            return JobPlan(kind="whole", parts=(PartPlan(start=None, stop=None, rows=1),))
        total = driver_rows(driver, self.session)
        size = self.spec.part_rows
        if size is None:
            size = min(self._part_rows(total), max(PROBE_ROWS, -(-total // (2 * width))))
        size = max(1, size, -(-total // MOST_PARTS))
        return self._by_keys(driver, size, total) if driver.key else self._by_rows(size, total)

    def _by_rows(self, size: int, total: int) -> JobPlan:
        ends = [(start, min(start + size, total)) for start in range(0, max(total, 1), size)]
        blocks = [Block(start=start, stop=stop, first=start) for start, stop in ends]
        firsts = [block.first for block in blocks]
        if self.driver is not None and self.driver.numbered and len(blocks) > 1:
            firsts = first_numbers(self.plan, blocks, self.session)
        parts = [
            PartPlan(start=start, stop=stop, rows=stop - start, first=first)
            for (start, stop), first in zip(ends, firsts, strict=True)
        ]
        return JobPlan(kind="rows", parts=tuple(parts))

    def _by_keys(self, driver: Driver, size: int, total: int) -> JobPlan:
        ends = [None, *key_bounds(driver, self.session, size), None]
        parts = [
            PartPlan(start=start, stop=stop, rows=min(size, total - number * size))
            for number, (start, stop) in enumerate(pairwise(ends))
        ]
        return JobPlan(kind="keys", parts=tuple(parts))

    def _part_rows(self, total: int) -> int:
        """Return how many of the driver's rows a part should have."""
        search = _first_search(self.plan)
        width = max(1, row_bytes(self.plan.columns, self.plan.columns.visible))
        if search is None:
            return max(1, PART_BYTES // width)
        if total <= FEW_ROWS:
            return FEW_ROWS
        k = (search.k or 1000) * search.group_size
        most = max(1, PART_BYTES // (width * k))
        self._time(0)  # opens files and caches
        return int(min(most, max(1, PART_S / max(1e-9, self._time(PROBE_ROWS) / PROBE_ROWS))))

    def _time(self, start: int) -> float:
        """Return the seconds that some queries take."""
        begun = time.perf_counter()
        block = Block(start=start, stop=start + PROBE_ROWS, first=start)
        for _ in stream_rows(cut(self.plan, block), self.session, None):
            pass
        return time.perf_counter() - begun


def output_options(engine: Engine, url: str) -> Any:
    """Return the database's `storage_options` for a URL of the same kind; else None."""
    kind = kind_of_place(url)
    fits = kind != "file" and kind == kind_of_place(engine.where)
    return engine.storage_options if fits else None


def may_pass(error: Exception) -> bool:
    """Return whether the same work may succeed another time."""
    return isinstance(error, OSError) and not isinstance(
        error, errors.CorruptError | errors.AccessDeniedError
    )


def _block(plan: JobPlan, part: PartPlan) -> Block:
    by_key = plan.kind == "keys"
    return Block(start=part.start, stop=part.stop, by_key=by_key, first=part.first)


def _first_search(node: Plan) -> Search | None:
    while not isinstance(node, Search):
        below = node.inputs
        if not below:
            return None
        node = below[0]
    return node
