"""Compares what a soak's processes noted with a model: every write, and everything that was seen.

A session's writes are known when they were answered. One that was cut short happened or not; the
next session's first look decides, lane by lane, and nothing between the two is allowed. What was
seen at a version must be the model's state at that version, exactly; it is looked at as soon as
all writes up to there are decided.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gpuvec.testing.model import ModelCollection
from gpuvec.testing.soak_data import EXTRA, LANES, Event, JournalReader, Sums, apply, model_sum

Model = list[ModelCollection]


class Disagreement(AssertionError):
    """The database is not what was written."""


@dataclass(slots=True)
class _Lane:
    """The states that a lane went through: state n came after `since[n]`, by `until[n]`."""

    since: list[int] = field(default_factory=lambda: [-1])
    until: list[int] = field(default_factory=lambda: [0])
    sums: list[int] = field(default_factory=lambda: [0])

    def add(self, since: int, until: int, total: int) -> None:
        if total != self.sums[-1]:
            self.since.append(max(since, self.until[-1]))
            self.until.append(until)
            self.sums.append(total)

    def may_be(self, total: int, since: int, until: int) -> bool:
        """Return whether the lane can have been in a state at some version of a range."""
        first = bisect_right(self.until, since) - 1
        last = bisect_right(self.since, until - 1)
        return total in self.sums[first:last]


@dataclass(slots=True)
class _Session:
    """What one journal says."""

    reader: JournalReader
    events: list[Event] = field(default_factory=list)
    sync: Event | None = None
    begun: bool = False  # its first look was compared
    ended: bool = False  # nothing more will come


class Judge:
    """Reads the journals of a folder.

    Attributes:
        counts: of what happened, by name.
        failures: what processes themselves found wrong.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sessions: dict[Path, _Session] = {}
        self._model: Model = [ModelCollection("key", {}) for _ in range(LANES)]
        self._tags: dict[str, int] = {}
        self._tagged: dict[str, Model] = {}
        self._side: set[str] = set()
        self._lanes = [_Lane() for _ in range(LANES)]
        self._last: _Session | None = None
        self._late: list[_Session] = []
        self._pending: list[Event] = []
        self._settled_until = 0
        self._unseen: list[Event] = []
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []

    def died(self, prefix: str) -> None:
        """Note that the process whose journals begin so writes no more."""
        for path in self._folder.glob(f"{prefix}*"):
            session = self._session(path)
            self._read(session)
            session.ended = True

    def follow(self) -> None:
        """Read what is new, and judge what can be.

        Raises:
            Disagreement: what was seen is not what was written.
        """
        for path in sorted(self._folder.iterdir()):
            session = self._session(path)
            if not session.ended:
                self._read(session)
        waiting = [s for s in self._sessions.values() if s.sync is not None and not s.begun]
        for session in sorted(waiting, key=_version):
            if self._last is not None:
                if not self._last.ended:
                    return
                self._take_over(self._last, _version(session))
            self._begin(session)

    def finish(self) -> None:
        """Judge all that is left, when no process runs any more."""
        for path in self._folder.iterdir():
            self.died(path.name)
        self.follow()
        for session in self._late:
            if any(event["e"] == "done" for event in session.events):
                raise Disagreement(f"{session.reader.path.name} wrote after its successor")
        if self._last is not None:
            self._take_over(self._last, 1 << 63)
        if self._pending:
            raise Disagreement(f"the last session left {self._pending} open")
        self._see(self._unseen)
        self._unseen = []

    def _session(self, path: Path) -> _Session:
        if path not in self._sessions:
            self._sessions[path] = _Session(JournalReader(path))
        return self._sessions[path]

    def _read(self, session: _Session) -> None:
        for event in session.reader.new():
            self._note(session, event)

    def _note(self, session: _Session, event: Event) -> None:
        kind = event["e"]
        if kind == "count":
            self.counts.update({name: n for name, n in event.items() if name not in ("e", "ms")})
        elif kind == "failed":
            self.failures.append(f"{session.reader.path.name}: {event['text']}")
        elif kind == "see":
            self._unseen.append(event)
        elif kind == "sync":
            session.sync = event
        elif kind == "end":
            session.ended = True
        elif kind != "open":
            session.events.append(event)

    # A session: what it found decides what its predecessor left open

    def _begin(self, session: _Session) -> None:
        """Compare what a session found with the model; decide what its predecessor left open."""
        session.begun = True
        assert session.sync is not None
        sync, where = session.sync, session.reader.path.name
        version = sync["version"]
        if version <= self._settled_until:  # noted late: it had been replaced before
            self._late.append(session)
            self._check(sync["sums"], version, version)
            return
        for event in self._pending:
            self._decide(event, sync)
        self._pending = []
        got = {"extra": sync["extra"], "tags": sync["tags"], "side": set(sync["side"])}
        wanted = {"extra": self._has_extra(), "tags": self._tags, "side": self._side}
        if got != wanted:
            raise Disagreement(f"{where} found {got}, not {wanted}")
        for number, (total, lane) in enumerate(zip(sync["sums"], self._lanes, strict=True)):
            if total != lane.sums[-1]:
                raise Disagreement(
                    f"{where}: lane {number} is not the {len(self._model[number].rows)} rows "
                    f"that were written; {self._explain(total, lane)}"
                )
        self._settled_until = version
        self._last = session
        self.counts["sessions"] += 1
        due = [event for event in self._unseen if event["until"] <= version]
        self._unseen = [event for event in self._unseen if event["until"] > version]
        self._see(due)

    def _take_over(self, session: _Session, next_version: int) -> None:
        """Do what a session did, to the model; keep what nobody answered."""
        open_steps: dict[int, Event] = {}
        for event in session.events:
            if event["e"] == "try":
                open_steps[event["op"]] = event
                if event["kind"] == "tag":
                    self._tagged[event["name"]] = [model.copy() for model in self._model]
            elif event["e"] == "refused":
                del open_steps[event["op"]]
            else:
                if event.get("version", 0) >= next_version:
                    raise Disagreement(f"{session.reader.path.name} wrote after its successor")
                self._do({**open_steps.pop(event["op"]), **event})
                self.counts["acknowledged"] += 1
        session.events = []
        self._pending = list(open_steps.values())
        self.counts["cut_short"] += len(self._pending)

    def _do(self, event: Event) -> None:
        """Do a step to the model that has happened."""
        kind, version = event["kind"], event.get("version")
        self.counts[kind] += 1
        if kind == "tag":
            self._tags[event["name"]] = event["tagged"]
        elif kind == "untag":
            del self._tags[event["name"]], self._tagged[event["name"]]
        elif kind == "create":
            self._side.add(event["name"])
        elif kind == "drop":
            self._side.remove(event["name"])
        else:
            self._change(self._model, event)
            until = event["until"] if version is None else version
            since = event.get("since", 0) if version is None else version - 1
            for number in _touched(event):
                self._lanes[number].add(since, until, model_sum(self._model[number]))

    def _change(self, model: Model, event: Event) -> None:
        """Do a step to lanes."""
        kind = event["kind"]
        for number in _touched(event):
            if kind == "restore":
                model[number].restore(self._tagged[event["name"]][number])
            elif kind == "add_field":
                model[number].add_field(EXTRA, event["default"])
            elif kind == "drop_field":
                model[number].drop_field(EXTRA)
            else:
                apply(model[number], event)

    def _decide(self, event: Event, sync: Event) -> None:
        """Find out whether a step that was cut short happened; it did wholly, or not at all."""
        kind = event["kind"]
        if kind == "tag":
            happened = event["name"] in sync["tags"]
            event = {**event, "tagged": sync["tags"].get(event["name"])}
        elif kind == "untag":
            happened = event["name"] not in sync["tags"]
        elif kind in ("create", "drop"):
            happened = (event["name"] in sync["side"]) == (kind == "create")
        elif kind == "restore" and self._lacks_fields(event):
            happened = False
        else:
            after = [model.copy() for model in self._model]
            self._change(after, event)
            happened = all(sync["sums"][n] == model_sum(after[n]) for n in _touched(event))
        if happened:
            since = max(self._lanes[number].until[-1] for number in _touched(event))
            self._do({"since": since, **event, "until": sync["version"]})
            self.counts["cut_short_done"] += 1

    def _has_extra(self) -> bool:
        return EXTRA in self._model[0].defaults

    def _explain(self, total: int, lane: _Lane) -> str:
        if total not in lane.sums:
            return "it never was what it is now"
        back = len(lane.sums) - 1 - lane.sums.index(total)
        return f"it is as it was {back} changes ago"

    def _lacks_fields(self, event: Event) -> bool:
        return EXTRA in self._tagged[event["name"]][0].defaults and not self._has_extra()

    # What was seen

    def _see(self, events: list[Event]) -> None:
        for event in events:
            self._check(event["sums"], event["since"], event["until"])
            self.counts["states"] += 1

    def _check(self, sums: Sums, since: int, until: int) -> None:
        for number, (lane, total) in enumerate(zip(self._lanes, sums, strict=True)):
            if not lane.may_be(total, since, until):
                known = total in lane.sums
                what = "another version's state" if known else "a state that it never had"
                raise Disagreement(f"lane {number} was seen at {since} to {until} in {what}")


def _touched(event: Event) -> Iterable[int]:
    """Return the lanes that a step may change."""
    return [event["lane"]] if "lane" in event else range(LANES)


def _version(session: _Session) -> int:
    assert session.sync is not None
    version: int = session.sync["version"]
    return version
