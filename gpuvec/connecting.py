"""`connect`: opens a database in this process, or on a cluster."""

import os
from collections.abc import Mapping
from typing import Any

from gpuvec import errors
from gpuvec.api import database
from gpuvec.api.database import Database


def connect(
    path: str | os.PathLike[str],
    *,
    cluster: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    device: str = "auto",
    memory_limit: int | str | None = None,
    durability: str | None = None,
    user: str | None = None,
    password: str | None = None,
) -> Database:
    """Open a database; an empty or missing directory becomes one with the first collection.

    One process writes at a time, any number read. Handles of one path within a process share the
    database.

    Args:
        path: a directory, `file://` and a path, `memory://`, or a bucket and perhaps a folder in
            it: `s3://`, `gs://`, `az://`. In a bucket, who writes last takes over from who wrote
            before, whose writes then raise `ConflictError`.
        cluster: None: everything runs in this process. `"local"`: a cluster of processes on this
            machine, a worker per GPU or core, which ends with the last database that it serves.
            Or one that runs: the address of its scheduler (`"tcp://host:8786"`), a
            `dask.distributed.Client`, or a cluster object of Dask.
        storage_options: of a bucket's store, as for s3fs, gcsfs and adlfs; others have none.
        device: `auto`, `cpu` or `gpu`.
        memory_limit: bytes, or a text such as "20GiB", that queries and caches may hold, and a
            build of an index besides; of connections to one database, the last that names one
            decides for builds. By default the setting `memory_limit`, else what the machine lets
            this process have.
        durability: `fsync`, or `os`: acknowledged rows survive a kill, but not a power cut; by
            default the setting `durability`.
        user: for whom, on a cluster whose database has users; see `Database.users`.
        password: of the user.

    Raises:
        AccessDeniedError: `GV-720`, name or password is wrong, or missing.
        QueryError: `GV-702`, a memory limit that is none; `GV-514`, an empty path; `GV-742`, a
            `cluster` that is none; `GV-729`, a user without a cluster.
        StorageError: `GV-605` the directory holds something else, `GV-607` a file; `GV-532` a
            bucket cannot be reached, `GV-533` it refuses, `GV-535` it does not exist.
        UnsupportedError: `GV-606`, a later gpuvec wrote it; `GV-508`, another kind of store;
            `GV-534` to `GV-537`, an option or a library is missing; `GV-740`, `memory://` on a
            cluster.
        UnavailableError: `GV-743`, the scheduler runs without gpuvec's coordinator; `GV-744`, none
            answers; `GV-755`, the local cluster did not start.
    """
    if cluster is not None:
        from gpuvec.cluster.launch import open_on

        return open_on(
            cluster,
            path,
            storage_options=storage_options,
            device=device,
            memory_limit=memory_limit,
            durability=durability,
            user=user,
            password=password,
        )
    if user is not None or password is not None:
        raise errors.users_are_of_clusters()
    return database.connect(
        path,
        storage_options=storage_options,
        device=device,
        memory_limit=memory_limit,
        durability=durability,
    )
