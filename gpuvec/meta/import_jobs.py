"""What bulk imports under way leave in the store, so that a killed one goes on where it was.

A job's folder holds one object per step, named by a ULID: its plan, then each part that is in
segment files. Steps are never changed. The folder goes when the import is committed, or a day after
its last step.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuvec.errors import CorruptError, damaged_entry
from gpuvec.meta.changes import SegmentRecord
from gpuvec.storage import keys
from gpuvec.storage.object_store import Delete, Get, List, Nonce, Now, Procedure, Put

KEEP_MS = 24 * 3600 * 1000  # after its last step an import is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDone:
    """Some rows of the files that are in segments.

    Attributes:
        part: its number in the plan.
        segments: in the order of the rows; `ts` is 0 until the commit gives it.
        rows: that were read, also those which lost to others of the same key.
    """

    part: int
    segments: tuple[SegmentRecord, ...]
    rows: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal record."""
        segments = [segment.to_json() for segment in self.segments]
        return {"part": self.part, "segments": segments, "rows": self.rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PartDone":
        """Make the record that `to_json` wrote."""
        segments = tuple(SegmentRecord.from_json(item) for item in data["segments"])
        return cls(part=data["part"], segments=segments, rows=data["rows"])


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSteps:
    """What is known of a job: its plan, None before there is one, and the parts done."""

    plan: Mapping[str, Any] | None = None
    parts: Mapping[int, PartDone] = field(default_factory=dict)


def read_steps(prefix: str, job: str) -> Procedure[JobSteps]:
    """Return what a job has done, by its first plan."""
    plan: Mapping[str, Any] | None = None
    parts: dict[int, PartDone] = {}
    for key in (yield List(f"{keys.imports_folder(prefix)}/{job}/")):
        try:
            data = json.loads((yield Get(key)))
        except CorruptError as error:
            if error.details.get("missing"):
                continue
            raise
        except ValueError as error:
            raise damaged_entry(key, str(error)) from error
        if "part" in data:
            done = PartDone.from_json(data)
            parts.setdefault(done.part, done)
        elif plan is None:
            plan = data
    return JobSteps(plan=plan, parts=parts if plan is not None else {})


def write_step(prefix: str, job: str, step: Mapping[str, Any]) -> Procedure[None]:
    """Add a plan, or the JSON of a `PartDone`."""
    now_ms, nonce = (yield Now()), (yield Nonce())
    key = keys.import_step(prefix, job, keys.ulid(now_ms, nonce))
    yield Put(key, [json.dumps(step, separators=(",", ":")).encode()])


def forget_job(prefix: str, job: str) -> Procedure[None]:
    """Delete the steps of a job; its segments stay, as orphans unless a manifest names them."""
    yield Delete((yield List(f"{keys.imports_folder(prefix)}/{job}/")))


def oldest_import_ms(prefix: str, now_ms: int) -> Procedure[int | None]:
    """Return when the oldest import under way began; None when none is.

    Segments born since then may be those of an import that goes on, or can: a collection that
    leaves them alone spares their being written again. Steps of imports that were given up are
    deleted.
    """
    jobs: dict[str, list[str]] = {}
    for key in (yield List(f"{keys.imports_folder(prefix)}/")):
        found = keys.parse_import_step(key)
        if found is not None:
            jobs.setdefault(found[0], []).append(key)
    begun: list[int] = []
    for steps in jobs.values():
        times = [
            keys.ulid_time_ms(parsed[1]) for k in steps if (parsed := keys.parse_import_step(k))
        ]
        if max(times) < now_ms - KEEP_MS:
            yield Delete(steps)
        else:
            begun.append(min(times))
    return min(begun, default=None)
