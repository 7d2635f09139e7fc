"""Evaluation at every prefix: one pass over a model's data, then evaluators that read its arrays.

An `EvaluationPass` says how named arrays are computed, an `Evaluator` which of them it `needs`,
and `evaluate(source, evaluators)` yields (name, value) pairs. A name has three parts,
GROUP/NAME/DIM, where DIM is the prefix, or "all" where a value belongs to no single prefix:

    top1/linear/8  top5/linear/8            LinearHeadEvaluator
    top1/1nn/8  top5/5nn/8                  NearestNeighboursEvaluator
    top1/probe/8                            LinearProbeEvaluator
    5shot/mean/8  5shot/half_width/8        FewShotEvaluator
    long_tail/overall/8  .../novel_tail/8   LongTailEvaluator
    retrieval/mAP@10/8  .../P@10  .../top10  .../MFLOPs     RetrievalEvaluator
    retrieval/nDCG@10/8  .../recall@100  .../mAP@10         JudgedRetrievalEvaluator
    cosine/positive/8  .../random  .../span CosineSpanEvaluator
    oracle/accuracy/8  first_right/share/8  first_right/never/all  classes/improving/all
                                            DisagreementEvaluator
    superclass/all/8  superclass/NAME/8     SuperclassEvaluator
    cascade-greedy/accuracy/8  cascade-joint/expected_dim/8  .../accuracy_std     CascadeEvaluator
    spearman/cosine/8                       PairSimilarityEvaluator
    recall@10/text_to_image/8  .../image_to_text/8          ImageTextRecallEvaluator
    top1/zero_shot/8                        ZeroShotEvaluator
    top1/mlm/8  crossentropy/mlm/8  top1/majority/all  crossentropy/unigram/all
                                            MaskedTokensEvaluator

The arrays that these evaluators know, by name:

    embeddings, train_embeddings   (examples, d), or (examples, prefixes, d) where each prefix has
                                   an embedding of its own
    labels, train_labels           ints (examples,)
    logits                         (examples, prefixes, classes), prefixes as trained
    interpolated_logits            (examples, interpolated prefixes, classes)
    first, second, scores          (pairs, d), (pairs, d), (pairs,)
    queries, documents, judgements (queries, d), (documents, d), numbers (judgements, 3): row of
                                   the query, row of the document, degree of relevance
    images, texts, text_images     (images, d), (texts, d), ints (texts,): each text's image
    zero_shot_images, zero_shot_labels, prompt_embeddings
                                   (examples, d), ints (examples,), (classes, templates, d)
    token_scores, token_labels     (masked tokens, all prefixes, 2): crossentropy and whether the
                                   label is the first; ints (masked tokens,)
    piece_counts                   (pieces,), how often the training text has each piece, -1 for
                                   special pieces

Below the evaluators are functions over arrays. They take embeddings and logits of any model.
"""

from mrl_keras.evaluation.analysis.cosine_spans import CosineSpan, cosine_spans
from mrl_keras.evaluation.analysis.disagreement import (
    class_accuracy,
    class_trends,
    first_correct_dim,
    oracle_accuracy,
    relative_class_accuracy,
)
from mrl_keras.evaluation.analysis.grad_cam import grad_cam, overlay
from mrl_keras.evaluation.classification.few_shot import (
    FewShotAccuracy,
    ShotDraws,
    few_shot_accuracy,
)
from mrl_keras.evaluation.classification.linear import head_accuracy, linear_probe_accuracy
from mrl_keras.evaluation.classification.long_tail import (
    LongTailAccuracy,
    long_tail_accuracy,
    long_tailed_rows,
)
from mrl_keras.evaluation.classification.neighbours import knn_accuracy
from mrl_keras.evaluation.classification.robustness import (
    RobustnessRow,
    class_mapping,
    mapped_labels,
    robustness_accuracy,
)
from mrl_keras.evaluation.classification.superclass import (
    hypernyms_at,
    read_hierarchy,
    superclass_accuracy,
    superclasses_of,
)
from mrl_keras.evaluation.classification.zero_shot import TEMPLATES, prompts, zero_shot_accuracy
from mrl_keras.evaluation.evaluators import (
    CascadeEvaluator,
    CosineSpanEvaluator,
    DisagreementEvaluator,
    FewShotEvaluator,
    ImageTextRecallEvaluator,
    JudgedRetrievalEvaluator,
    LinearHeadEvaluator,
    LinearProbeEvaluator,
    LongTailEvaluator,
    MaskedTokensEvaluator,
    NearestNeighboursEvaluator,
    PairSimilarityEvaluator,
    RetrievalEvaluator,
    SuperclassEvaluator,
    ZeroShotEvaluator,
)
from mrl_keras.evaluation.plots import AccuracyTable, PanelStyle, line_panels
from mrl_keras.evaluation.retrieval.cost import RetrievalCost, retrieval_cost
from mrl_keras.evaluation.retrieval.graded import ndcg, pair_recall
from mrl_keras.evaluation.retrieval.tables import (
    adaptive_grid,
    exact_retrieval_table,
    plan_retrieval_table,
    shortlist_lengths,
)
from mrl_keras.evaluation.run import (
    EvaluationPass,
    Evaluator,
    ExampleEvaluator,
    Outputs,
    collect,
    evaluate,
    needed_names,
)
from mrl_keras.evaluation.text.similarity import spearman

__all__ = [
    "AccuracyTable",
    "CascadeEvaluator",
    "CosineSpan",
    "CosineSpanEvaluator",
    "DisagreementEvaluator",
    "EvaluationPass",
    "Evaluator",
    "ExampleEvaluator",
    "FewShotAccuracy",
    "FewShotEvaluator",
    "ImageTextRecallEvaluator",
    "JudgedRetrievalEvaluator",
    "LinearHeadEvaluator",
    "LinearProbeEvaluator",
    "LongTailAccuracy",
    "LongTailEvaluator",
    "MaskedTokensEvaluator",
    "NearestNeighboursEvaluator",
    "Outputs",
    "PairSimilarityEvaluator",
    "PanelStyle",
    "RetrievalCost",
    "RetrievalEvaluator",
    "RobustnessRow",
    "ShotDraws",
    "SuperclassEvaluator",
    "TEMPLATES",
    "ZeroShotEvaluator",
    "adaptive_grid",
    "class_accuracy",
    "class_mapping",
    "class_trends",
    "collect",
    "cosine_spans",
    "evaluate",
    "exact_retrieval_table",
    "few_shot_accuracy",
    "first_correct_dim",
    "grad_cam",
    "head_accuracy",
    "hypernyms_at",
    "knn_accuracy",
    "line_panels",
    "linear_probe_accuracy",
    "long_tail_accuracy",
    "long_tailed_rows",
    "mapped_labels",
    "ndcg",
    "needed_names",
    "oracle_accuracy",
    "overlay",
    "pair_recall",
    "plan_retrieval_table",
    "prompts",
    "read_hierarchy",
    "relative_class_accuracy",
    "retrieval_cost",
    "robustness_accuracy",
    "shortlist_lengths",
    "spearman",
    "superclass_accuracy",
    "superclasses_of",
    "zero_shot_accuracy",
]
