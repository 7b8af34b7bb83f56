"""The root coordinator: names, aliases and who they stand for. It decides; its host commits."""

from typing import Any

from gpuvec import errors
from gpuvec.coord.principals import Principals
from gpuvec.meta.access import Access
from gpuvec.meta.catalog import DatabaseState
from gpuvec.meta.changes import (
    Change,
    CreateCollection,
    DropAlias,
    DropCollection,
    RenameCollection,
    SetAlias,
)

_LONGEST_NAME = 255


class RootCoord:
    """Turns wishes about collections into changes of the database's log, or says why not.

    Args:
        where: the database, for messages.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self.note(DatabaseState())

    def note(self, state: DatabaseState) -> None:
        """Note the newest state of the log."""
        self._state = state
        self._name_of = {found: name for name, found in state.collections.items()}

    def names(self) -> list[str]:
        """Return the names of all collections, sorted."""
        return sorted(self._state.collections)

    def aliases(self) -> dict[str, str]:
        """Return alias to name."""
        return dict(self._state.aliases)

    def id_of(self, name: str) -> str | None:
        """Return the id of the collection that a name or an alias stands for."""
        return self._state.resolve(name)

    def name_of(self, collection_id: str) -> str | None:
        """Return the present name of a collection, None when it was dropped."""
        return self._name_of.get(collection_id)

    def resolve(self, name: Any) -> tuple[str, str]:
        """Return name and id of the collection that a name or an alias stands for.

        Raises:
            NotFoundError: `GV-150`, with the nearest name.
        """
        found = self._state.resolve(name) if isinstance(name, str) else None
        if found is None:
            known = [*self._state.collections, *self._state.aliases]
            raise errors.unknown_collection(name, known, where=self._where)
        return self._state.aliases.get(name, name), found

    @property
    def access(self) -> Access:
        """Users, roles and quotas."""
        return self._state.access

    def principals(self) -> Principals:
        """Return what decides about users, roles and quotas as they are now."""
        return Principals(self._state.access, self)

    def create(self, name: str, collection_id: str) -> Change:
        """Return the change that names a new collection.

        Raises:
            AlreadyExistsError: `GV-151`, the name is taken.
            QuotaError: `GV-722`, there are as many as there may be.
        """
        self._check_free(name)
        most, there = self._state.access.limit("collections"), len(self._state.collections)
        if most is not None and there >= most:
            what = "collections"
            raise errors.quota_reached(what, self._where, limit=most, there=there, more=1)
        return CreateCollection(name=name, collection_id=collection_id)

    def drop(self, name: str) -> Change:
        """Return the change that forgets a collection; an alias must be dropped by its own call."""
        if name in self._state.aliases:
            raise errors.collection_exists(name, alias_of=self._state.aliases[name])
        real, _ = self.resolve(name)
        return DropCollection(name=real)

    def rename(self, old: str, new: str) -> Change:
        """Return the change that renames a collection."""
        self.resolve(old)
        self._check_free(new)
        return RenameCollection(old=self._state.aliases.get(old, old), new=new)

    def alias(self, alias: str, name: str | None) -> Change:
        """Return the change that points an alias to a collection, or with None forgets it."""
        if name is None:
            if alias not in self._state.aliases:
                raise errors.unknown_collection(alias, self._state.aliases, where=self._where)
            return DropAlias(alias=alias)
        check_name("an alias", alias)
        if alias in self._state.collections:
            raise errors.collection_exists(alias)
        return SetAlias(alias=alias, name=self.resolve(name)[0])

    def _check_free(self, name: str) -> None:
        check_name("a collection name", name)
        if name in self._state.collections or name in self._state.aliases:
            raise errors.collection_exists(name, alias_of=self._state.aliases.get(name))


def check_name(what: str, name: Any) -> str:
    """Return a name that can be used for a collection, alias or partition.

    Raises:
        SchemaError: `GV-152`, with what a name must be.
    """
    usable = isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable()
    if not usable or "/" in name:
        raise errors.bad_name(what, name)
    return str(name)
