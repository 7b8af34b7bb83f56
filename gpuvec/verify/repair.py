"""Repairs that are provably safe: each leaves every read's answer as it was, or as it was meant.

* A hint or a checkpoint of a manifest says nothing that entries, or other checkpoints, do not say;
  the log was read without the broken one.
* The hint of a log says how long the newest file is, and that is read from the file.
* The format file says one thing, which everything else that was read says too.
* An index is made of rows that are whole, and vectors decoded from an external file of that file.

Nothing else is repaired: not an entry, a log, or a file of rows. Orphans are left to collection,
and the torn end of a log to the next writer, who knows whether others are still writing.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gpuvec.api.location import create_format
from gpuvec.clock import SystemClock
from gpuvec.errors import GpuvecError
from gpuvec.index.spec import spec_from_json
from gpuvec.meta.catalog import CollectionState, DatabaseState, IndexDefinition
from gpuvec.meta.manifest import ManifestLog
from gpuvec.node.loader import AUTO
from gpuvec.storage import keys
from gpuvec.storage.object_store import Delete, Procedure, Put, run
from gpuvec.storage.open import Store
from gpuvec.types import ChannelName
from gpuvec.verify.manifests import repair_log
from gpuvec.verify.report import Finding, Level
from gpuvec.verify.segments import DECODED
from gpuvec.wal.channel import Channel, ChannelPosition
from gpuvec.wal.files import FileCursor, Hint
from gpuvec.wal.log import read_tail


def repair_files(store: Store, findings: Sequence[Finding]) -> list[Finding]:
    """Do what is safe without a writer's right beyond the lock; return the findings, some repaired.

    Raises:
        UnavailableError: `GV-510`, another process writes to the database.
    """
    with store.lock(keys.LOCK):
        done = {f.key for f in findings if _repaired(store, f, findings)}
    return [replace(f, repaired=True) if f.key in done else f for f in findings]


def _repaired(store: Store, finding: Finding, findings: Sequence[Finding]) -> bool:
    prefix = finding.key.partition("/manifest/")[0].partition("/checkpoint/")[0]
    broken = [f.key for f in findings if f.key.startswith(f"{prefix}/checkpoint/")]
    if finding.kind == "format file":
        lost = [f for f in findings if f.level is Level.DAMAGE and f is not finding]
        if lost or finding.code == "GV-606" or not store.list(f"{keys.CATALOG}/manifest/"):
            return False
        store.delete([keys.FORMAT])
        create_format(store)
        return True
    if finding.kind == DECODED:
        store.delete([f"{finding.key.rpartition('.')[0]}.json"])  # what says that they are there
        return True
    if finding.level is not Level.HARMLESS:
        return False
    if finding.kind.endswith(("hint", "checkpoint")) and finding.kind != "log hint":
        empty: Any = DatabaseState() if prefix == keys.CATALOG else CollectionState()
        run(repair_log(prefix, empty, broken), store, SystemClock())
        return True
    if finding.kind == "log hint":
        return run(_repair_log_hint(finding.key), store, SystemClock())
    return False


def _repair_log_hint(key: str) -> Procedure[bool]:
    """Write the hint of a log anew; the caller holds the lock, so nobody writes."""
    prefix, _, rest = key.partition("/wal/")
    channel = Channel(prefix=prefix, name=ChannelName(rest.partition("/")[0]))

    def position() -> Procedure[ChannelPosition]:
        view = yield from ManifestLog(prefix, CollectionState()).read()
        found = view.state.channels[channel.name]
        return ChannelPosition(epoch=found.epoch, flushed_lsn=found.flushed_lsn)

    tail = yield from read_tail(prefix, channel.name, position, appendable=True)
    cursor = tail.cursor
    if not isinstance(cursor, FileCursor) or not cursor.spans:
        yield Delete([key])
        return True
    newest = cursor.spans[-1]
    yield Put(key, [Hint(newest.file, newest.end).encode(channel)])
    return True


def rebuild_indexes(
    db: Any, findings: Sequence[Finding], wishes: Mapping[str, Mapping[str, IndexDefinition]]
) -> list[Finding]:
    """Build broken indexes anew, through an open database; return the findings, some repaired.

    Only where the rows of their collection are whole.

    Args:
        db: the database.
        findings: of it.
        wishes: for indexes, by collection and field.
    """
    broken: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.level is Level.DAMAGE and finding.collection:
            broken[finding.collection].append(finding)
    done: set[str] = set()
    for name, found in broken.items():
        if all(finding.field for finding in found):
            for field in {finding.field for finding in found}:
                with suppress(GpuvecError):  # stays a finding
                    _ask_again(db[name], wishes[name][field])
                    done.update(finding.key for finding in found if finding.field == field)
    return [replace(f, repaired=True) if f.key in done else f for f in findings]


def _ask_again(items: Any, wish: IndexDefinition) -> None:
    """Ask for an index as it was asked for: what is damaged is built anew."""
    is_auto = wish.spec["kind"] == AUTO
    items.create_index(
        wish.field,
        AUTO if is_auto else spec_from_json(wish.spec),
        recall=0.95 if wish.recall is None else wish.recall,
        k=wish.k,
        max_memory=wish.max_memory,
    )
