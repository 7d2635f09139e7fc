import numpy as np

from mrl_keras import InBatchAccuracy
from tests.support.contracts import check_config_round_trip


def test_contract():
    check_config_round_trip(InBatchAccuracy, {"name": "other", "dtype": "float16"})


def test_hand_worked():
    metric = InBatchAccuracy()
    metric.update_state([0, 0], np.log([[3.0, 1.0], [5.0, 4.0]]))
    assert metric.name == "in_batch_top1"
    assert float(metric.result()) == 0.5


def test_only_the_rows_of_weight_count():
    metric = InBatchAccuracy()
    metric.update_state([0, 0], np.eye(2), sample_weight=[1.0, 0.0])
    metric.update_state([0, 0], 1.0 - np.eye(2), sample_weight=[0.0, 0.0])
    assert float(metric.result()) == 1.0
