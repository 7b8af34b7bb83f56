import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuvec.index.curve import CurvePoint, RecallCurve
from gpuvec.index.spec import HNSW
from gpuvec.query.strategy import Ask, IndexInfo, choose_way

ROWS = 100_000


def point(ef, recall, low, *, k=10, share=1.0, case="all", batch_us=10.0, single_us=100.0):
    return CurvePoint(
        params=None if ef is None else {"ef_search": ef},
        k=k,
        selectivity=share,
        case=case,
        recall=recall,
        low=low,
        high=1.0,
        queries=1000,
        batch_s=batch_us * 1e-6,
        single_s=single_us * 1e-6,
    )


def cells(k=10):
    """Return an index that is fast where all rows pass, weak where rows near one another do."""
    yield point(None, 1, 1, k=k, batch_us=50, single_us=5000)
    yield point(16, 0.92, 0.91, k=k, batch_us=5, single_us=100)
    yield point(64, 0.97, 0.96, k=k, batch_us=20, single_us=300)
    yield point(256, 0.995, 0.992, k=k, batch_us=80, single_us=900)
    for case, loss in (("random", 0.0), ("clustered", 0.05)):
        yield point(None, 1, 1, k=k, share=0.1, case=case, batch_us=10, single_us=500)
        yield point(16, 0.9 - loss, 0.88 - loss, k=k, share=0.1, case=case, batch_us=6)
        yield point(64, 0.97 - loss, 0.96 - loss, k=k, share=0.1, case=case, batch_us=25)


@pytest.fixture
def info():
    curve = RecallCurve(source="held-out rows", points=(*cells(10), *cells(100)))
    return IndexInfo(spec=HNSW(), target=0.95, curve=curve)


def ask(**changes):
    return Ask(**{"rows": ROWS, "passing": ROWS, "queries": 1000, "k": 10, **changes})


def test_the_cheapest_setting_whose_lower_end_reaches_the_target_is_taken(info):
    way = choose_way(ask(target=0.96), info)
    assert (way.kind, way.params, way.recall, way.low) == ("index", {"ef_search": 64}, 0.97, 0.96)
    assert way.seconds == pytest.approx(0.02)
    assert way.reason == "curve: recall 0.970 [0.960]"


def test_a_setting_between_two_is_taken_where_a_line_between_their_lower_ends_reaches_the_target(
    info,
):
    way = choose_way(ask(target=0.94), info)
    assert way.params == {"ef_search": 46}
    assert way.low == pytest.approx(0.91 + 0.05 * 30 / 48)
    assert 0.005 < way.seconds < 0.02


def test_a_search_that_names_no_target_wants_what_the_index_was_made_for(info):
    assert choose_way(ask(), info).params == choose_way(ask(target=0.95), info).params


def test_a_target_between_mean_and_lower_end_takes_the_next_setting(info):
    assert choose_way(ask(target=0.915), info).params == {"ef_search": 22}


def test_what_no_setting_reaches_is_scanned(info):
    way = choose_way(ask(target=0.999), info)
    assert (way.kind, way.params, way.recall) == ("exact", None, 1.0)
    assert "no setting reaches 0.999" in way.reason
    assert way.seconds == pytest.approx(0.05)


def test_a_scan_that_is_faster_is_taken_and_depends_on_how_many_ask(info):
    many, one = (choose_way(ask(target=0.99, queries=n), info) for n in (1000, 1))
    assert many.kind == "exact"
    assert "faster" in many.reason
    assert one.params == {"ef_search": 256}


def test_filters_are_held_to_the_case_that_follows_the_queries(info):
    way = choose_way(ask(target=0.95, passing=ROWS // 10), info)
    assert way.kind == "exact"
    assert "at selectivity 0.1" in way.reason
    assert choose_way(ask(target=0.9, passing=ROWS // 10, queries=1), info).params == {
        "ef_search": 64
    }


def test_a_selectivity_between_two_is_held_to_both(info):
    assert choose_way(ask(target=0.9, passing=ROWS // 2, queries=1), info).low == pytest.approx(
        0.91
    )
    assert choose_way(ask(target=0.95, passing=ROWS // 2, queries=1), info).kind == "exact"


def test_fewer_rows_than_were_measured_are_scanned(info):
    way = choose_way(ask(target=0.5, passing=900), info)
    assert (way.kind, way.reason) == (
        "exact",
        "only 900 rows pass, fewer than were measured: exact scan",
    )


def test_a_larger_k_than_was_measured_is_scanned(info):
    assert choose_way(ask(k=200), info).kind == "exact"


def test_the_index_is_asked_for_as_many_neighbours_as_were_measured(info):
    assert choose_way(ask(k=3), info).k == 10
    assert choose_way(ask(k=11), info).k == 11
    assert choose_way(ask(k=12), info).k == 100
    assert choose_way(ask(k=12, target=1.0), info).k == 12


def test_params_are_taken_whatever_was_measured(info):
    known = choose_way(ask(params={"ef_search": 16}), info)
    assert (known.kind, known.recall, known.k) == ("index", 0.92, 10)
    unknown = choose_way(ask(params={"ef_search": 17}, passing=5), info)
    assert (unknown.kind, unknown.params, unknown.recall) == ("index", {"ef_search": 17}, None)


@pytest.mark.parametrize("changes", [{"exact": True}, {"target": 1.0}])
def test_the_true_answer_is_scanned_for(info, changes):
    assert choose_way(ask(**changes), info).kind == "exact"


def test_without_index_or_curve_rows_are_scanned(info):
    assert choose_way(ask(target=0.5), None).reason == "no index on these rows"
    bare = IndexInfo(spec=HNSW(), target=0.95, curve=None)
    empty = IndexInfo(spec=HNSW(), target=0.95, curve=RecallCurve(source="", points=()))
    assert choose_way(ask(), bare).kind == choose_way(ask(), empty).kind == "exact"


def test_settings_that_failed_are_left_out(info):
    def failed(setting, cell):
        return "it failed" if setting.point.params["ef_search"] < 256 else None

    way = choose_way(ask(target=0.95, queries=1), info, failed)
    assert way.params == {"ef_search": 256}
    assert way.reason.endswith("; with less effort it failed")


SHARES = (1.0, 0.5, 0.1, 0.01)


@st.composite
def curves(draw):
    """Draw a curve with holes: settings left out of cells, cells left out, times in any order."""
    points = []
    for k in draw(st.sets(st.sampled_from((10, 100)), min_size=1)):
        for share in draw(st.sets(st.sampled_from(SHARES), min_size=1)):
            for case in ("all",) if share == 1.0 else ("random", "clustered"):
                for ef in (None, *draw(st.sets(st.sampled_from((16, 64, 256))))):
                    low = 1.0 if ef is None else draw(st.sampled_from((0.7, 0.9, 0.95, 0.99)))
                    taken = draw(st.sampled_from((1.0, 10.0, 100.0)))
                    points.append(
                        point(ef, low, low, k=k, share=share, case=case,
                              batch_us=taken, single_us=10 * taken)
                    )  # fmt: skip
    return RecallCurve(source="", points=tuple(points))


@given(
    curve=curves(),
    k=st.sampled_from((1, 10, 11, 12, 100, 500)),
    share=st.sampled_from((1.0, 0.7, 0.5, 0.2, 0.1, 0.05, 0.01, 0.002)),
    target=st.sampled_from((0.8, 0.9, 0.95, 0.99)),
    queries=st.sampled_from((1, 20, 1000)),
)
def test_a_setting_is_only_taken_where_everything_measured_near_the_search_allows_it(
    curve, k, share, target, queries
):
    info = IndexInfo(spec=HNSW(), target=None, curve=curve)
    passing = round(share * ROWS)
    way = choose_way(ask(k=k, passing=passing, target=target, queries=queries), info)
    assert way.k >= k
    if way.kind == "exact":
        return
    known = min(known for known in curve.ks if 1.1 * known >= k)
    here = [p for p in curve.points if p.k == known]
    below = max(p.selectivity for p in here if p.selectivity <= share)
    above = min((p.selectivity for p in here if p.selectivity >= share), default=below)
    for edge in (below, above):
        cases = [p for p in here if p.selectivity == edge]
        ends = [[p for p in cases if p.params == end.params] for end in way.setting.ends]
        assert all({p.case for p in end} == {p.case for p in cases} for end in ends)
        by_case = zip(*(sorted(end, key=lambda p: p.case) for end in ends), strict=True)
        for lows in ([p.low for p in case] for case in by_case):
            assert lows[0] + way.setting.weight * (lows[-1] - lows[0]) >= target - 1e-9
    assert way.low >= target
    assert way.seconds is not None
