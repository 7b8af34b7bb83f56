"""`gpuvec verify`: is every byte of a database as it was written, and if not, what is affected?"""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpuvec import errors
from gpuvec.storage import keys
from gpuvec.storage.open import Store, open_store
from gpuvec.verify.repair import rebuild_indexes, repair_files
from gpuvec.verify.report import Report
from gpuvec.verify.scan import Scan
from gpuvec.verify.walk import Walk


def verify(
    path: str | os.PathLike[str],
    *,
    repair: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Report:
    """Read a whole database, compare it with its checksums, and say what is broken.

    Nothing is written without `repair`; a writer and readers may go on meanwhile.

    Args:
        path: as `gv.connect` takes it.
        repair: also do what is provably safe: write hints, checkpoints and a lost format file anew,
            build broken indexes. Rows, entries and logs are never touched.
        storage_options: see `gv.connect`.

    Raises:
        NotFoundError: `GV-680`, no database is there.
        UnavailableError: `GV-681`, a repair beside a process that writes.
        StorageError: the store cannot be reached.

    Cost: one read of every file that a manifest names.
    """
    where = os.fspath(path)
    store = open_store(where, storage_options)
    try:
        report, indexes = _look(store, where)
        if not repair or report.is_sound:
            return report
        return _repair(store, where, storage_options, report, indexes)
    finally:
        store.close()


_Indexes = Mapping[str, Mapping[str, Any]]


def _look(store: Store, where: str) -> tuple[Report, _Indexes]:
    from gpuvec.api.progress import progress

    if store.size(keys.FORMAT) is None and not store.list(f"{keys.CATALOG}/"):
        raise errors.no_database_here(where)
    total = sum(1 for _ in store.list(""))
    with progress("verify", total, "files") as tell:
        walk = Walk(Scan(store, tell), where)
        report = walk.report()
    return report, walk.indexes


def _repair(
    store: Store,
    where: str,
    storage_options: Mapping[str, Any] | None,
    report: Report,
    indexes: _Indexes,
) -> Report:
    import gpuvec as gv

    try:
        findings = repair_files(store, report.findings)
    except errors.UnavailableError as error:
        pid = error.details.get("pid")
        owner = "another process" if pid is None else f"process {pid}"
        raise errors.repair_beside_writer(where, owner) from None
    if any(finding.field for finding in findings):
        with gv.connect(where, storage_options=storage_options) as db:
            findings = rebuild_indexes(db, findings, indexes)
    return replace(report, findings=findings)
