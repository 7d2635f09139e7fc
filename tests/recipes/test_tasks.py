"""The protocol of tasks, and the evaluators that a config lists."""

import sys
import types

import keras
import ml_collections
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from mrl_keras.evaluation import EvaluationPass, NearestNeighboursEvaluator
from mrl_keras.losses import MatryoshkaLoss
from recipes.common import evaluation
from recipes.common.evaluators import EVALUATORS, evaluator_options, make_evaluators
from recipes.common.task import Task, make_task, task_names
from tests.support.recipe_runs import RECIPES

ROWS = np.random.default_rng(0).standard_normal((12, 4)).astype("float32")
LABELS = np.arange(12) % 2


class Small(Task):
    """A task of a user's own, in a module of its own."""

    def train_data(self, *arguments, **options):
        raise NotImplementedError

    def build_model(self):
        inputs = keras.Input((4,))
        return keras.Model(inputs, keras.layers.Dense(4)(inputs))

    def loss(self):
        return MatryoshkaLoss(keras.losses.MeanSquaredError())

    def evaluation_pass(self, model):
        batches = [(ROWS, LABELS)]
        return EvaluationPass.of_embeddings(model.predict_on_batch, batches, [2, 4], train=batches)

    def exported_parts(self, model):
        return {"encoder": model, "nesting_dims": [2, 4]}


@pytest.fixture
def own_module(monkeypatch):
    module = types.ModuleType("somewhere.own_task")
    monkeypatch.setitem(sys.modules, "somewhere", types.ModuleType("somewhere"))
    monkeypatch.setitem(sys.modules, "somewhere.own_task", module)
    return module


def own_config(**changes):
    given = {"task": "somewhere.own_task", "evaluators": {"neighbours": {"ks": [1, 3]}}}
    return ml_collections.ConfigDict({**given, **changes})


def test_a_task_of_ones_own_is_trained_by_name_and_evaluated(own_module, monkeypatch, tmp_path):
    own_module.Task = Small
    task = make_task(own_config(), tmp_path)
    assert (task.validation_data(8), task.metrics(), task.weighted_metrics()) == (None, None, None)
    model = task.build_model()
    values = dict(task.evaluate(model))
    assert values == dict.fromkeys(values, 1.0) | {k: v for k, v in values.items() if "3nn" in k}
    assert list(values) == [f"top1/{k}nn/{dim}" for k in (1, 3) for dim in (2, 4)]
    assert task.collect(model, ["labels"]).names == ("labels",)
    # `recipes/evaluate.py` prints the same values and writes them.
    run = types.SimpleNamespace(
        checkpoints=types.SimpleNamespace(steps=lambda: [7]), path=lambda name: tmp_path / name
    )
    monkeypatch.setattr(evaluation, "load_trained", lambda run: (task, model))
    assert evaluation.evaluate_run(run) == values
    assert (tmp_path / "results.csv").read_text().splitlines()[:2] == [
        "name,value,step", "top1/1nn/2,1.0,7",
    ]  # fmt: skip


def test_a_task_without_evaluators_is_not_evaluated(own_module, monkeypatch, tmp_path):
    own_module.Task = Small
    task = make_task(own_config(evaluators={}))
    monkeypatch.setattr(evaluation, "load_trained", lambda run: (task, None))
    assert evaluation.evaluate_run(None) == {}
    with pytest.raises(ValueError, match="at least one evaluator"):
        list(task.evaluate(task.build_model()))


def test_incomplete_tasks_are_refused(own_module):
    with pytest.raises(
        ValueError, match="own_task.Task must be a subclass of recipes.common.task.Task"
    ):
        make_task(own_config())
    own_module.Task = type("Task", (), {"loss": None})
    with pytest.raises(
        ValueError, match="own_task.Task must be a subclass of recipes.common.task.Task"
    ):
        make_task(own_config())
    own_module.Task = type("Task", (Task,), {"loss": Small.loss, "train_data": Small.train_data})
    with pytest.raises(ValueError, match="lacks build_model, evaluation_pass, exported_parts"):
        make_task(own_config())


def test_names_of_tasks():
    assert task_names() == ["image_classification", "image_text", "masked_lm", "text_embedding"]
    for name in ("image_clasification", "task", None):
        with pytest.raises(ValueError, match="must be one of image_classification, .* Received"):
            make_task(own_config(task=name))
    with pytest.raises(ValueError, match="no module 'nowhere'. Is its folder on PYTHONPATH"):
        make_task(own_config(task="nowhere.at_all"))


@pytest.mark.parametrize("name", EVALUATORS)
def test_every_evaluator_is_made_of_its_default_options(name):
    options = evaluator_options(name)
    if name == "superclass":
        options.superclass.superclasses = ("pet", None)
    (made,) = make_evaluators(options)
    assert type(made) is EVALUATORS[name]
    assert made.needs
    assert made.primary_metric.count("/") == 2
    (again,) = make_evaluators(options.to_dict())
    assert again == made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbors": {}}, "no evaluator named 'neighbors'. There are cascade, cosine_span, "),
        ({"neighbours": {"k": 1}}, r"`config.evaluators.neighbours` takes ks, tops. Received k\."),
        ({"neighbours": {"ks": [0]}}, "`config.evaluators.neighbours`: Each of `ks` must be at le"),
        ({"zero_shot": {"k": 1}}, "`config.evaluators.zero_shot` takes no options. Received k"),
    ],
)
def test_wrong_evaluators_are_one_clear_line_before_training(options, message, own_module):
    own_module.Task = Small
    with pytest.raises(ValueError, match=message) as raised:
        make_task(own_config(evaluators=options))
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_options_of_evaluators_are_given_on_the_command_line(monkeypatch):
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    path = f"--config={RECIPES}/configs/cifar10_resnet.py:tiny"
    arguments = ["train.py", path, "--config.evaluators.neighbours.ks=(1, 5)"]
    monkeypatch.setattr(sys, "argv", arguments)  # where ml_collections looks for names
    values(arguments)
    head, neighbours = make_evaluators(values.config.evaluators)
    assert neighbours == NearestNeighboursEvaluator(ks=(1, 5))
    assert head.tops == (1,)
