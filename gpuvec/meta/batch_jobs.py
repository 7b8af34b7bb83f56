"""What batch jobs leave in the store, so that any process can watch one, end it or go on with it.

A job's folder is written by whoever works on it, and read by everybody; no object but the sign of
life is ever changed. Each time somebody begins to work on a job is a *run*, numbered from 1. The
newest claim alone counts: who finds a newer one than his own stops.

| step | what is there then | died after it |
|---|---|---|
| 1 rows in memory are written | `job-data/` | no job; they are deleted a day later |
| 2 versions are pinned, its `.json` is created | a job that waits | it waits for `resume` |
| 3 a run is claimed | `run-n-claim` | the sign of life stops: it is interrupted |
| 4 the parts are decided | `plan.json` | the next run has the same parts |
| 5 a part's file is put in place | the file | it is written again, over itself |
| 6 its receipt is created | `part-*` | the part is never done again |
| 7 all receipts are there | `done.json` | pins expire; rows of step 1 go with the job |
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gpuvec.errors import CorruptError, damaged_entry, newer_job, no_such_job
from gpuvec.storage import keys
from gpuvec.storage.object_store import Delete, Get, List, Procedure, Put, PutIfAbsent, Size
from gpuvec.types import Version

FORMAT = 1
ENDINGS = ("cancelled", "failed", "stopped")  # the first of several counts
ORPHAN_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What is to be done; never changed.

    Attributes:
        what: the plan as people read it, a line per step.
        plan: see `gpuvec.query.plan_json`.
        versions: of the collections that it reads, with their ids.
        output: where the files go, a path or URL without credentials.
        by_cluster: whether coordinators take it up by themselves.
        part_rows: queries, or rows, of one part; None: what a measurement says.
    """

    job_id: str
    what: tuple[str, ...]
    plan: Mapping[str, Any]
    versions: tuple[tuple[str, Version], ...]
    output: str
    created_ms: int
    by_cluster: bool = False
    part_rows: int | None = None

    @property
    def title(self) -> str:
        """What it does, in a line."""
        return " ".join(self.what[0].split()) if self.what else "rows"

    def pins(self) -> dict[str, tuple[str, Version]]:
        """Return collection and version of its pins, by their names in the collections' logs."""
        return {f"job-{self.job_id}-{n}": pinned for n, pinned in enumerate(self.versions)}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal spec."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "JobSpec":
        """Make the spec that `to_json` wrote."""
        values = {name: value for name, value in data.items() if name != "format"}
        versions = tuple((name, version) for name, version in values["versions"])
        return cls(**{**values, "what": tuple(values["what"]), "versions": versions})


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPlan:
    """One part: a block of the driver's rows; see `gpuvec.query.cut.Block`."""

    start: Any
    stop: Any
    rows: int
    first: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """The parts of a job.

    Attributes:
        kind: what `start` and `stop` are: `rows` positions, `keys` keys; `whole`: one part.
    """

    kind: str
    parts: tuple[PartPlan, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal plan."""
        parts = [[part.start, part.stop, part.rows, part.first] for part in self.parts]
        return {"kind": self.kind, "parts": parts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "JobPlan":
        """Make the plan that `to_json` wrote."""
        names = ("start", "stop", "rows", "first")
        parts = tuple(PartPlan(**dict(zip(names, p, strict=True))) for p in data["parts"])
        return cls(kind=data["kind"], parts=parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A part is done: its file is in place.

    Attributes:
        rows: of the answer.
        size_bytes: of the file.
    """

    part: int
    rows: int
    size_bytes: int
    seconds: float
    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who works on a job.

    Attributes:
        worker: host and process, for people.
        host, process: to look whether it lives; `process` is its number and when it began.
        begun_ms: when it claimed the job.
        done_rows: of the driver that were done before.
    """

    worker: str
    host: str
    process: tuple[int, int]
    begun_ms: int
    done_rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """What is known of a job that exists.

    Attributes:
        plan: None: not decided yet.
        parts: that are done.
        run: the newest one; 0: nobody has worked on it.
        claim: of that run.
        ending: how that run ended: one of `ENDINGS`; "": it has not, as far as it says.
        facts: of the ending.
        beat_ms: the newest sign of life of that run.
        done: every part is.
    """

    plan: JobPlan | None = None
    parts: frozenset[int] = frozenset()
    run: int = 0
    claim: Claim | None = None
    ending: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    beat_ms: int = 0
    done: bool = False

    @property
    def missing(self) -> int | None:
        """Parts that are not done; None while it is not decided which there are."""
        return None if self.plan is None else len(self.plan.parts) - len(self.parts)

    @property
    def rows_done(self) -> int:
        """Rows of the driver whose parts are done."""
        return 0 if self.plan is None else sum(self.plan.parts[n].rows for n in self.parts)

    @property
    def share(self) -> float:
        """How much is done, 0 to 1."""
        if self.done or self.plan is None:
            return float(self.done)
        total = sum(part.rows for part in self.plan.parts)
        return self.rows_done / total if total else 0.0


def create_job(spec: JobSpec) -> Procedure[None]:
    """Create a job; what it reads is written and pinned before."""
    yield PutIfAbsent(keys.job(spec.job_id), _text(spec.to_json()))


def read_spec(job_id: str) -> Procedure[JobSpec]:
    """Return what a job shall do.

    Raises:
        NotFoundError: `GV-774`, there is no such job.
        UnsupportedError: `GV-777`, a later gpuvec wrote it.
    """
    data = (yield from _read(keys.job(job_id))) if keys.is_ulid(job_id) else None
    if data is None:
        raise no_such_job(job_id, (yield from list_jobs()))
    if data.get("format") != FORMAT:
        raise newer_job(job_id, data.get("format"))
    return JobSpec.from_json(data)


def list_jobs() -> Procedure[list[str]]:
    """Return the names of all jobs, the oldest first."""
    found = yield List(f"{keys.JOBS}/")
    return [key.removeprefix(f"{keys.JOBS}/").removesuffix(".json") for key in found]


def read_state(job_id: str, plan: JobPlan | None = None) -> Procedure[JobState]:
    """Return how a job stands.

    Args:
        job_id: of a job that exists.
        plan: if it is known already; it never changes.
    """
    folder = keys.job_work(job_id)
    names = {key.removeprefix(folder) for key in (yield List(folder))}
    if plan is None and "plan.json" in names:
        plan = JobPlan.from_json((yield from _read(f"{folder}plan.json")) or {})
    parts = frozenset(int(n[5:-5]) for n in names if n.startswith("part-"))
    run = max((int(n[4:10]) for n in names if n.startswith("run-")), default=0)
    claim, beat_ms, ending, facts = None, 0, "", {}
    if _run_file(run, "claim") in names:
        found = (yield from _read(folder + _run_file(run, "claim"))) or {}
        claim = Claim(**{**found, "process": tuple(found["process"])})
        beat = (yield from _read(folder + _run_file(run, "beat"))) or {}
        beat_ms = beat.get("at_ms", claim.begun_ms)
    for end in ENDINGS:
        if not ending and _run_file(run, end) in names:
            ending, facts = end, (yield from _read(folder + _run_file(run, end))) or {}
    return JobState(
        plan=plan, parts=parts, run=run, claim=claim, ending=ending, facts=facts,
        beat_ms=beat_ms, done="done.json" in names,
    )  # fmt: skip


def claim_run(job_id: str, run: int, claim: Claim) -> Procedure[bool]:
    """Begin run number `run`; False: somebody else has."""
    key = keys.job_work(job_id, _run_file(run, "claim"))
    mine = _text(asdict(claim))
    if (yield PutIfAbsent(key, mine)):
        return True
    found = yield from _read(key)
    return bool(found == json.loads(mine))  # a lost answer, and this was the first try


def write_beat(job_id: str, run: int, at_ms: int) -> Procedure[None]:
    """Say that a run goes on."""
    yield Put(keys.job_work(job_id, _run_file(run, "beat")), [_text({"at_ms": at_ms})])


def is_stopped(job_id: str, run: int) -> Procedure[bool]:
    """Return whether a run was ended by somebody else: cancelled, or replaced by a newer one."""
    newer = yield List(keys.job_work(job_id, "run-"), keys.job_work(job_id, f"run-{run:06d}-b"))
    own = ("beat", "claim", "failed", "stopped")
    ours = {keys.job_work(job_id, _run_file(run, name)) for name in own}
    return bool(set(newer) - ours)


def end_run(job_id: str, run: int, ending: str, facts: Mapping[str, Any]) -> Procedure[None]:
    """Say how a run ended; the first word on it stays."""
    yield PutIfAbsent(keys.job_work(job_id, _run_file(run, ending)), _text(dict(facts)))


def decide_plan(job_id: str, plan: JobPlan) -> Procedure[JobPlan]:
    """Decide the parts; return those that hold, which another run may have decided first."""
    key = keys.job_work(job_id, "plan.json")
    if (yield PutIfAbsent(key, _text(plan.to_json()))):
        return plan
    return JobPlan.from_json((yield from _read(key)) or {})


def has_receipt(job_id: str, part: int) -> Procedure[bool]:
    """Return whether a part is done."""
    found = yield List(keys.job_work(job_id, _part_file(part)))
    return bool(found)


def write_receipt(job_id: str, receipt: Receipt) -> Procedure[None]:
    """Say that a part is done; the first receipt stays."""
    key = keys.job_work(job_id, _part_file(receipt.part))
    yield PutIfAbsent(key, _text(asdict(receipt)))


def read_receipts(job_id: str) -> Procedure[list[Receipt]]:
    """Return all receipts, by part."""
    found = []
    for key in (yield List(keys.job_work(job_id, "part-"))):
        data = yield from _read(key)
        if data is not None:
            found.append(Receipt(**data))
    return sorted(found, key=lambda receipt: receipt.part)


def finish_job(job_id: str, facts: Mapping[str, Any]) -> Procedure[None]:
    """Say that every part is done, and delete the rows that it read."""
    yield PutIfAbsent(keys.job_work(job_id, "done.json"), _text(dict(facts)))
    yield Delete((yield List(keys.job_data(job_id))))


def forget_job(job_id: str) -> Procedure[None]:
    """Delete all that there is of a job, what names it last."""
    for prefix in (keys.job_work(job_id), keys.job_data(job_id), f"{keys.job_rows(job_id)}/"):
        yield Delete((yield List(prefix)))
    yield Delete([keys.job(job_id)])


def sweep_jobs(now_ms: int) -> Procedure[None]:
    """Delete rows of jobs that were never created, a day after they were written."""
    for key in (yield List(f"{keys.JOB_DATA}/")):
        job_id = key.split("/")[1]
        is_old = keys.is_ulid(job_id) and keys.ulid_time_ms(job_id) < now_ms - ORPHAN_MS
        if is_old and (yield Size(keys.job(job_id))) is None:
            yield Delete([key])


def _run_file(run: int, name: str) -> str:
    return f"run-{run:06d}-{name}.json"


def _part_file(part: int) -> str:
    return f"part-{part:05d}.json"


def _text(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()


def _read(key: str) -> Procedure[dict[str, Any] | None]:
    """Return the JSON object of a key; None when there is none."""
    try:
        found = json.loads((yield Get(key)))
    except CorruptError as error:
        if error.details.get("missing"):
            return None
        raise
    except ValueError as error:
        raise damaged_entry(key, str(error)) from error
    return dict(found)
