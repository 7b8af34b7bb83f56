"""What users can name, and the signatures they were promised."""

import inspect

import pytest

import gpuvec as gv
from gpuvec.api.collection import Collection
from gpuvec.api.database import Database
from gpuvec.api.frame import Frame

SIGNATURES = {
    gv.connect: '(path, *, cluster=None, storage_options=None, device="auto", '
    "memory_limit=None, durability=…, user=None, password=None)",
    Database.create_collection: "(name, schema=None, *, data=None, external=None, "
    "primary_key=None, exist_ok=False, channels=1)",
    Database.alias: "(name, collection)",
    Database.rename: "(old, new)",
    Collection.insert: '(data, *, partition=None, on_conflict="error", on_bad_vectors="error")',
    Collection.upsert: '(data, *, partition=None, on_bad_vectors="error")',
    Collection.update: "(values, *, filter)",
    Collection.delete: "(frame=None, *, filter=None, ids=None)",
    Collection.add_field: "(name, type, default=None)",
    Collection.load: "(*, device=None)",
    Collection.release: "()",
    Frame.search: "(queries, k=10, *, on=None, query_on=None, query_id=None, radius=None, "
    "group_by=None, group_size=1, exclude_self=False, metric=None, recall=None, exact=False, "
    "params=None)",
    Frame.evaluate: "(sample=1000, *, seed=0)",
    Frame.explain: "(*, analyze=False)",
    Frame.collect: '(*, engine="auto")',
}

FIELD_TYPES = (
    "Bool Int8 Int16 Int32 Int64 Float32 Float64 String Timestamp JSON List "
    "Vector BinaryVector SparseVector"
)


def written(function) -> str:
    parts, star = [], False
    for p in list(inspect.signature(function).parameters.values()):
        if p.name == "self":
            continue
        assert p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL), f"{function} swallows arguments"
        if p.kind is p.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        default = "…" if p.name == "durability" else repr(p.default).replace("'", '"')
        parts.append(p.name if p.default is p.empty else f"{p.name}={default}")
    return f"({', '.join(parts)})"


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda f: f.__qualname__)
def test_the_signature_is_the_promised_one(function):
    assert written(function) == SIGNATURES[function]


@pytest.mark.parametrize("kind", [Database, Collection, Frame])
def test_no_method_swallows_unknown_options(kind):
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_"):
            kinds = {p.kind for p in inspect.signature(method).parameters.values()}
            assert inspect.Parameter.VAR_KEYWORD not in kinds or name in VARIADIC, (
                f"{kind.__name__}.{name}"
            )


VARIADIC = {"with_columns", "agg"}  # their keywords are column names


def test_every_public_name_exists():
    assert gv.__all__ == sorted(gv.__all__, key=str.lower) or len(set(gv.__all__)) == len(
        gv.__all__
    )
    for name in gv.__all__:
        getattr(gv, name)


@pytest.mark.parametrize(
    "name",
    [*FIELD_TYPES.split(), "Schema", "connect", "frame", "col", "count", "config", "datasets"],
)
def test_the_promised_names_are_public(name):
    assert name in gv.__all__


def test_every_error_class_is_public():
    from gpuvec import errors

    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, Exception | Warning):
            assert getattr(gv, name) is value, name
