"""The whole key layout, in one place.

    gpuvec.json                                   format version, created once
    gpuvec.lock                                   local stores: held by the process that writes
    copy.json                                     the place of a copy, perhaps of a part of one
    probe/<ulid>/1                                remote stores: tried out, deleted at once
    catalog/                                      the log of the database: its collections
        manifest/00000000000000000007.json        one entry = one commit
        manifest/hint                             newest known entry; only hints are overwritten
        checkpoint/00000000000000000000.json      state after the entry of that number
        gc/man/00000000000000000000               entries up to here may be gone
    collections/<id>/                             the log of one collection, as above, and
        wal/s000/e000017-00000000000000009001.log local: append file per (epoch, first lsn)
        wal/s000/hint                             newest known append file; overwritten
        wal/s000/00000000000000009120.wal         object stores: one slot per group commit
        gc/wal-s000/00000000000000008950          slots up to here may be gone
        seg/<segment>/scalar.parquet              scalars, in row order
        seg/<segment>/vec-<field>.arrow           one vector field
        dv/<segment>/<ulid>.arrow                 rows deleted from that segment
        idx/<segment>/<ulid>/<file>               one index of one field of that segment
        import/<job>/<ulid>.json                  what a bulk import under way has done so far
    jobs/<ulid>.json                              what one batch job shall do
    job-data/<ulid>/000.arrow                     rows in memory that it reads, as in the log
    job-work/<ulid>/plan.json                     the parts that it is cut into
        run-000001-claim.json                     who works on it, the first time; then 000002, …
        run-000001-beat.json                      that this worker lives; overwritten
        run-000001-<end>.json                     how it ended: failed, cancelled or stopped
        part-00000.json                           the receipt of a part whose file is written
        done.json                                 every part is
    job-rows/<ulid>/part-00000.parquet            its rows, if no other place was named

Keys are lower-case ASCII: letters, digits and `._-~=` between slashes. No component begins with a
dot, which is how stores mark their own temporary files. Every name is a log slot, created once, or
contains a ULID, never reused. Prefixes and folders have no slash at their end: add it for listing.
"""

import hashlib
import re

from gpuvec.types import ChannelName, SegmentId

FORMAT = "gpuvec.json"
LOCK = "gpuvec.lock"
COPY = "copy.json"
PROBES = "probe"
CATALOG = "catalog"
COLLECTIONS = "collections"
JOBS = "jobs"
JOB_DATA = "job-data"
JOB_WORK = "job-work"
JOB_ROWS = "job-rows"

NUMBER_DIGITS = 20
_EPOCH_DIGITS = 6
_ULID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32
_LONGEST_FIELD = 100  # characters of a field in a file name; file systems end at 255 bytes
_KEY = re.compile(r"[a-z0-9_~=-][a-z0-9._~=-]*(/[a-z0-9_~=-][a-z0-9._~=-]*)*\Z")
_PREFIX = re.compile(r"([a-z0-9_~=-][a-z0-9._~=-]*/)*([a-z0-9_~=-][a-z0-9._~=-]*)?\Z")
_PLAIN = re.compile(r"[a-z0-9_-]")
_WAL_FILE = re.compile(r"e(\d{6,})-(\d{20})\.log\Z")
_NUMBER = re.compile(r"(\d{20})(\.[a-z]+)?\Z")


def is_key(text: str) -> bool:
    """Return whether stores may use `text` as a key."""
    return _KEY.match(text) is not None


def check_key(key: str) -> str:
    """Return `key` when stores may use it; any other is a bug."""
    if not is_key(key):
        raise AssertionError(f"{key!r} is no key of a store")
    return key


def check_prefix(prefix: str) -> str:
    """Return `prefix` when keys can begin with it, as with ""; any other is a bug."""
    if not _PREFIX.match(prefix):
        raise AssertionError(f"{prefix!r} is no prefix of keys")
    return prefix


def collection(collection_id: str) -> str:
    """Return the prefix under which everything of a collection lies."""
    return f"{COLLECTIONS}/{collection_id}"


def probe(ulid: str) -> str:
    """Return the folder in which a store is tried out."""
    return f"{PROBES}/{ulid}"


def manifest_folder(prefix: str) -> str:
    """Return the folder of a log's entries; `prefix` is `CATALOG` or `collection(id)`."""
    return f"{prefix}/manifest"


def manifest_entry(prefix: str, number: int) -> str:
    """Return the key of one entry."""
    return f"{prefix}/manifest/{number:0{NUMBER_DIGITS}d}.json"


def manifest_hint(prefix: str) -> str:
    """Return the key of the newest known entry's number."""
    return f"{prefix}/manifest/hint"


def checkpoint_folder(prefix: str) -> str:
    """Return the folder of a log's checkpoints."""
    return f"{prefix}/checkpoint"


def checkpoint(prefix: str, number: int) -> str:
    """Return the key of the state after entry `number`."""
    return f"{prefix}/checkpoint/{number:0{NUMBER_DIGITS}d}.json"


def manifest_mark_folder(prefix: str) -> str:
    """Return the folder of the marks below which entries may be gone."""
    return f"{prefix}/gc/man"


def manifest_mark(prefix: str, number: int) -> str:
    """Return the key of one such mark."""
    return f"{prefix}/gc/man/{number:0{NUMBER_DIGITS}d}"


def wal_folder(prefix: str, channel: ChannelName) -> str:
    """Return the folder of a channel's log files and slots."""
    return f"{prefix}/wal/{channel}"


def wal_slot(folder: str, lsn: int) -> str:
    """Return the key of one group commit, where a store cannot append; see `wal_folder`."""
    return f"{folder}/{lsn:0{NUMBER_DIGITS}d}.wal"


def wal_file(folder: str, epoch: int, first_lsn: int) -> str:
    """Return the key of one append file. Keys sort by epoch, then by first lsn."""
    return f"{folder}/e{epoch:0{_EPOCH_DIGITS}d}-{first_lsn:0{NUMBER_DIGITS}d}.log"


def wal_hint(folder: str) -> str:
    """Return the key that names an append file which was once the newest."""
    return f"{folder}/hint"


def parse_wal_file(key: str) -> tuple[int, int] | None:
    """Return epoch and first lsn of an append file's key, None for any other key."""
    found = _WAL_FILE.match(key.rpartition("/")[2])
    return (int(found[1]), int(found[2])) if found else None


def wal_mark_folder(folder: str) -> str:
    """Return the folder of the marks below which the slots of a `wal_folder` may be gone."""
    prefix, _, channel = folder.rpartition("/wal/")
    return f"{prefix}/gc/wal-{channel}"


def wal_mark(folder: str, lsn: int) -> str:
    """Return the key of one such mark."""
    return f"{wal_mark_folder(folder)}/{lsn:0{NUMBER_DIGITS}d}"


def parse_number(key: str) -> int | None:
    """Return the number of an entry, checkpoint, slot or mark, None for any other key."""
    found = _NUMBER.match(key.rpartition("/")[2])
    return int(found[1]) if found else None


def segments_folder(prefix: str) -> str:
    """Return the folder of all segments of a collection."""
    return f"{prefix}/seg"


def segment_folder(prefix: str, segment: SegmentId) -> str:
    """Return the folder of one segment's files."""
    return f"{prefix}/seg/{segment}"


def scalar_file(prefix: str, segment: SegmentId) -> str:
    """Return the key of a segment's scalars."""
    return f"{segment_folder(prefix, segment)}/scalar.parquet"


def vector_file(prefix: str, segment: SegmentId, field: str) -> str:
    """Return the key of one vector field of a segment."""
    return f"{segment_folder(prefix, segment)}/vec-{escape(field)}.arrow"


def deletes_folder(prefix: str) -> str:
    """Return the folder of all deletion files of a collection."""
    return f"{prefix}/dv"


def delete_file(prefix: str, segment: SegmentId, ulid: str) -> str:
    """Return the key of one list of rows deleted from a segment."""
    return f"{prefix}/dv/{segment}/{ulid}.arrow"


def indexes_folder(prefix: str) -> str:
    """Return the folder of all index files of a collection."""
    return f"{prefix}/idx"


def index_file(prefix: str, segment: SegmentId, ulid: str, name: str) -> str:
    """Return the key of one file of an index; `name` has the letters of keys."""
    return f"{indexes_folder(prefix)}/{segment}/{ulid}/{name}"


def parse_index(key: str) -> str | None:
    """Return the ULID of the index to which a file belongs, None for any other key."""
    parts = key.split("/")
    return parts[-2] if len(parts) >= 4 and parts[-4] == "idx" else None


def imports_folder(prefix: str) -> str:
    """Return the folder of the bulk imports under way."""
    return f"{prefix}/import"


def import_step(prefix: str, job: str, ulid: str) -> str:
    """Return the key of one thing that an import has done; `job` is hex digits."""
    return f"{imports_folder(prefix)}/{job}/{ulid}.json"


def parse_import_step(key: str) -> tuple[str, str] | None:
    """Return job and ULID of a step of an import, None for any other key."""
    parts = key.split("/")
    is_step = len(parts) >= 4 and parts[-3] == "import" and parts[-1].endswith(".json")
    return (parts[-2], parts[-1].removesuffix(".json")) if is_step else None


def job(job_id: str) -> str:
    """Return the key of what a batch job shall do."""
    return f"{JOBS}/{job_id}.json"


def job_work(job_id: str, name: str = "") -> str:
    """Return the key of one thing that was said of a job; without a name, what they begin with."""
    return f"{JOB_WORK}/{job_id}/{name}"


def job_data(job_id: str, name: str = "") -> str:
    """Return the key of some rows that a job reads; without a name, what they begin with."""
    return f"{JOB_DATA}/{job_id}/{name}"


def job_rows(job_id: str) -> str:
    """Return the folder of a job's rows."""
    return f"{JOB_ROWS}/{job_id}"


def parse_segment(key: str) -> SegmentId | None:
    """Return the segment to which a segment or deletion file belongs, None for any other key."""
    parts = key.split("/")
    return SegmentId(parts[-2]) if len(parts) >= 3 and parts[-3] in ("seg", "dv") else None


def escape(name: str) -> str:
    """Return a name in the letters of keys: any other byte as `~` and two hex digits.

    Different names stay different, on file systems that ignore case too. Long ones end in a hash.
    """
    text = "".join(c if _PLAIN.match(c) else "".join(f"~{b:02x}" for b in c.encode()) for c in name)
    if len(text) <= _LONGEST_FIELD:
        return text
    digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
    return f"{text[: _LONGEST_FIELD - 33]}~{digest}"


def ulid(now_ms: int, randomness: str) -> str:
    """Return a name that is never reused and sorts by time of birth.

    Args:
        now_ms: milliseconds since 1970.
        randomness: at least 20 random hex digits, as the operation `Nonce` yields.
    """
    number = (now_ms << 80) | int(randomness[:20], 16)
    return "".join(_ULID_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def is_ulid(text: str) -> bool:
    """Return whether `ulid` may have made a text."""
    return len(text) == 26 and set(text) <= set(_ULID_ALPHABET)


def ulid_time_ms(name: str) -> int:
    """Return the time of birth in a ULID."""
    number = 0
    for letter in name[:10]:
        number = number << 5 | _ULID_ALPHABET.index(letter)
    return number
