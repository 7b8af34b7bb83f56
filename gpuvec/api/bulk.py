"""A bulk import: from a list of files to one write. `gpuvec.node.import_files` has its steps."""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from gpuvec import errors
from gpuvec.api.engine import Engine
from gpuvec.api.import_part import HELD, ImportingPart, Part, Tell, batches, files_at
from gpuvec.api.import_rows import ImportRows, first_ids
from gpuvec.api.source import WriteResult
from gpuvec.api.source_files import Piece, SourceFiles, Survey
from gpuvec.api.works import Works
from gpuvec.kernels.parallel import thread_count
from gpuvec.messages import OnConflict
from gpuvec.meta.catalog import CollectionState, SegmentRecord, WriteSummary
from gpuvec.meta.import_jobs import PartDone, forget_job, read_steps, write_step
from gpuvec.node.import_files import write_part
from gpuvec.node.import_keys import ImportedKeys
from gpuvec.node.import_settle import Addition, Meeting, Share, rows_left, settle
from gpuvec.node.loader import Loader
from gpuvec.node.shards import Channels
from gpuvec.query.session import Session
from gpuvec.schema import Int64
from gpuvec.segment.visible import Layout
from gpuvec.storage import keys
from gpuvec.storage.object_store import Procedure
from gpuvec.types import ChannelName, RequestId

_LEAST_SEGMENT_BYTES = 64 << 20  # worth a thread
_SLACK = 1.25  # beyond what is wanted: better one such segment than a small one beside it


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportWish:
    """What is imported, and how.

    Attributes:
        columns: of the files to fields; None leaves a column out.
        options: `storage_options` of the files; None: the database's, where they fit.
    """

    collection_id: str
    name: str
    pattern: str
    columns: Mapping[str, str | None]
    partition: str
    on_conflict: OnConflict
    options: Mapping[str, Any] | None = None


class BulkImport:
    """One import. Making one finds the files; `run` may be called again after a failure.

    Args:
        engine: of the database.
        session: whose memory and threads to use.
        wish: what to do.

    Raises:
        NotFoundError: `GV-703`, no file matches.
        QueryError: `GV-705`, an ending that is not understood.
    """

    def __init__(self, engine: Engine, session: Session, wish: ImportWish) -> None:
        self._engine = engine
        self._session = session
        self._wish = wish
        self._source = find_files(engine, wish.pattern, wish.options)
        self.job = _job_name(wish, self._source)
        self._prefix = keys.collection(wish.collection_id)

    @property
    def what(self) -> str:
        """The work, for people."""
        return f'import of {self._wish.pattern} into "{self._wish.name}"'

    @property
    def works(self) -> Works:
        """What tells of the work that runs here."""
        return self._engine.own_works

    @property
    def collection_id(self) -> str:
        """Where the rows go."""
        return self._wish.collection_id

    @property
    def size_bytes(self) -> int:
        """Bytes of the files."""
        return self._source.size_bytes

    def run(self, tell: Tell, begin: Callable[[int], None] = lambda _: None) -> WriteResult:
        """Import; nothing is visible before the end, then all is.

        Args:
            tell: hears of bytes that are done.
            begin: hears how many there are.

        Raises:
            SchemaError: rows that do not fit, with file and row; `GV-663`, `GV-664` keys.
            CorruptError, StorageError, ConflictError: of the files.
        """
        with self._engine.maintenance.at_work():  # whose files no collection takes meanwhile
            return self._run(tell, begin)

    def _run(self, tell: Tell, begin: Callable[[int], None]) -> WriteResult:
        engine, wish = self._engine, self._wish
        state = engine.state(wish.collection_id)
        earlier = self._earlier(state)
        if earlier is not None and self._stands(earlier):
            return _result(earlier, state)
        with engine.owning(wish.collection_id):
            state = engine.state(wish.collection_id)
        layout = Layout(state.schema, state.schema_version, state.field_versions)
        rows = ImportRows(self._source, wish.columns, state.schema)
        parts, done = self._plan(state, rows)
        begin(sum(part.size_bytes for part in parts))
        for number in done:
            tell(parts[number].size_bytes)
        works = self._works(dict(enumerate(parts)), layout, tuple(sorted(state.channels)))
        missing = {number: work for number, work in works.items() if number not in done}
        if missing:
            done |= self._write(missing, rows, tell)
        records = [record for number in range(len(parts)) for record in done[number].segments]
        write = self._commit(self._shares(records, rows, state), rows, earlier)
        engine.run(forget_job(self._prefix, self.job))
        engine.builds.tend()
        return _result(write, state)

    def _earlier(self, state: CollectionState) -> WriteSummary | None:
        """Return the same import where it was done before, as far back as writes are listed."""
        return next((w for w in reversed(state.history) if w.request_id == self.job), None)

    def _stands(self, earlier: WriteSummary) -> bool:
        """Return whether to do an import again would change nothing, as far as a look tells."""
        with self._engine.reading(self._wish.collection_id) as snapshot:
            if snapshot.version == earlier.ts:
                return True
            if self._wish.on_conflict is OnConflict.SKIP:  # what it skipped may be gone
                return False
            return rows_left(snapshot, earlier.ts) == earlier.inserted + earlier.updated

    # Step 1

    def _plan(
        self, state: CollectionState, rows: ImportRows
    ) -> tuple[list[Part], dict[int, PartDone]]:
        """Return the parts, and those that are in files already."""
        run = self._engine.run
        steps = run(read_steps(self._prefix, self.job))
        plan: Mapping[str, Any]
        if steps.plan is None:
            survey = self._source.survey()
            rows.check(survey)
            numbers = self._numbers(survey, rows, state)
            plan = self._new_plan(survey, numbers, len(state.channels))
            run(write_step(self._prefix, self.job, plan))
        else:
            plan = steps.plan
        parts = [
            Part(tuple(Piece(**piece) for piece in part["pieces"]), tuple(part["first_ids"]))
            for part in plan["parts"]
        ]
        lost = set(state.dead)
        whole = {
            number: part
            for number, part in steps.parts.items()
            if not lost.intersection(record.segment_id for record in part.segments)
        }
        return parts, whole

    def _numbers(
        self, survey: Survey, rows: ImportRows, state: CollectionState
    ) -> list[int | None]:
        """Return the first number of each piece whose rows have no keys."""
        counts = rows.count_numbered(survey)
        first, total = 0, sum(count or 0 for count in counts)
        kind = state.schema[state.schema.primary_key]
        if total and isinstance(kind, Int64) and kind.auto:
            with self._engine.owning(self._wish.collection_id) as (channel, generation):
                first = channel.take_ids(total, generation)
        return first_ids(counts, first)

    def _new_plan(
        self, survey: Survey, numbers: Sequence[int | None], channels: int
    ) -> dict[str, Any]:
        limit = self._group_bytes(sum(piece.size_bytes for piece in survey.pieces), channels)
        parts: list[dict[str, Any]] = []
        size = limit
        for piece, first_id in zip(survey.pieces, numbers, strict=True):
            if size + piece.size_bytes // 2 >= limit:
                parts.append({"pieces": [], "first_ids": []})
                size = 0
            parts[-1]["pieces"].append(piece.to_json())
            parts[-1]["first_ids"].append(first_id)
            size += piece.size_bytes
        return {"parts": parts}

    def _group_bytes(self, total: int, channels: int) -> int:
        """Return how much becomes segments at once, one per channel: few, but for each thread."""
        workplace = self._engine.workplace
        hands = thread_count(self._session.threads)
        if workplace is not None:
            hands = max(hands, workplace.look())
        segment = min(
            self._engine.maintenance.wanted.size_bytes,
            max(_LEAST_SEGMENT_BYTES, -(-total // (hands * channels))),
        )
        return max(1 << 20, min(channels * segment, self._session.memory_limit // HELD))

    # Step 2

    def _works(
        self, parts: Mapping[int, Part], layout: Layout, channels: tuple[ChannelName, ...]
    ) -> dict[int, ImportingPart]:
        """Return what is to be written, for each of all parts."""
        planned = max((part.size_bytes for part in parts.values()), default=0)
        limit = self._group_bytes(sum(p.size_bytes for p in parts.values()), len(channels))
        wanted = self._engine.maintenance.wanted
        most = int(_SLACK * wanted.size_bytes) * len(channels)
        wish = self._wish
        return {
            number: ImportingPart(
                job=self.job,
                number=number,
                part=part,
                collection_id=wish.collection_id,
                pattern=wish.pattern,
                options=wish.options,
                files=self._source.files,
                columns=wish.columns,
                layout=layout,
                channels=channels,
                partition=wish.partition,
                on_conflict=wish.on_conflict,
                group_bytes=min(2 * min(planned, limit), most),  # Parquet says less than is there
                group_rows=int(_SLACK * wanted.rows) * len(channels),
            )
            for number, part in parts.items()
        }

    def _write(
        self, missing: Mapping[int, ImportingPart], rows: ImportRows, tell: Tell
    ) -> dict[int, PartDone]:
        """Have the parts that are missing written: several at a time, as memory allows, here."""
        threads = thread_count(self._session.threads)
        largest = max(work.size_bytes for work in missing.values())
        at_once = min(threads, self._session.memory_limit // max(1, HELD * largest))
        room = threading.Semaphore(max(1, at_once))
        stopped: list[BaseException] = []

        def tell_or_stop(size: int) -> None:
            if stopped:
                raise stopped[0]
            tell(size)

        def write(work: ImportingPart) -> PartDone:
            done = self._elsewhere(work, tell_or_stop)
            if done is None:
                with room:
                    tell_or_stop(0)
                    found = batches(work.part, rows, readers, tell_or_stop)
                    goal = work.goal(self._engine, rows, self._session.memory_limit)
                    done = self._engine.run(write_part(work.number, found, goal))
            self._engine.run(write_step(self._prefix, self.job, done.to_json()))
            return done

        workplace = self._engine.workplace
        waiting = max(1, at_once, 0 if workplace is None else workplace.width)
        with (
            ThreadPoolExecutor(threads, "gpuvec-read") as readers,
            ThreadPoolExecutor(waiting, "gpuvec-import") as writers,
        ):
            work = {number: writers.submit(write, one) for number, one in missing.items()}
            try:
                return {number: future.result() for number, future in work.items()}
            except BaseException as error:  # Ctrl-C too: the others end at their next piece
                stopped.append(error)
                for future in work.values():
                    future.cancel()
                wait(work.values())
                raise

    def _elsewhere(self, work: ImportingPart, tell: Tell) -> PartDone | None:
        """Have another process write a part; None where this one shall."""
        workplace, told = self._engine.workplace, 0
        if workplace is None or not workplace.takes(work):
            return None

        def progress(share: float) -> None:
            nonlocal told
            more = max(0, int(share * work.size_bytes) - told)
            told += more
            tell(more)

        done: PartDone = workplace.do(work, progress)
        progress(1.0)
        return done

    # Steps 3 and 4

    def _shares(
        self, records: Sequence[SegmentRecord], rows: ImportRows, state: CollectionState
    ) -> list[Share]:
        """Return each channel's part, its keys compared with one another, and with most others."""
        wish, engine = self._wish, self._engine
        key_field = state.schema.primary_key
        loader = Loader(engine.store, key_field)
        shares, lost, example = [], 0, None
        for channel in sorted(state.channels):
            own = [record for record in records if record.channel == channel]
            segments = [loader.load(record).rows for record in own]
            found = ImportedKeys(segments, self._session.memory_limit // 4)
            count, key = found.find_losers(first_wins=wish.on_conflict is OnConflict.SKIP)
            lost, example = lost + count, key if example is None else example
            shares.append(Share(channel, own, found))
        if lost and wish.on_conflict is OnConflict.ERROR:
            raise errors.duplicate_in_files(key_field, example, rows.locate(example), lost)
        with engine.owning(wish.collection_id) as (channels, _):
            for share in shares:  # most of it, while writes go on
                share.keys.look(channels.of(share.channel).shard.sealed())
        return shares

    def _commit(
        self, shares: Sequence[Share], rows: ImportRows, earlier: WriteSummary | None
    ) -> WriteSummary:
        wish = self._wish

        def prepare() -> Procedure[Addition | WriteSummary]:
            return settle(
                self.job,
                shares,
                wish.on_conflict,
                partition=wish.partition,
                meeting=self._meeting(channels),
                locate=rows.locate,
                earlier=earlier,
            )

        with self._engine.owning(wish.collection_id) as (channels, generation):
            return channels.add_files(prepare, generation)

    def _meeting(self, channels: Channels) -> Meeting:
        return Meeting(
            name=self._wish.name,
            prefix=self._prefix,
            state=channels.state,
            version=channels.shard.version,
            visibility=channels.shard.visibility,
            sealed={channel.name: channel.shard.sealed() for channel in channels.channels},
            stamp=self._engine.stamp,
            mint=self._engine.mint,
        )


def find_files(engine: Engine, pattern: str, options: Mapping[str, Any] | None) -> SourceFiles:
    """Return the files of a glob; with the database's `storage_options` if these fit and none came.

    Raises:
        NotFoundError: `GV-703`, no file matches.
    """
    source = files_at(engine, pattern, options)
    if not source.files:
        raise errors.no_such_file(pattern, what="file")
    return source


def _job_name(wish: ImportWish, source: SourceFiles) -> RequestId:
    """Return a name that the same files and options always have."""
    said = {
        "collection": wish.collection_id,
        "files": [file.to_json() for file in source.files],
        "columns": sorted([name, field or ""] for name, field in wish.columns.items()),
        "partition": wish.partition,
        "on_conflict": str(wish.on_conflict),
    }
    return RequestId(hashlib.blake2b(json.dumps(said).encode(), digest_size=16).hexdigest())


def _result(write: WriteSummary, state: CollectionState) -> WriteResult:
    none = pa.array([], state.schema[state.schema.primary_key].arrow_type())
    return WriteResult(write.ts, write.inserted, write.updated, write.deleted, none)
