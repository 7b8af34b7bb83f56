"""What a store was asked to do, and what it may therefore hold after whatever happened to it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpuvec.errors import StorageError

Step = tuple[Any, ...]  # the name of a method of `StoreHistory`, and its arguments

EXAMPLE_LOG = "collections/c-1/wal/s000/e1.log"
EXAMPLE_STEPS: tuple[Step, ...] = (
    ("create", "gpuvec.json", b'{"format": 1}'),
    ("create", "catalog/manifest/1.json", b"the first entry of the log"),
    ("put", "collections/c-1/seg/01a/scalar.parquet", [b"scalars of", b" the segment"]),
    ("put", "collections/c-1/seg/01a/vec-e.arrow", [b"vectors"]),
    ("append", EXAMPLE_LOG, b"frame one;"),
    ("append", EXAMPLE_LOG, b"frame two, longer;"),
    ("put", "catalog/manifest/hint", [b"1"]),
    ("create", "catalog/manifest/1.json", b"not the first"),
    ("put", "catalog/manifest/hint", [b"2"]),
    ("delete", "collections/c-1/seg/01a/vec-e.arrow"),
    ("append", EXAMPLE_LOG, b"frame three;"),
)


class StoreHistory:
    """Runs steps on a store, and afterwards compares a store with all that may have come of them.

    What was acknowledged must be there. What was cut short or failed may be there, but whole; only
    a log may end in a part of what it was given.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self._allowed: dict[str, set[bytes | None]] = {}  # None: absent
        self._logs: dict[str, bytes] = {}  # acknowledged
        self._open_logs: set[str] = set()  # their end is unknown

    @classmethod
    def of(cls, steps: Sequence[Step], answers: Mapping[int, Any]) -> "StoreHistory":
        """Return the history of another process, which begun some of the steps.

        Args:
            steps: all steps, those not begun too.
            answers: what the store answered, by number of the step. A step without an answer
                failed; or it was cut short if it is the one after all answers.
        """
        begun = min(max(answers, default=-1) + 2, len(steps))
        history = cls(_Answers([answers.get(n, StorageError) for n in range(begun)]))
        history.run(steps[:begun], go_on=True)
        return history

    def run(self, steps: Sequence[Step], *, go_on: bool = False) -> Any:
        """Take the steps, return the last answer; with `go_on`, go on after a failed one."""
        answer = None
        for name, *arguments in steps:
            try:
                answer = getattr(self, name)(*arguments)
            except StorageError:
                if not go_on:
                    raise
        return answer

    def put(self, key: str, parts: Sequence[bytes]) -> None:
        """See `ObjectStore.put`."""
        self._attempt(key, b"".join(parts), lambda: self._store.put(key, parts))

    def create(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`."""
        before = self._allowed.get(key, {None})
        created: bool = self._attempt(key, data, lambda: self._store.put_if_absent(key, data))
        if not created:
            assert before != {None}, f"{key} is said to exist, nobody created it"
            self._allowed[key] = before - {None}
        return created

    def delete(self, key: str) -> None:
        """See `ObjectStore.delete`."""
        self._attempt(key, None, lambda: self._store.delete([key]))

    def append(self, key: str, data: bytes) -> None:
        """See `ObjectStore.append`."""
        was_open = key in self._open_logs
        self._open_logs.add(key)
        self._logs.setdefault(key, b"")
        self._store.append(key, data)
        self._logs[key] += data
        if not was_open:
            self._open_logs.remove(key)

    def check(self, store: Any) -> None:
        """Raise `AssertionError` when a store holds what cannot have come of the steps."""
        visible = {key: store.get(key) for key in store.list("")}
        for key, acknowledged in self._logs.items():
            log = visible.pop(key, b"")
            assert log.startswith(acknowledged), f"{key}: an acknowledged append is gone"
            assert key in self._open_logs or log == acknowledged, f"{key} has grown by itself"
        for key, allowed in self._allowed.items():
            found = visible.pop(key, None)
            assert found in allowed, f"{key} holds {found!r}, which is none of {allowed}"
        assert not visible, f"nobody wrote {visible}"

    def _attempt(self, key: str, content: bytes | None, call: Callable[[], Any]) -> Any:
        self._allowed[key] = self._allowed.get(key, {None}) | {content}
        result = call()
        self._allowed[key] = {content}
        return result


class _Answers:
    """Stands for a store that gave these answers; an exception is raised."""

    def __init__(self, answers: Sequence[Any]) -> None:
        self._answers = iter(answers)

    def _answer(self, *_: Any) -> Any:
        answer = next(self._answers)
        if answer is StorageError:
            raise StorageError("GV-504", "it failed")
        return answer

    put = put_if_absent = append = delete = _answer
