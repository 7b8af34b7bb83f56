"""What an index shall be: frozen parameters, checked when made, JSON both ways.

`gv.index.HNSW(m=32)` is a wish; a parameter left at None is decided when a segment is built.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from gpuvec.errors import bad_index_parameter, unknown_index, unknown_index_option


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSpec:
    """Base of all specs: the parameters of one index type.

    Attributes:
        KIND: its name in files and messages.
        SEARCH: knob to (least, most) of `params={...}` in a search.
        SCALAR: whether it is for scalar fields.
        REMEMBERS: whether a row that is hidden from the answers still leads to its neighbours, so
            that it is no honest query.
    """

    KIND: ClassVar[str] = ""
    SEARCH: ClassVar[Mapping[str, tuple[float, float]]] = {}
    SCALAR: ClassVar[bool] = False
    REMEMBERS: ClassVar[bool] = False

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `spec_from_json` makes an equal spec."""
        return {"kind": self.KIND, **{f.name: getattr(self, f.name) for f in fields(self)}}

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        shown = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
        return f"{type(self).__name__}({shown})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat(IndexSpec):
    """Exact search: every row is measured. What a vector field has when no index is made."""

    KIND = "flat"


@dataclass(frozen=True, slots=True, kw_only=True)
class IVFInt8(IndexSpec):
    """Lists of 8-bit codes, scanned list by list for many queries at once; built for batches.

    Attributes:
        n_lists: None: by the number of rows.
    """

    KIND = "ivf_int8"
    SEARCH: ClassVar = {"effort": (0.0, 1.0)}

    n_lists: int | None = None

    def __post_init__(self) -> None:
        _check(self, "n_lists", 1, 1 << 24)


@dataclass(frozen=True, slots=True, kw_only=True)
class HNSW(IndexSpec):
    """A graph of near rows (FAISS): quick for single queries, slow to build.

    Attributes:
        m: neighbours kept per row and level.
        ef_construction: candidates looked at per insertion.
    """

    KIND = "hnsw"
    REMEMBERS = True
    SEARCH: ClassVar = {"ef_search": (1, 1 << 20)}

    m: int = 32
    ef_construction: int = 200

    def __post_init__(self) -> None:
        _check(self, "m", 2, 512)
        _check(self, "ef_construction", 4, 1 << 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class CAGRA(IndexSpec):
    """A graph of near rows without levels, made for GPUs (cuVS); a CPU searches it too (FAISS).

    Attributes:
        graph_degree: neighbours kept per row; even.
        intermediate_graph_degree: neighbours looked at per row while it is built.
    """

    KIND = "cagra"
    REMEMBERS = True
    SEARCH: ClassVar = {"itopk_size": (1, 1 << 20)}

    graph_degree: int = 64
    intermediate_graph_degree: int = 128

    def __post_init__(self) -> None:
        _check(self, "graph_degree", 4, 512)
        _check(self, "intermediate_graph_degree", 4, 1 << 16)
        if self.graph_degree % 2:
            wanted = "an even number"
            raise bad_index_parameter("CAGRA", "graph_degree", self.graph_degree, wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class IVFFlat(IndexSpec):
    """Lists of whole vectors around centers (FAISS); binary vectors too.

    Attributes:
        n_lists: None: by the number of rows.
    """

    KIND = "ivf_flat"
    SEARCH: ClassVar = {"n_probes": (1, 1 << 24)}

    n_lists: int | None = None

    def __post_init__(self) -> None:
        _check(self, "n_lists", 1, 1 << 24)


@dataclass(frozen=True, slots=True, kw_only=True)
class IVFSQ8(IndexSpec):
    """Lists of vectors with one byte a value (FAISS); what is found is measured again.

    Attributes:
        n_lists: None: by the number of rows.
    """

    KIND = "ivf_sq8"
    SEARCH: ClassVar = {"n_probes": (1, 1 << 24), "refine": (1, 1000)}

    n_lists: int | None = None

    def __post_init__(self) -> None:
        _check(self, "n_lists", 1, 1 << 24)


@dataclass(frozen=True, slots=True, kw_only=True)
class IVFPQ(IndexSpec):
    """Lists of product-quantised vectors (FAISS); what is found is measured again.

    Attributes:
        n_lists: None: by the number of rows.
        pq_dim: codes per row; None: 2 bits a dimension.
        pq_bits: of a code. 4 is the fastest on the CPU; lists of 8 can be searched on a GPU too.
            None: by where it is built.
    """

    KIND = "ivf_pq"
    SEARCH: ClassVar = {"n_probes": (1, 1 << 24), "refine": (1, 1000)}

    n_lists: int | None = None
    pq_dim: int | None = None
    pq_bits: int | None = None

    def __post_init__(self) -> None:
        _check(self, "n_lists", 1, 1 << 24)
        _check(self, "pq_dim", 1, 1 << 16)
        if self.pq_bits not in (None, 4, 8):
            raise bad_index_parameter("IVFPQ", "pq_bits", self.pq_bits, "4 or 8")


@dataclass(frozen=True, slots=True, kw_only=True)
class IVFRaBitQ(IndexSpec):
    """Lists of vectors with a bit or a few per dimension (FAISS); found ones are measured again.

    Attributes:
        n_lists: None: by the number of rows.
        bits: per dimension, 1 to 8.
    """

    KIND = "ivf_rabitq"
    SEARCH: ClassVar = {"n_probes": (1, 1 << 24), "refine": (1, 1000)}

    n_lists: int | None = None
    bits: int = 1

    def __post_init__(self) -> None:
        _check(self, "n_lists", 1, 1 << 24)
        _check(self, "bits", 1, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bitmap(IndexSpec):
    """The rows of each value of a scalar field: for fields with few different values."""

    KIND = "bitmap"
    SCALAR = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted(IndexSpec):
    """The rows of a scalar field in order of value: for ranges."""

    KIND = "sorted"
    SCALAR = True


SPECS: dict[str, type[IndexSpec]] = {
    cls.KIND: cls
    for cls in (Flat, IVFInt8, HNSW, CAGRA, IVFFlat, IVFSQ8, IVFPQ, IVFRaBitQ, Bitmap, Sorted)
}


def _check(spec: IndexSpec, name: str, least: int, most: int) -> None:
    value = getattr(spec, name)
    if value is None and name in ("n_lists", "pq_dim"):
        return
    if type(value) is not int or not least <= value <= most:
        wanted = f"a whole number from {least:,} to {most:,}"
        raise bad_index_parameter(type(spec).__name__, name, value, wanted)


def spec_from_json(data: Mapping[str, Any]) -> IndexSpec:
    """Make the spec that `IndexSpec.to_json` wrote.

    Raises:
        QueryError: `GV-315` no such index type, `GV-316` it has no such parameter, `GV-317` a value
            that it cannot have.
    """
    kind = data.get("kind")
    if kind not in SPECS:
        raise unknown_index(kind, SPECS)
    cls = SPECS[kind]
    known = [f.name for f in fields(cls)]
    options = {name: value for name, value in data.items() if name != "kind"}
    for name in options:
        if name not in known:
            raise unknown_index_option(kind, name, known)
    return cls(**options)


def check_params(spec: IndexSpec, params: Mapping[str, Any]) -> dict[str, float]:
    """Return the knobs of a search as numbers.

    Raises:
        QueryError: `GV-318`, the index has no such knob, or not this value of it.
    """
    for name, value in params.items():
        limits = spec.SEARCH.get(name)
        if limits is None:
            raise bad_index_parameter(
                type(spec).__name__,
                name,
                value,
                f"one of {', '.join(spec.SEARCH) or 'none'}",
                code="GV-318",
            )
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not limits[0] <= value <= limits[1]:
            wanted = f"a number from {limits[0]:,} to {limits[1]:,}"
            raise bad_index_parameter(type(spec).__name__, name, value, wanted, code="GV-318")
    return dict(params)
