import numpy as np

from mrl_keras import GatheredBatch
from tests.support.contracts import as_numpy, check_config_round_trip

ROWS = np.arange(6, dtype="float32").reshape(2, 3)


def test_one_replica_has_all_rows():
    layer = check_config_round_trip(GatheredBatch, {"name": "here"})
    np.testing.assert_array_equal(as_numpy(layer(ROWS)), ROWS)


def test_the_number_of_rows_is_not_known_before_they_are_gathered():
    layer = GatheredBatch()
    assert layer.compute_output_shape((2, 3)) == (None, 3)
