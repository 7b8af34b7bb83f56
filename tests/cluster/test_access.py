"""Users are let in by name and password, do what their roles allow, and no more than quotas say."""

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpuvec as gv
from gpuvec.cluster.client_database import open_database
from gpuvec.coord.passwords import is_password, make_secret
from gpuvec.testing.roles import wait_for

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(4)}, primary_key="id")
LONG = "a long password"


def rows(start, count=4):
    return {"id": np.arange(start, start + count), "v": np.ones((count, 4), np.float32)}


def refuses(items, start, count, what="rows"):
    """Return whether rows are too many; owners look for new quotas every second or so."""
    try:
        items.upsert(rows(start, count))
    except gv.QuotaError as error:
        return error.details["what"] == what
    items.delete(ids=[n for n in range(start, start + count) if n >= 20])
    return False


@pytest.fixture
def enter(roles):
    """Return `enter(user, password)`: another client."""
    opened = []

    def enter(user=None, password=LONG):
        opened.append(
            open_database(roles.ref.url, transport=roles.transport, user=user, password=password)
        )
        return opened[-1]

    yield enter
    for db in opened:
        db.close()


@pytest.fixture
def root(enter):
    """A client of the only admin, of a database with a collection and a role that may read it."""
    db = enter()
    db.create_collection("items", SCHEMA).insert(rows(0))
    db.create_collection("others", SCHEMA).insert(rows(0))
    db.users.create("root", LONG)
    admin = enter("root")
    admin.roles.create("readers")
    admin.roles.grant("readers", "read", "items")
    admin.users.create("ann", "anns password", roles=["readers"])
    return admin


def test_without_users_everybody_may_do_everything_and_the_first_one_is_an_admin(enter):
    db = enter()
    assert dict(db.users) == {}
    assert dict(db.roles) == {}
    db.users.create("root", LONG)
    assert db.users["root"].roles == ("admin",)


@pytest.mark.parametrize(("user", "password"), [("ann", LONG), ("bob", LONG), (None, None)])
def test_a_wrong_name_or_password_is_not_let_in(root, enter, user, password):
    with pytest.raises(gv.AccessDeniedError, match="GV-720"):
        enter(user, password)


def test_a_user_may_do_what_its_roles_allow_and_nothing_else(root, enter):
    ann = enter("ann", "anns password")
    assert ann["items"].count() == 4
    assert len(ann["items"].search(np.ones(4, np.float32), k=2).collect()) == 2
    refused = [
        lambda: ann["items"].insert(rows(9)),
        lambda: ann["items"].delete(ids=[1]),
        lambda: ann["items"].add_field("more", gv.Int64(nullable=True)),
        lambda: ann["items"].flush(),
        lambda: ann["others"].count(),
        lambda: ann["others"].search(np.ones(4, np.float32), k=2).collect(),
        lambda: ann.create_collection("mine", SCHEMA),
        lambda: ann.drop_collection("items"),
        lambda: ann.rename("items", "goods"),
        lambda: ann.alias("goods", "items"),
        lambda: ann.users.create("bob", LONG),
        lambda: ann.users.set_password("root", LONG),
        lambda: ann.roles.grant("readers", "write"),
        lambda: ann.quotas.set(rows=1),
    ]
    for call in refused:
        with pytest.raises(gv.AccessDeniedError, match="GV-721"):
            call()
    assert root["items"].count() == 4
    assert root.collections() == ["items", "others"]
    ann.users.set_password("ann", "anns other password")
    assert enter("ann", "anns other password")["items"].count() == 4


def test_who_may_only_read_looks_at_jobs_and_ends_none(root, enter, tmp_path):
    path = tmp_path / "rows.parquet"
    vectors = pa.FixedSizeListArray.from_arrays(np.ones(16, np.float32), 4)
    pq.write_table(pa.table({"id": np.arange(50, 54), "v": vectors}), path)
    job = root["items"].bulk_import(str(path), wait=False)
    work = job._work
    job.wait()
    ann = enter("ann", "anns password")
    call = partial(ann._engine.call_owner, root["items"]._id)
    assert call("job", work.job_id, "look").status == "done"
    for action in ("cancel", "resume"):
        with pytest.raises(gv.AccessDeniedError, match='lacks the privilege "write"'):
            call("steer_job", work.job_id, action)
        assert call("job", work.job_id, action).status == "done"  # looks only


def test_a_right_that_is_given_or_taken_holds_for_clients_that_connect_then(root, enter):
    root.roles.grant("readers", "write", "items")
    assert enter("ann", "anns password")["items"].insert(rows(10)).inserted == 4
    root.roles.revoke("readers", "write", "items")
    root.users.revoke("ann", "readers")
    with pytest.raises(gv.AccessDeniedError, match='lacks the privilege "read"'):
        enter("ann", "anns password")["items"].count()
    root.users.grant("ann", "admin")
    assert enter("ann", "anns password").users["ann"].roles == ("admin",)


def test_an_open_client_learns_within_seconds_what_it_may_no_more(root, enter, monkeypatch):
    ann = enter("ann", "anns password")
    assert ann["items"].count() == 4
    root.users.drop("ann")
    monkeypatch.setattr("gpuvec.proxy.guard._LOOK_S", 0.0)
    with pytest.raises(gv.AccessDeniedError, match="GV-720"):
        ann["items"].count()


def test_grants_follow_a_collection_that_is_renamed_and_go_with_it(root):
    root.rename("items", "goods")
    assert root.roles["readers"].grants == (("read", "goods"),)
    root.drop_collection("goods")
    assert root.roles["readers"].grants == ()
    root.roles.grant("readers", "read")
    assert root.roles["readers"].grants == (("read", "*"),)
    root.roles.drop("readers")
    assert list(root.roles) == []
    assert root.users["ann"].roles == ()


def test_changes_made_twice_do_no_harm_and_impossible_ones_say_why(root):
    for _ in range(2):
        root.roles.grant("readers", "read", "items")
        root.users.grant("ann", "readers")
    with pytest.raises(gv.AlreadyExistsError, match="GV-724"):
        root.users.create("ann", LONG)
    with pytest.raises(gv.NotFoundError, match='Did you mean "ann"'):
        root.users.drop("anne")
    with pytest.raises(gv.QueryError, match='Did you mean "read"'):
        root.roles.grant("readers", "reed")
    with pytest.raises(gv.QueryError, match="GV-727"):
        root.users.create("bob", "short")
    for last in (lambda: root.users.drop("root"), lambda: root.users.revoke("root", "admin")):
        with pytest.raises(gv.QueryError, match="GV-728"):
            last()
    with pytest.raises(gv.QueryError, match="GV-727"):
        root.roles.grant("admin", "read")


def test_users_outlive_all_processes_and_files_need_no_leave(root, roles, enter, tmp_path):
    root.close()
    roles.close()
    with gv.connect(tmp_path / "shop") as alone:
        assert list(alone.users) == ["ann", "root"]
        assert alone["items"].count() == 4
        secret = alone._engine.names.view.state.access.users["ann"].secret
    assert "anns password" not in secret
    assert is_password("anns password", secret)
    with pytest.raises(gv.QueryError, match="GV-729"):
        gv.connect(tmp_path / "shop", user="ann", password=LONG)


def test_a_secret_tells_its_password_from_others_and_is_new_each_time():
    secret = make_secret("ä" * 8)
    assert is_password("ä" * 8, secret)
    assert not is_password("a" * 8, secret)
    assert not is_password("a" * 8, None)
    assert make_secret("ä" * 8) != secret


@pytest.mark.parametrize("place", ["cluster", "embedded"])
def test_quotas_refuse_what_is_too_much(place, enter, tmp_path):
    db = enter() if place == "cluster" else gv.connect(tmp_path / "alone")
    db.create_collection("items", SCHEMA).insert(rows(0))
    db.quotas.set(collections=2, rows=6)
    db.quotas.set("items", rows=10, size_bytes=1e9)
    assert dict(db.quotas) == {
        None: {"collections": 2, "rows": 6},
        "items": {"rows": 10, "size_bytes": 1e9},
    }
    other = db.create_collection("other", SCHEMA)
    with pytest.raises(gv.QuotaError, match="GV-722"):
        db.create_collection("third", SCHEMA)
    other.insert(rows(0))
    with pytest.raises(gv.QuotaError, match="may have 6 rows; there are 4, and 4 more came"):
        other.insert(rows(10))
    wait_for(lambda: refuses(db["items"], 20, 8), "the quota of the collection is not known")
    db["items"].insert(rows(10))
    with pytest.raises(gv.QuotaError):
        db["items"].upsert(rows(0))
    db["items"].delete(ids=[0, 1, 2, 3])
    db["items"].upsert(rows(0))
    db.quotas.set("items", rows=100, size_bytes=10)
    wait_for(lambda: refuses(db["items"], 0, 4, what="bytes"), "the new quota is not known")
    db.quotas.set("items", rows=None, size_bytes=None)
    assert dict(db.quotas) == {None: {"collections": 2, "rows": 6}}
    with pytest.raises(gv.QueryError, match="GV-726"):
        db.quotas.set("items", rows=-1)
    db.close()


def test_rates_refuse_what_is_too_fast_and_say_when_to_come_back(enter):
    db = enter()
    items = db.create_collection("items", SCHEMA)
    db.quotas.set(write_rows_per_s=0.01, reads_per_s=0.01)  # what comes first is let in
    client = enter()
    client["items"].insert(rows(0, 8))
    with pytest.raises(gv.QuotaError, match="GV-768") as told:
        client["items"].insert(rows(10, 8))
    assert told.value.details["retryable"]
    assert 600 < told.value.details["retry_after_s"] < 801
    with pytest.raises(gv.QuotaError, match=r"more than 0\.01 reads per second"):
        [client["items"].count() for _ in range(20)]
    assert items.delete(ids=[1]).deleted == 1
