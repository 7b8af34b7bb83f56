"""104, 128 and 150 on: names, schemas, collections and their options.

101 to 103 are raised where fields and schemas are checked: `gpuvec.fields`, `gpuvec.schema`.
"""

from collections.abc import Iterable

from gpuvec.errors.base import (
    AlreadyExistsError,
    NotFoundError,
    QueryError,
    SchemaError,
    did_you_mean,
)


def unknown_field(name: str, known: Iterable[str], *, where: str = "the schema") -> NotFoundError:
    """Return the error for a field that does not exist, with the nearest name."""
    names = list(known)
    return NotFoundError(
        "GV-104",
        f'no field "{name}" in {where}.{did_you_mean(name, names)}',
        hint=f"fields: {', '.join(names)}",
        details={"field": name, "known": names},
    )


def unknown_collection(name: object, known: Iterable[str], *, where: str) -> NotFoundError:
    """Return the error for a collection that does not exist, with the nearest name."""
    names = sorted(known)
    text = f'"{name}"' if isinstance(name, str) else repr(name)
    return NotFoundError(
        "GV-150",
        f"no collection {text} in {where}.{did_you_mean(str(name), names)}",
        hint=f"collections: {', '.join(names) or 'none yet; create_collection makes one'}",
        details={"collection": name, "known": names},
    )


def collection_exists(name: str, *, alias_of: str | None = None) -> AlreadyExistsError:
    """Return the error for creating or renaming to a name that is taken."""
    what = f'"{name}" is an alias of "{alias_of}"' if alias_of else f'collection "{name}" exists'
    return AlreadyExistsError(
        "GV-151",
        what,
        hint=f'open it with db["{name}"], pass exist_ok=True, or choose another name',
        details={"collection": name},
    )


def bad_name(what: str, name: object) -> SchemaError:
    """Return the error for a collection, alias or partition name that cannot be used."""
    return SchemaError(
        "GV-152",
        f"{what} must be text of 1 to 255 characters without / or control characters; got {name!r}",
        details={"what": what, "name": name},
    )


def unknown_partition(name: str, known: Iterable[str], *, where: str) -> NotFoundError:
    """Return the error for a partition that does not exist, with the nearest name."""
    names = sorted(known)
    return NotFoundError(
        "GV-153",
        f'no partition "{name}" in collection "{where}".{did_you_mean(name, names)}',
        hint=f"partitions: {', '.join(names) or 'none; insert(..., partition=name) makes one'}",
        details={"partition": name, "known": names},
    )


def field_exists(name: str, *, where: str) -> AlreadyExistsError:
    """Return the error for adding a field whose name is taken."""
    return AlreadyExistsError(
        "GV-154",
        f'field "{name}" exists in collection "{where}"',
        hint="drop_field first, or choose another name",
        details={"field": name},
    )


def field_needs_filling(name: str) -> SchemaError:
    """Return the error for adding a field that the rows already there could not have."""
    return SchemaError(
        "GV-155",
        f'field "{name}" is not nullable and has no default, so existing rows would have no value',
        hint="give default=..., or make the type nullable=True",
        details={"field": name},
    )


def field_in_use(name: str, role: str) -> SchemaError:
    """Return the error for dropping or changing a field that the collection depends on."""
    return SchemaError(
        "GV-156",
        f'field "{name}" is the {role}; it can neither be dropped nor updated',
        hint="create a collection with another schema and insert the rows there",
        details={"field": name, "role": role},
    )


def key_exists(field: str, row: int, key: object, count: int, *, where: str) -> SchemaError:
    """Return the error for inserting keys that exist; nothing of the batch was written."""
    others = f" (and {count - 1:,} more)" if count > 1 else ""
    return SchemaError(
        "GV-157",
        f'{field} {key!r} of row {row} exists in collection "{where}"{others}',
        hint='use upsert, or insert(..., on_conflict="skip" or "replace")',
        details={"field": field, "row": row, "key": key, "count": count},
    )


def bad_choice(option: str, got: object, known: Iterable[str]) -> QueryError:
    """Return the error for an option with a value that does not exist."""
    names = [str(name) for name in known]
    return QueryError(
        "GV-158",
        f"{option} must be one of {', '.join(names)}; got {got!r}.{did_you_mean(str(got), names)}",
        details={"option": option, "got": got, "known": names},
    )


def one_of_needed(options: Iterable[str], given: Iterable[str]) -> QueryError:
    """Return the error for options of which exactly one must be given."""
    names, got = list(options), list(given)
    return QueryError(
        "GV-159",
        f"give exactly one of {', '.join(names)}; got {', '.join(got) or 'none'}",
        hint="to delete every row, use truncate()",
        details={"options": names, "given": got},
    )


def filter_not_frame(text: str) -> QueryError:
    """Return the error for a filter given to `delete` in the place of a frame."""
    return QueryError(
        "GV-167",
        "give exactly one of frame, filter, ids; frame is rows with their keys, and this a filter",
        hint=f"delete(filter={text!r})",
        details={"filter": text},
    )


def nothing_to_set() -> QueryError:
    """Return the error for an update without values."""
    return QueryError(
        "GV-168",
        "update needs at least one field to set",
        hint='items.update({"price": 9.5}, filter="id == 1")',
    )


def partition_not_allowed(key: str) -> QueryError:
    """Return the error for naming a partition where a partition key decides."""
    return QueryError(
        "GV-160",
        f'a row lies in the partition of its partition key "{key}"; partition= is not taken',
        hint="leave partition out",
        details={"partition_key": key},
    )


def schema_or_data_needed() -> QueryError:
    """Return the error for creating a collection from nothing."""
    return QueryError(
        "GV-161",
        "create_collection needs a schema, or data and primary_key to infer one",
        hint='db.create_collection("items", data=df, primary_key="id")',
    )


def another_schema(name: str) -> AlreadyExistsError:
    """Return the error for `exist_ok=True` where the collection has another schema."""
    return AlreadyExistsError(
        "GV-162",
        f'collection "{name}" exists with another schema',
        hint=f'open it with db["{name}"] and look at .schema, or choose another name',
        details={"collection": name},
    )


def two_primary_keys(schema: str, argument: str) -> QueryError:
    """Return the error for a primary key beside a schema that has another."""
    return QueryError(
        "GV-165",
        f'the schema has the primary key "{schema}", primary_key says "{argument}"',
        hint="leave primary_key out",
        details={"schema": schema, "argument": argument},
    )


def dynamic_columns_left() -> QueryError:
    """Return the error for writing rows of a dynamic collection without its dynamic columns."""
    return QueryError(
        "GV-166",
        "the rows have dynamic columns, and the collection has none",
        hint='select the others: frame.select("id", "embedding"), or make it with dynamic=True',
    )


def no_ids_left(field: str, count: int) -> SchemaError:
    """Return the error for rows without key where the highest key leaves no room for more."""
    return SchemaError(
        "GV-169",
        f'no {count} ids are left above the highest of "{field}"',
        hint="give the rows ids, or delete the row whose id is so high",
        details={"field": field, "count": count},
    )


def bad_ttl(got: object) -> QueryError:
    """Return the error for a time to live that is no positive span."""
    return QueryError(
        "GV-163",
        f'a time to live is seconds, a timedelta or text as "7d", "12h", "30m", "45s"; got {got!r}',
        hint="None keeps rows for ever",
        details={"ttl": got},
    )


def ids_do_not_fit(field: str, wanted: str, why: str) -> SchemaError:
    """Return the error for ids of another type than the primary key."""
    return SchemaError(
        "GV-164",
        f'ids must be {wanted}, the type of the primary key "{field}": {why}',
        details={"field": field, "wanted": wanted},
    )


def bad_default(kind: str, default: object) -> SchemaError:
    """Return the error for a default that the field's type cannot hold."""
    return SchemaError(
        "GV-128",
        f"a field of type {kind} cannot have the default {default!r}",
        details={"type": kind, "default": repr(default)},
    )
