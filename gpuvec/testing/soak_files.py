"""What must lie in a database after a vacuum: what its manifests name, and nothing else."""

import time
from typing import Any

import gpuvec as gv
from gpuvec.meta.catalog import CollectionState
from gpuvec.storage import keys
from gpuvec.verify.segments import named_files
from gpuvec.verify.verify import verify

_PATIENCE_S = 60.0


def look_at_files(place: dict[str, Any]) -> dict[str, int]:
    """Vacuum all collections, then compare the store with the manifests; return counts.

    Raises:
        AssertionError: files that nobody names, files that are missing, or damage.
    """
    deleted = 0
    with gv.connect(**place) as db:
        engine = db._engine
        for name in db.collections():
            deleted += _vacuum(db[name])
        ids = [db[name]._source.collection_id for name in db.collections()]
        folders = sorted(engine.store.folders(keys.COLLECTIONS))
        assert folders == sorted(ids), f"folders {folders} of collections {ids}"
        for collection_id in ids:
            named = set(_files(engine.state(collection_id)))
            prefix = keys.collection(collection_id)
            parts = [f"{prefix}/{part}/" for part in ("seg", "dv", "idx", "import")]
            there = {key for part in parts for key in engine.store.list(part)}
            assert there == named, f"for nothing: {there - named}; missing: {named - there}"
    report = verify(place["path"], storage_options=place.get("storage_options"))
    assert report.is_sound, f"verify: {report.findings}"
    assert report.orphans == 0, f"verify: {report.orphans} files that nothing names"
    return {"files_deleted": deleted, "files_left": report.files, "rows_stored": report.rows}


def _vacuum(items: Any) -> int:
    """Vacuum until nothing waits; return how many files went."""
    until, deleted = time.monotonic() + _PATIENCE_S, 0  # a killed reader's pin expires by then
    while time.monotonic() < until:
        report = items.vacuum("0s")
        deleted += int(report.files_deleted)
        if not report.files_waiting:
            return deleted
        time.sleep(min(1.0, report.wait_s + 0.1))
    raise AssertionError(f"files still wait: {report}")


def _files(state: CollectionState) -> list[str]:
    """Return the keys of all files that a state names."""
    return [file.record.key for file in named_files(state)]
