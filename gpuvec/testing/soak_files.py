"""What must lie in a database after a vacuum: what its manifests name, and nothing else."""

import time
from typing import Any

import gpuvec as gv
from gpuvec.storage import keys
from gpuvec.verify.segments import named_files
from gpuvec.verify.verify import verify

_PATIENCE_S = 60.0


def look_at_files(place: dict[str, Any]) -> dict[str, int]:
    """Vacuum all collections, then compare the store with the manifests; return counts.

    Raises:
        AssertionError: files that nobody names, files that are missing, or damage.
    """
    until, deleted = time.monotonic() + _PATIENCE_S, 0
    with gv.connect(**place) as db:
        while True:
            reports = [db[name].vacuum("0s") for name in db.collections()]
            deleted += sum(report.files_deleted for report in reports)
            wrong = _wrong_files(db)
            if not wrong and not any(report.files_waiting for report in reports):
                break  # else upkeep was at work meanwhile, or a killed reader's pin holds files
            assert time.monotonic() < until, f"{wrong}, {reports}"
            time.sleep(0.5)
    report = verify(place["path"], storage_options=place.get("storage_options"))
    assert report.is_sound, f"verify: {report.findings}"
    return {"files_deleted": deleted, "files_left": report.files, "rows_stored": report.rows}


def _wrong_files(db: Any) -> list[str]:
    """Return what lies in the store and should not, or should and does not."""
    engine = db._engine
    ids = {db[name]._source.collection_id for name in db.collections()}
    wrong = [f"folder {name}" for name in ids ^ set(engine.store.folders(keys.COLLECTIONS))]
    for collection_id in ids:
        prefix = keys.collection(collection_id)
        parts = [f"{prefix}/{part}/" for part in ("seg", "dv", "idx", "import")]
        there = {key for part in parts for key in engine.store.list(part)}
        named = {file.record.key for file in named_files(engine.state(collection_id))}
        wrong += [f"for nothing: {key}" for key in there - named]
        wrong += [f"missing: {key}" for key in named - there]
    return wrong
