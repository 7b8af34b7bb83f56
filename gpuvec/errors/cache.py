"""56x: what lies in a bucket: its caches, and databases that were copied there."""

from gpuvec.errors.base import DeviceMemoryError, UnsupportedError


def cache_unusable(folder: str, cause: object) -> str:
    """Return the warning for a disk cache that cannot be used: reads go to the bucket instead."""
    return (
        f"GV-560: the disk cache in {folder} cannot be used: {cause}; files of buckets are read "
        "again when they are needed. Name another folder with the setting cache.dir, make room, "
        "or set cache.size_bytes to 0"
    )


def file_exceeds_memory(where: str, *, needed: int, limit: int) -> DeviceMemoryError:
    """Return the error for a file of a bucket that fits neither the disk cache nor memory."""
    return DeviceMemoryError(
        "GV-561",
        f"{where} needs {needed:,} bytes of memory, since the disk cache has no room for it; "
        f"{limit:,} may be held for one file",
        hint="raise the setting cache.size_bytes, name a disk with room in cache.dir, "
        "or raise memory_limit",
        details={"path": where, "needed": needed, "limit": limit},
    )


def log_of_another_kind(where: str, *, in_files: bool) -> UnsupportedError:
    """Return the error for writes in a log that was copied from another kind of store."""
    kinds = ("a bucket", "a local directory")
    came, here = kinds[in_files], kinds[not in_files]
    return UnsupportedError(
        "GV-562",
        f"{where} holds writes that are in no segment yet, as they are logged in {came}; "
        f"in {here} logs are of another kind, so these rows would be missing",
        hint="copy the database with `gpuvec copy FROM TO`; or open it where it was, "
        "flush() its collections, close it, and copy the files again",
        details={"path": where, "in_files": in_files},
    )
