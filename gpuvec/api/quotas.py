"""How many rows and bytes a collection may have: asked by its owner before it writes."""

from typing import TYPE_CHECKING, Any

from gpuvec import errors
from gpuvec.messages import InsertRows

if TYPE_CHECKING:
    from gpuvec.api.engine import Engine


def admit(engine: "Engine", request: Any) -> None:
    """Let a write begin, unless the collection would have more than it may.

    Rows that will replace others count as new ones. Deletes are always let in.

    Raises:
        QuotaError: `GV-722`.
    """
    view = engine.names.view
    if view is None or not view.state.access.quotas or not isinstance(request.change, InsertRows):
        return
    access, collection_id, coming = view.state.access, request.collection_id, request.change.rows
    rows, size_bytes = (access.limit(what, collection_id) for what in ("rows", "size_bytes"))
    if rows is None and size_bytes is None:
        return
    infos = engine.channel(collection_id).shard.infos()
    name = f'collection "{engine.names.name_of(collection_id)}"'
    there = sum(info.row_count - info.deleted_count for info in infos)
    if rows is not None and there + len(coming) > rows:
        raise errors.quota_reached("rows", name, limit=rows, there=there, more=len(coming))
    held = sum(info.size_bytes for info in infos)
    if size_bytes is not None and held + coming.nbytes > size_bytes:
        limit, more = size_bytes, coming.nbytes
        raise errors.quota_reached("bytes", name, limit=limit, there=held, more=more)
