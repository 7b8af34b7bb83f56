"""Looking for news in a bucket: once for each read, at all places at once."""

from contextlib import AbstractContextManager

from gpuvec.node.shards import Channels
from gpuvec.storage import keys
from gpuvec.storage.object_store import ObjectStore
from gpuvec.storage.stamps import together


def glance(
    store: ObjectStore, channel: Channels | None, *, catalog: bool, rows: bool
) -> AbstractContextManager[None]:
    """Return a block in which a read looks for news only once, at its beginning.

    Args:
        store: of the database.
        channel: that will be read; None: it is not open yet.
        catalog: whether another process may change the database's log.
        rows: whether its rows will be read, not its manifest alone.
    """
    folders = [keys.manifest_folder(keys.CATALOG)] if catalog else []
    if channel is not None and not channel.owned:
        prefix = keys.collection(channel.collection_id)
        folders.append(keys.manifest_folder(prefix))
        if rows:
            folders += [keys.wal_folder(prefix, name) for name in channel.state.channels]
    return together(store, folders)
