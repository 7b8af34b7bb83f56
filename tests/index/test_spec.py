import json

import numpy as np
import pytest

from gpuvec.errors import QueryError
from gpuvec.index.registry import BUILDERS, build
from gpuvec.index.spec import SPECS, Flat, IndexSpec, spec_from_json
from gpuvec.rows import DenseVectors


@pytest.mark.parametrize("spec", [kind() for kind in SPECS.values()])
def test_specs_survive_json(spec):
    assert spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_an_unknown_index_type_names_the_nearest():
    with pytest.raises(QueryError, match='Did you mean "flat"') as error:
        spec_from_json({"kind": "flatt"})
    assert error.value.code == "GV-315"


def test_an_unknown_parameter_is_refused():
    with pytest.raises(QueryError, match='no parameter "nlist"'):
        spec_from_json({"kind": "flat", "nlist": 4})


def test_every_spec_has_a_builder():
    assert set(BUILDERS) == set(SPECS)


def test_the_registry_builds_from_a_column():
    rows = np.eye(4, dtype=np.float32)
    valid = np.array([True, True, False, True])
    index = build(Flat(), DenseVectors(rows, valid), "l2")
    assert index.exact
    assert index.search(rows[2:3], 4).rows.tolist() == [[0, 1, 3, -1]]


def test_a_spec_without_a_builder_is_refused():
    class Other(IndexSpec):
        KIND = "other"

    with pytest.raises(QueryError, match="other"):
        build(Other(), DenseVectors(np.eye(2, dtype=np.float32)), "l2")
