"""Damaged and missing files: a clear error or the right answer, never a wrong one."""

import shutil

import numpy as np
import pytest

import gpuvec as gv

WANTED = {*range(2, 30), *range(100, 110), 200}


def rows(ids):
    ids = np.asarray(ids)
    return {
        "id": ids,
        "word": [f"w{n}" for n in ids],
        "v": np.repeat(ids[:, None], 8, axis=1).astype(np.float32),
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("damage") / "db"
    schema = gv.Schema(
        {"id": gv.Int64(), "word": gv.String(), "v": gv.Vector(8, metric="l2")}, "id"
    )
    with gv.connect(path) as db:
        items = db.create_collection("items", schema)
        items.insert(rows(range(30)))
        items.flush()
        items.delete(ids=[0, 1])
        items.flush()
        items.insert(rows(range(100, 110)))
        items.insert(rows([200]))
    return path


def read_all(path):
    with gv.connect(path) as db:
        items = db["items"]
        table = items.select("id", "word", "v").to_arrow()
        ids = table["id"].to_pylist()
        assert table["word"].to_pylist() == [f"w{n}" for n in ids]
        assert table["v"].to_pylist() == [[n] * 8 for n in ids]
        found = items.search(np.full(8, 20.1, np.float32), k=3).to_arrow()["id"].to_pylist()
        assert found == [20, 21, 19]
        return set(ids)


def files_of(path):
    return sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def flip_early(path):
    data = bytearray(path.read_bytes())
    data[min(6, len(data) - 1)] ^= 0x01
    path.write_bytes(data)


def cut(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("harm", [flip, flip_early, cut, lambda path: path.unlink()],
                         ids=["flip", "flip_early", "cut", "remove"])  # fmt: skip
def test_damage_is_never_a_wrong_answer(original, tmp_path, harm):
    assert read_all(original) == WANTED
    loud = []
    for number, name in enumerate(files_of(original)):
        copy = tmp_path / str(number)
        shutil.copytree(original, copy)
        if (copy / name).stat().st_size == 0:
            continue
        harm(copy / name)
        try:
            assert read_all(copy) == WANTED, name
        except (gv.StorageError, gv.UnsupportedError) as error:
            if not error.code.startswith(("GV-5", "GV-6")):
                raise
            loud.append(name.name)
        except BaseException as error:
            error.add_note(f"{harm} {name}")
            raise
    assert any(name.startswith("vec-") for name in loud)
    assert any(name.endswith(".parquet") for name in loud)
    assert any(name.endswith(".log") for name in loud)
