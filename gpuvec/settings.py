"""Settings: `gv.config`. Each value knows where it came from.

An argument of a call wins; then `config.set(...)`, a variable (`GPUVEC_DEVICE__MEMORY_LIMIT=0.8`),
`./gpuvec.yaml`, the user's `~/.config/gpuvec/gpuvec.yaml`, the default.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from gpuvec.errors import bad_setting, unknown_setting

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

PREFIX = "GPUVEC_"
_OTHER_VARIABLES = ("GPUVEC_DATA",)  # names the folder of the full data set
DEFAULTS: dict[str, Any] = {
    "progress": True,  # bars after 2 s; or a function, called with each event
    "threads": 0,  # 0: every core this process may use
    "memory_limit": None,  # host: a share up to 1, bytes, or "20GiB"
    "durability": "fsync",  # "os" survives a kill, not a power cut
    "device.memory_limit": None,  # a share up to 1, bytes, or "20GiB"
    "flush.size_bytes": 96 * 2**20,  # a growing segment is sealed at this size
    "flush.age_s": 60.0,  # or when its oldest row is this old
    "compact.size_bytes": 2**30,  # segments are merged up to this size
    "store.retention_s": 24 * 3600.0,  # versions are kept so long, where a collection sets nothing
    "store.grace_s": 15 * 60.0,  # files that nobody names are kept so long, for reads under way
    "cache.dir": None,  # files of buckets on the local disk; None: ~/.cache/gpuvec
    "cache.size_bytes": None,  # None: a tenth of the disk's free space, 100 GiB at most; 0: none
    "consistency": "strong",  # of reads on a cluster; or "bounded", "session", "eventually"
    "staleness_s": 5.0,  # of bounded reads, at most
    "cluster.workers": 0,  # of cluster="local"; 0: one per GPU or core
    "cluster.search_deadline_s": 300.0,  # for one step of a read
    "cluster.write_deadline_s": 600.0,  # for a write, with all its attempts
    "cluster.wait_s": 30.0,  # reads and writes wait so long while no node is there to ask
    "cluster.ping_s": 1.0,  # a node that is late has so long to say that it lives
    "cluster.hedge_share": 0.05,  # of calls, that are made twice when one is late; 0: none
    "cluster.result_cache_bytes": 0,  # for answers of this client's reads; 0: none
    "cluster.task_bytes": 4 << 20,  # builds and compactions of so much are done by any worker
}


_lent: ContextVar[Mapping[str, Any]] = ContextVar("lent")  # of the caller that work is done for


class Config:
    """The settings of this process. Read with `config["flush.age_s"]`, change with `set`."""

    def __init__(self) -> None:
        self._chosen: dict[str, Any] = {}
        self._found: dict[str, tuple[Any, str]] | None = None

    def __getitem__(self, key: str) -> Any:
        """Return a setting by its dotted name; `NotFoundError` GV-701 names the nearest."""
        return self._lookup(key)[0]

    def origin(self, key: str) -> str:
        """Return where the value of a setting came from: `set`, a variable, a file or `default`."""
        return self._lookup(key)[1]

    def items(self) -> list[tuple[str, Any, str]]:
        """Return name, value and origin of every setting, by name."""
        return [(key, *self._lookup(key)) for key in sorted(self._sources())]

    def set(self, **changes: Any) -> "_Scope":
        """Change settings, for the process or for a `with` block.

        Nested names are written with two underscores: `config.set(device__memory_limit=0.8)`.

        Raises:
            NotFoundError: `GV-701`, an unknown name.
            QueryError: `GV-702`, a value of the wrong kind.
        """
        named = {key.replace("__", "."): value for key, value in changes.items()}
        before = dict(self._chosen)
        for key in named:
            self._lookup(key)
        checked = _flatten(_validate(_nest({**self._chosen, **named})))
        self._chosen.update({key: checked[key] for key in named})
        return _Scope(self, before)

    def chosen(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return those of some settings that were changed with `set`."""
        return {key: self[key] for key in keys if self.origin(key) == "set"}

    @contextmanager
    def lent(self, values: Mapping[str, Any]) -> Iterator[None]:
        """Let what this thread does in the block see another process's settings."""
        token = _lent.set({**_lent.get({}), **values})
        try:
            yield
        finally:
            _lent.reset(token)

    def _lookup(self, key: str) -> tuple[Any, str]:
        sources = self._sources()
        if key not in sources:
            raise unknown_setting(key, sources)
        lent = _lent.get(None)
        if lent is not None and key in lent:
            return lent[key], "set"
        if key in self._chosen:
            return self._chosen[key], "set"
        return sources[key]

    def _sources(self) -> dict[str, tuple[Any, str]]:
        if self._found is None:
            self._found = _read_sources()
        return self._found


class _Scope:
    """Puts the settings back at the end of a `with` block."""

    def __init__(self, owner: Config, before: dict[str, Any]) -> None:
        self._owner = owner
        self._before = before

    def __enter__(self) -> Config:
        return self._owner

    def __exit__(self, *_: object) -> None:
        self._owner._chosen = self._before


def parse_memory(value: object) -> int | float | None:
    """Return a memory limit as bytes (int) or as a share of what there is (float up to 1).

    Args:
        value: bytes, a share, a text such as "20GiB", "500 MB" or "0.8", or None for no limit.

    Raises:
        ValueError: anything else.
    """
    if value is None:
        return None
    text = str(value).strip()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?", text, re.IGNORECASE)
    if match is None or isinstance(value, bool) or not float(match[1]):
        raise ValueError(f'wanted bytes, a share up to 1 or a text such as "20GiB", got {value!r}')
    number, unit, binary = float(match[1]), (match[2] or "").lower(), match[3]
    if not unit and 0 < number <= 1:
        return number
    return int(number * (1024 if binary else 1000) ** " kmgt".index(unit or " "))


def _parse_cache_bytes(value: object) -> int | float | None:
    return 0 if str(value).strip() == "0" else parse_memory(value)


def _settings_class() -> "type[BaseSettings]":
    from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
    from pydantic_settings import BaseSettings, SettingsConfigDict

    Memory = Annotated[int | float | None, BeforeValidator(parse_memory)]
    CacheBytes = Annotated[int | float | None, BeforeValidator(_parse_cache_bytes)]

    class Device(BaseModel):
        model_config = ConfigDict(extra="forbid")
        memory_limit: Memory = DEFAULTS["device.memory_limit"]

    class Flush(BaseModel):
        model_config = ConfigDict(extra="forbid")
        size_bytes: int = Field(default=DEFAULTS["flush.size_bytes"], ge=1)
        age_s: float = Field(default=DEFAULTS["flush.age_s"], gt=0)

    class Compact(BaseModel):
        model_config = ConfigDict(extra="forbid")
        size_bytes: int = Field(default=DEFAULTS["compact.size_bytes"], ge=1)

    class Cache(BaseModel):
        model_config = ConfigDict(extra="forbid")
        dir: str | None = DEFAULTS["cache.dir"]
        size_bytes: CacheBytes = DEFAULTS["cache.size_bytes"]

    class Store(BaseModel):
        model_config = ConfigDict(extra="forbid")
        retention_s: float = Field(default=DEFAULTS["store.retention_s"], ge=0)
        grace_s: float = Field(default=DEFAULTS["store.grace_s"], gt=0)

    class Cluster(BaseModel):
        model_config = ConfigDict(extra="forbid")
        workers: int = Field(default=DEFAULTS["cluster.workers"], ge=0)
        search_deadline_s: float = Field(default=DEFAULTS["cluster.search_deadline_s"], gt=0)
        write_deadline_s: float = Field(default=DEFAULTS["cluster.write_deadline_s"], gt=0)
        wait_s: float = Field(default=DEFAULTS["cluster.wait_s"], ge=0)
        ping_s: float = Field(default=DEFAULTS["cluster.ping_s"], gt=0)
        hedge_share: float = Field(default=DEFAULTS["cluster.hedge_share"], ge=0, le=1)
        result_cache_bytes: int = Field(default=DEFAULTS["cluster.result_cache_bytes"], ge=0)
        task_bytes: int = Field(default=DEFAULTS["cluster.task_bytes"], ge=0)

    class Settings(BaseSettings):
        model_config = SettingsConfigDict(
            env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore"
        )
        progress: bool | Callable[[dict[str, Any]], None] = DEFAULTS["progress"]
        threads: int = Field(default=DEFAULTS["threads"], ge=0)
        memory_limit: Memory = DEFAULTS["memory_limit"]
        durability: Literal["fsync", "os"] = DEFAULTS["durability"]
        device: Device = Device()
        flush: Flush = Flush()
        compact: Compact = Compact()
        store: Store = Store()
        cache: Cache = Cache()
        consistency: Literal["strong", "bounded", "session", "eventually"] = DEFAULTS["consistency"]
        staleness_s: float = Field(default=DEFAULTS["staleness_s"], ge=0)
        cluster: Cluster = Cluster()

    return Settings


def _read_sources() -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {key: (value, "default") for key, value in DEFAULTS.items()}
    _check_variables()
    files = [file for file in (Path("gpuvec.yaml"), user_file()) if file.is_file()]
    if not files and not _has_variables():
        return found  # without Pydantic, which takes a tenth of a second to import
    from pydantic_settings import EnvSettingsSource, YamlConfigSettingsSource

    kind = _settings_class()
    layers = [(EnvSettingsSource(kind)(), "environment")]
    layers += [(YamlConfigSettingsSource(kind, file)(), str(file)) for file in files]
    for values, origin in reversed(layers):
        given = _flatten(values)
        for key in given:
            if key not in DEFAULTS:
                raise unknown_setting(key, DEFAULTS, where=origin)
        checked = _flatten(_validate(_nest(given), where=origin))
        for key in given:
            found[key] = (checked[key], _variable(key) if origin == "environment" else origin)
    return found


def _check_variables() -> None:
    """Refuse a variable that is no setting, which would else be passed over in silence."""
    known = {_variable(key): key for key in DEFAULTS}
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known and name not in _OTHER_VARIABLES:
            raise unknown_setting(name, known, where="the environment")


def _has_variables() -> bool:
    """Return whether a variable may be a setting; Pydantic knows which are."""
    names = tuple({PREFIX + key.split(".")[0].upper() for key in DEFAULTS})
    return any(name.upper().startswith(names) for name in os.environ)


def _validate(values: dict[str, Any], *, where: str = "config.set") -> dict[str, Any]:
    from pydantic import ValidationError

    kind = _settings_class()
    try:
        checked = kind.__pydantic_validator__.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(
            str(part) for part in first["loc"] if not str(part).startswith(("function", "call"))
        )
        origin = _variable(key) if where == "environment" else where
        raise bad_setting(key, first["input"], first["msg"], where=origin) from None
    return checked.model_dump() if hasattr(checked, "model_dump") else dict(checked)


def _variable(key: str) -> str:
    return PREFIX + key.replace(".", "__").upper()


def user_file() -> Path:
    """Return the path of the user's settings file, which need not exist."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "gpuvec" / "gpuvec.yaml"


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return nested


config = Config()
