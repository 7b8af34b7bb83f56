"""Batch jobs described by a file: what to search, with which queries, where the rows go.

No code is in such a file, so it may come from somebody who may search and nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuvec import errors
from gpuvec.api.frame import Frame


@dataclass(frozen=True, slots=True)
class _Field:
    wanted: str
    fits: Callable[[Any], bool]
    needed: bool = False


def _is_text(got: Any) -> bool:
    return isinstance(got, str) and bool(got.strip())


def _is_count(got: Any) -> bool:
    return isinstance(got, int) and not isinstance(got, bool) and got >= 1


def _is_number(got: Any) -> bool:
    return isinstance(got, int | float) and not isinstance(got, bool)


def _is_names(got: Any) -> bool:
    return isinstance(got, list) and bool(got) and all(map(_is_text, got))


FIELDS: dict[str, _Field] = {
    "collection": _Field("the path of a database and a name: ./shop/items", _is_text, True),
    "queries": _Field("files with a vector column: s3://lake/q/*.parquet", _is_text, True),
    "output": _Field("a new folder: s3://lake/out/", _is_text, True),
    "k": _Field("neighbours of each query, a whole number from 1", _is_count),
    "radius": _Field("the largest distance, a number", _is_number),
    "filter": _Field("a filter: price < 20 and brand in ['acme']", _is_text),
    "on": _Field("the vector field that is searched", _is_text),
    "query_on": _Field("the vector column of the queries", _is_text),
    "query_id": _Field("the column that names a query", _is_text),
    "recall": _Field("a number above 0, at most 1", _is_number),
    "exact": _Field("true or false", lambda got: isinstance(got, bool)),
    "columns": _Field("a list of names: [id, title]", _is_names),
    "tag": _Field("the tag of the version to search", _is_text),
    "part_rows": _Field("queries of one part, a whole number from 1", _is_count),
}
_SEARCH = ("on", "query_on", "query_id", "radius", "recall", "exact")
_FIXED = ("query_id", "rank", "distance")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """A description that was checked.

    Attributes:
        path: of the file.
        values: by name, those of `FIELDS` that it gives.
        lines: where each stands, from 1.
    """

    path: str
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    @property
    def database(self) -> str:
        """The database's path."""
        return self._target()[0]

    def frame(self, db: Any) -> Frame:
        """Return what is asked of an open database.

        Raises:
            QueryError: `GV-776`, a value that the collection does not allow, with its line.
        """
        found: Frame = self._told("collection", lambda: db[self._target()[1]])
        if "tag" in self.values:
            items: Any = found
            found = self._told("tag", lambda: items.at(tag=self.values["tag"]))
        if "filter" in self.values:
            every = found
            found = self._told("filter", lambda: every.filter(self.values["filter"]))
        candidates = found
        options = {name: self.values[name] for name in _SEARCH if name in self.values}
        options |= {"k": self.values["k"]} if "k" in self.values else {}
        found = self._told("queries", lambda: candidates.search(self.values["queries"], **options))
        if "columns" not in self.values:
            return found
        answers = found
        names = [name for name in self.values["columns"] if name not in _FIXED]
        return self._told("columns", lambda: answers.select(*_FIXED, *names))

    def _target(self) -> tuple[str, str]:
        path, _, name = self.values["collection"].rstrip("/").rpartition("/")
        if not path or not name or path.endswith(("/", ":")):
            wanted = FIELDS["collection"].wanted
            self._fail("collection", f"wanted {wanted}, got {self.values['collection']!r}")
        return path, name

    def _told(self, field: str, make: Callable[[], Frame]) -> Frame:
        """Return what `make` does; its error names the field that it is about, and the line."""
        try:
            return make()
        except errors.GpuvecError as error:
            about = next((n for n in self.values if n in str(error.details.get("options", ""))), "")
            place = about or field
            problem = f"{error.message} [{error.code}]"
            found = errors.bad_job_file(self.path, self.lines.get(place), place, problem)
            raise found from error

    def _fail(self, field: str, problem: str) -> None:
        raise errors.bad_job_file(self.path, self.lines.get(field), field, problem)


def read_job_file(path: str | Path) -> JobFile:
    """Read a YAML (or JSON) description of a batch job; `FIELDS` names what can be in it.

    Raises:
        QueryError: `GV-776`, with the line and the field.
        NotFoundError: `GV-703`, no such file.
    """
    import yaml

    name = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise errors.no_such_file(name, what="file") from None
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = None if error.problem_mark is None else error.problem_mark.line + 1
        raise errors.bad_job_file(name, line, "", f"no YAML: {error.problem}") from None
    if not isinstance(tree, yaml.MappingNode):
        wanted = "wanted a line per field, such as `collection: ./shop/items`"
        raise errors.bad_job_file(name, 1, "", wanted)
    lines: dict[str, int] = {}
    for key, _ in tree.value:
        if key.value in lines:
            problem = f"it stands on line {lines[key.value]} too"
            raise errors.bad_job_file(name, key.start_mark.line + 1, key.value, problem)
        lines[str(key.value)] = key.start_mark.line + 1
    _check(name, values, lines)
    return JobFile(path=name, values=values, lines=lines)


def _check(path: str, values: Mapping[Any, Any], lines: Mapping[str, int]) -> None:
    for field, got in values.items():
        known = FIELDS.get(field) if isinstance(field, str) else None
        if known is None:
            near = errors.did_you_mean(str(field), FIELDS)
            problem = f"there is no such field.{near} Known: {', '.join(FIELDS)}"
            raise errors.bad_job_file(path, lines.get(str(field)), str(field), problem)
        if not known.fits(got):
            problem = f"wanted {known.wanted}; got {got!r}"
            raise errors.bad_job_file(path, lines[field], field, problem)
    for field, known in FIELDS.items():
        if known.needed and field not in values:
            problem = f"it is missing; wanted {known.wanted}"
            raise errors.bad_job_file(path, None, field, problem)
