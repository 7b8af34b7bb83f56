"""A database on roles in this process: coordinator, two nodes, clients."""

from collections.abc import Iterator

import pytest

import gpuvec as gv
from gpuvec.cluster.client_database import ClusterDatabase, open_database
from gpuvec.cluster.opening import reference
from gpuvec.testing.roles import Roles

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(4)}, primary_key="id")


@pytest.fixture
def roles(tmp_path) -> Iterator[Roles]:
    with Roles(reference(tmp_path / "shop")) as found:
        yield found


@pytest.fixture
def open_client(roles):
    """Return `open_client()`: each one is another client."""
    opened: list[ClusterDatabase] = []

    def open_client() -> ClusterDatabase:
        opened.append(open_database(roles.ref.url, transport=roles.transport))
        return opened[-1]

    yield open_client
    for db in opened:
        db.close()


@pytest.fixture
def db(open_client) -> ClusterDatabase:
    return open_client()


@pytest.fixture
def items(db):
    return db.create_collection("items", SCHEMA)


@pytest.fixture
def short(tmp_path):
    """Roles with short leases, and a client."""
    with (
        Roles(reference(tmp_path / "short"), lease_s=0.4) as roles,
        open_database(roles.ref.url, transport=roles.transport) as db,
    ):
        yield roles, db
