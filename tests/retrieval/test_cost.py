"""What searches cost and indexes weigh.

Tables 11 and 12 here have the MFLOPs that the authors released with their code (RAIVNLab/MRL,
Visualization/Adaptive Retrieval, sheets 6 and 8), two decimals; tests/test_paper_tables.py has all
tables as printed.
"""

import numpy as np
import pytest

from mrl_keras.retrieval import IndexOptions, NestedIndex, ScannParameters, SearchPlan
from mrl_keras.retrieval.cost import index_bytes, mflops_per_query

IMAGENET_1K, IMAGENET_4K = 1_281_167, 4_202_000
DIMS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)

# Rows: D_s; columns: D_r from D_s to 2048. The released sheets rerank at D_r = D_s as well.
TABLE_11 = {
    8: (10.25, 10.25, 10.26, 10.26, 10.27, 10.30, 10.35, 10.45, 10.66),
    16: (20.50, 20.51, 20.51, 20.52, 20.55, 20.60, 20.70, 20.91),
    32: (41.00, 41.01, 41.02, 41.05, 41.10, 41.20, 41.41),
    64: (82.01, 82.02, 82.05, 82.10, 82.20, 82.40),
    128: (164.01, 164.04, 164.09, 164.19, 164.40),
    256: (328.03, 328.08, 328.18, 328.39),
    512: (656.06, 656.16, 656.37),
    1024: (1312.12, 1312.32),
    2048: (2624.24,),
}
TABLE_12 = {
    8: (33.62, 33.62, 33.62, 33.63, 33.64, 33.67, 33.72, 33.82, 34.03),
    16: (67.24, 67.24, 67.24, 67.26, 67.28, 67.33, 67.44, 67.64),
    32: (134.47, 134.48, 134.49, 134.52, 134.57, 134.67, 134.87),
    64: (268.94, 268.95, 268.98, 269.03, 269.13, 269.34),
    128: (537.88, 537.91, 537.96, 538.06, 538.27),
    256: (1075.76, 1075.81, 1075.92, 1076.12),
    512: (2151.53, 2151.63, 2151.83),
    1024: (4303.05, 4303.26),
    2048: (8606.11,),
}
CASES = [
    pytest.param(n_rows, d_s, d_r, printed, id=f"table{number}-{d_s}-{d_r}")
    for number, n_rows, table in ((11, IMAGENET_1K, TABLE_11), (12, IMAGENET_4K, TABLE_12))
    for d_s, row in table.items()
    for d_r, printed in zip(DIMS[DIMS.index(d_s) :], row, strict=True)
]


@pytest.mark.parametrize(("n_rows", "d_s", "d_r", "printed"), CASES)
def test_adaptive_retrieval(n_rows, d_s, d_r, printed):
    if d_r > d_s:
        cost = mflops_per_query(n_rows, SearchPlan((d_s, d_r), (200,)))
    else:
        # A plan has no rerank at its own dims: the sheet's 200 rows of D_s are added by hand.
        cost = mflops_per_query(n_rows, SearchPlan((d_s,))) + 200 * d_r / 1e6
    assert round(cost, 2) == printed


def test_128_times_less_than_full_width():
    funnel = mflops_per_query(IMAGENET_1K, SearchPlan.funnel((16, 32, 64, 128, 256, 2048)))
    full = mflops_per_query(IMAGENET_1K, SearchPlan((2048,)))
    assert round(full / funnel) == 128


def test_incremental_counts_new_dims_after_the_first_rerank():
    plan = SearchPlan((2, 4, 8), (6, 3), k=1)
    # 10 rows of 2 dims; 6 rows of 4; 3 rows of the 4 dims after 4.
    assert mflops_per_query(10, plan, incremental=True) == (10 * 2 + 6 * 4 + 3 * 4) / 1e6
    assert mflops_per_query(10, plan) == (10 * 2 + 6 * 4 + 3 * 8) / 1e6


def test_leaves_count_centres_and_the_opened_share():
    plan = SearchPlan((16, 2048), (200,), leaves=5)
    cost = mflops_per_query(10_000, plan, num_leaves=100)
    assert cost == ((100 + 10_000 * 5 / 100) * 16 + 200 * 2048) / 1e6
    assert mflops_per_query(10_000, plan) == (10_000 * 16 + 200 * 2048) / 1e6


def test_flat_and_hnsw_bytes_are_faiss_own(tmp_path):
    faiss = pytest.importorskip("faiss")
    rows = np.random.default_rng(0).standard_normal((4000, 24)).astype(np.float32)
    flat, hnsw = faiss.IndexFlatL2(24), faiss.IndexHNSWFlat(24, 32)
    hnsw.hnsw.efConstruction = 8
    for index, kind in ((flat, "exact"), (hnsw, "hnsw32")):
        index.add(rows)
        faiss.write_index(index, str(tmp_path / kind))
        written = (tmp_path / kind).stat().st_size
        assert written == pytest.approx(index_bytes(4000, 24, kind), rel=0.003)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_nested_bytes_are_what_is_on_disk(tmp_path, storage):
    rows = np.random.default_rng(0).standard_normal((3000, 64)).astype(np.float32)
    options = IndexOptions(storage=storage, shortlist_dim=16, scann=ScannParameters(20, 5))
    index = NestedIndex.build(rows, [8, 16, 64], options=options)
    index.save(tmp_path / "index")
    written = sum(file.stat().st_size for file in (tmp_path / "index").iterdir())
    formula = index_bytes(3000, (8, 16, 64), storage=storage, shortlist_blocks=16)
    each = {"float32": 4 * 64, "bfloat16": 2 * 64, "int8": 64 + 4 * 3}[storage]
    assert formula == 3000 * (each + 4 * 3 + 8 + 16 + 4)
    # The rest is file headers, the manifest, the tree's centres and the code book.
    assert formula < written < formula + 20_000


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: mflops_per_query(0, SearchPlan((8,))), "`n_rows` must be at least 1"),
        (
            lambda: mflops_per_query(9, SearchPlan((8, 16), (10,), leaves=5), num_leaves=4),
            "`num_leaves` must be at least the plan's leaves=5. Received 4",
        ),
        (lambda: index_bytes(9, 8, "ivf"), "`kind` must be one of .* Received 'ivf'"),
        (lambda: index_bytes(9, 8, storage="int4"), "`storage` must be one of .* Received 'int4'"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call()
