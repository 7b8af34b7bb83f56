import json

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.errors import QueryError
from gpuvec.index import registry
from gpuvec.index.spec import SPECS, IndexSpec, check_params, spec_from_json
from gpuvec.rows import DenseVectors


@pytest.mark.parametrize("spec", [kind() for kind in SPECS.values()])
def test_specs_survive_json(spec):
    assert spec_from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_an_unknown_index_type_names_the_nearest():
    with pytest.raises(QueryError, match='Did you mean "flat"') as error:
        spec_from_json({"kind": "flatt"})
    assert error.value.code == "GV-315"


def test_an_unknown_index_names_those_that_are_there():
    with pytest.raises(AttributeError, match="no Vamana; it has CAGRA, HNSW, IVFPQ"):
        _ = gv.index.Vamana
    assert not hasattr(gv.index, "ScaNN")


def test_an_unknown_parameter_is_refused():
    with pytest.raises(QueryError, match='no parameter "nlist"'):
        spec_from_json({"kind": "flat", "nlist": 4})


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "8", 1 << 40])
def test_a_parameter_out_of_range_is_refused(value):
    with pytest.raises(QueryError, match="n_lists must be a whole number") as error:
        gv.index.IVFFlat(n_lists=value)
    assert error.value.code == "GV-317"


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: gv.index.IVFPQ(pq_bits=5), "pq_bits must be 4 or 8"),
        (lambda: gv.index.IVFPQ(pq_dim=0), "pq_dim must be a whole number"),
        (lambda: gv.index.IVFRaBitQ(bits=9), "bits must be a whole number"),
        (lambda: gv.index.CAGRA(graph_degree=33), "graph_degree must be an even number"),
    ],
)
def test_parameters_of_codes_and_graphs_have_limits(make, wanted):
    with pytest.raises(QueryError, match=wanted) as error:
        make()
    assert error.value.code == "GV-317"


@pytest.mark.parametrize("params", [{"nprobe": 3}, {"ef_search": 0}, {"ef_search": "many"}])
def test_unknown_knobs_and_values_are_refused(params):
    with pytest.raises(QueryError, match="HNSW") as error:
        check_params(gv.index.HNSW(), params)
    assert error.value.code == "GV-318"


def test_every_index_that_is_built_has_an_adapter():
    built = {kind for kind, spec in SPECS.items() if not spec.SCALAR and kind != "flat"}
    assert set(registry.ADAPTERS) == built


def test_the_exact_index_knows_nulls():
    rows = np.eye(4, dtype=np.float32)
    valid = np.array([True, True, False, True])
    index = registry.exact(DenseVectors(rows, valid), "l2")
    assert index.exact
    assert index.search(rows[2:3], 4).rows.tolist() == [[0, 1, 3, -1]]


def test_a_spec_without_an_adapter_is_refused():
    class Other(IndexSpec):
        KIND = "other"

    with pytest.raises(QueryError, match="other"):
        registry.build(Other(), DenseVectors(np.eye(2, dtype=np.float32)), "l2")
