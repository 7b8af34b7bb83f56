"""A database on a cluster of real processes, from opening to closing."""

import subprocess
import sys
import threading
import time

import dask
import numpy as np
import pyarrow as pa
import pytest
from distributed import Client, LocalCluster

import gpuvec as gv
from gpuvec.cluster import launch

DIM = 8


def rows(start, stop, seed=0):
    vectors = np.random.default_rng([seed, start]).random((stop - start, DIM), np.float32)
    flat = pa.array(vectors.ravel())
    return pa.table(
        {"id": np.arange(start, stop), "v": pa.FixedSizeListArray.from_arrays(flat, DIM)}
    )


def test_rows_are_written_searched_and_dropped_on_other_processes(db, tmp_path):
    items = db.create_collection("items", data=rows(0, 500), primary_key="id")
    query = np.asarray(rows(0, 500).column("v").chunk(0).flatten()).reshape(-1, DIM)[:20]
    found = items.search(query, k=3).to_arrow()
    assert found.column("id").to_pylist()[::3] == list(range(20))
    items.flush()
    assert items.search(query, k=3).to_arrow().equals(found)
    items.insert(rows(500, 600))
    assert items.count() == 600
    assert items.delete(ids=[0, 599]).deleted == 2
    assert items.count() == 598
    db.drop_collection("items")
    assert db.collections() == []


def test_the_same_answers_as_in_one_process(db, tmp_path):
    items = db.create_collection("items", data=rows(0, 2000), primary_key="id", channels=2)
    items.flush()
    items.insert(rows(2000, 2200))
    query = rows(0, 50, seed=1)
    there = items.filter("id % 3 == 0").search(query, k=7).to_arrow()
    db.close()
    with gv.connect(tmp_path) as alone:
        here = alone["items"].filter("id % 3 == 0").search(query, k=7).to_arrow()
    assert there.equals(here)


def test_two_clients_see_what_the_other_wrote(connect):
    one, two = connect(), connect()
    items = one.create_collection("items", data=rows(0, 10), primary_key="id")
    assert two["items"].count() == 10
    two["items"].insert(rows(10, 20))
    assert items.count() == 20


def test_several_databases_live_on_one_cluster(connect, tmp_path):
    paths = [tmp_path / name for name in "abc"]
    for number, path in enumerate(paths):
        connect(path).create_collection("items", data=rows(0, 10 + number), primary_key="id")
    assert [connect(path)["items"].count() for path in paths] == [10, 11, 12]


def test_errors_of_other_processes_are_those_of_one(db):
    items = db.create_collection("items", data=rows(0, 10), primary_key="id")
    with pytest.raises(gv.SchemaError, match="GV-1") as caught:
        items.insert(rows(5, 15))
    assert caught.value.hint
    with pytest.raises(gv.AlreadyExistsError, match="GV-151"):
        db.create_collection("items", data=rows(0, 1), primary_key="id")
    with pytest.raises(gv.NotFoundError, match="GV-150"):
        db["nothing"]


def test_while_the_cluster_has_it_open_no_other_process_writes(connect, tmp_path):
    connect().create_collection("items", data=rows(0, 10), primary_key="id")
    with gv.connect(tmp_path) as alone:
        assert alone["items"].count() == 10
        with pytest.raises(gv.ConflictError, match="GV-602"):
            alone["items"].insert(rows(10, 11))


def test_after_the_last_client_closed_it_another_process_may_write(connect, tmp_path):
    one, two = connect(), connect()
    one.create_collection("items", data=rows(0, 10), primary_key="id")
    one.close()
    two["items"].insert(rows(10, 20))
    two.close()
    with gv.connect(tmp_path) as alone:
        alone["items"].insert(rows(20, 30))
        assert alone["items"].count() == 30


def test_a_client_object_and_an_address_reach_the_same_cluster(cluster, connect):
    connect().create_collection("items", data=rows(0, 10), primary_key="id")
    with Client(cluster, set_as_default=False) as client:
        assert connect(cluster=client)["items"].count() == 10
    assert connect(cluster=cluster.scheduler_address)["items"].count() == 10


def test_many_threads_write_and_read_at_once(db):
    items = db.create_collection("items", data=rows(0, 10), primary_key="id")
    failures = []

    def work(number):
        try:
            for i in range(5):
                start = 10 + number * 100 + i * 10
                items.insert(rows(start, start + 10))
                assert items.filter(f"id >= {start} and id < {start + 10}").count() == 10
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert items.count() == 210


def test_memory_databases_are_refused(connect):
    with pytest.raises(gv.UnsupportedError, match="GV-740"):
        connect("memory://x")


@pytest.mark.parametrize("wrong", ["locla", 3, object()])
def test_what_is_no_cluster_is_refused(tmp_path, wrong):
    with pytest.raises(gv.QueryError, match="GV-742"):
        gv.connect(tmp_path, cluster=wrong)


def test_an_address_where_nobody_is_says_so(tmp_path):
    started = time.monotonic()
    with pytest.raises(gv.UnavailableError, match=r"GV-744.*tcp://127.0.0.1:9"):
        gv.connect(tmp_path, cluster="tcp://127.0.0.1:9")
    assert time.monotonic() - started < 30


def test_a_cluster_that_ended_by_itself_is_noticed():
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as made,
    ):
        launch.check(made)
        made.sync(next(iter(made.workers.values())).close)
        with pytest.raises(gv.UnavailableError, match=r"GV-758.*no worker"):
            launch.check(made)
        made.sync(made.scheduler.close)
        with pytest.raises(gv.UnavailableError, match=r"GV-758.*scheduler"):
            launch.check(made)


def test_tls_without_certificates_says_where_to_get_them(tmp_path):
    with pytest.raises(gv.UnavailableError, match=r"GV-757.*no certificates") as caught:
        gv.connect(tmp_path, cluster="tls://127.0.0.1:8786")
    assert "DASK_CONFIG" in caught.value.hint
    assert "gpuvec cluster certs" in caught.value.hint


def test_a_scheduler_without_the_coordinator_says_how_to_start_it(tmp_path):
    with (
        LocalCluster(n_workers=0, dashboard_address=None, processes=False, protocol="tcp") as bare,
        pytest.raises(gv.UnavailableError, match=r"(?s)GV-743.*preload gpuvec.cluster.preload"),
    ):
        gv.connect(tmp_path, cluster=bare)


SCRIPT = """
import gpuvec as gv
from gpuvec.cluster import launch
gv.config.set(cluster__workers=1)
{guard}gv.connect({path!r}, cluster="local").close()
{guard}print("done")
"""


def run(tmp_path, *, guard):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(guard=guard, path=str(tmp_path / "db")))
    return subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )


@pytest.mark.slow
def test_a_script_starts_and_ends_its_own_cluster(tmp_path):
    ended = run(tmp_path, guard='if __name__ == "__main__": ')
    assert ended.stdout == "done\n", ended.stderr
    assert ended.returncode == 0
    assert ended.stderr == ""


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_about_it(tmp_path):
    ended = run(tmp_path, guard="")
    assert "GV-755" in ended.stderr
    assert '__name__ == "__main__"' in ended.stderr
    assert ended.returncode != 0


@pytest.mark.slow
def test_local_is_one_cluster_for_all_databases_of_a_process(tmp_path):
    with gv.config.set(cluster__workers=1):
        one = gv.connect(tmp_path / "one", cluster="local")
        two = gv.connect(tmp_path / "two", cluster="local")
        one.close()
        two.create_collection("items", data=rows(0, 10), primary_key="id")
        assert two["items"].count() == 10
        two.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"processes": False}, {"processes": False, "protocol": "tls", "security": True}],
    ids=["threads", "tls"],
)
def test_other_kinds_of_clusters_serve_too(tmp_path, options):
    options = {"scheduler_kwargs": {"preload": [launch.PRELOAD]}, **options}
    with (
        LocalCluster(2, dashboard_address=None, threads_per_worker=1, **options) as made,
        gv.connect(tmp_path, cluster=made) as db,
    ):
        items = db.create_collection("items", data=rows(0, 100), primary_key="id")
        items.flush()
        items.insert(rows(100, 110))
        assert len(items.search(rows(0, 5), k=3).to_arrow()) == 15
        assert items.count() == 110


@pytest.mark.timeout(120)
def test_a_program_that_closes_nothing_ends_quietly_and_with_it_its_cluster(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        "import sys, gpuvec as gv\n"
        "if __name__ == '__main__':\n"
        "    gv.config.set(cluster__workers=1)\n"
        "    db = gv.connect(sys.argv[1], cluster='local')\n"
        "    rows = {'id': [1], 'v': [[1.0, 2.0]]}\n"
        "    print(db.create_collection('items', data=rows, primary_key='id').count())\n"
    )
    done = subprocess.run(
        [sys.executable, script, tmp_path / "db"], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    with gv.connect(tmp_path / "db") as alone:
        assert alone["items"].insert({"id": [2], "v": [[3.0, 4.0]]}).inserted == 1
