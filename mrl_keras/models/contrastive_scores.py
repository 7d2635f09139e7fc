"""The symmetric contrastive loss where the embeddings are, some rows at a time."""

from keras import ops

from mrl_keras import lazy_tensorflow as tf
from mrl_keras.checks import whole_number
from mrl_keras.layers import MatryoshkaSimilarity
from mrl_keras.layers.matryoshka_pairwise_cosine import nested_cosine, nested_product
from mrl_keras.layers.matryoshka_similarity import nested_similarity
from mrl_keras.layers.prefix_normalization import accumulation_dtype
from mrl_keras.lazy_tensorflow import require_backend
from mrl_keras.losses.symmetric_contrastive import logsumexp_of_replicas, row_and_column_logsumexp
from mrl_keras.models.chunks import Chunks
from mrl_keras.registry import register
from mrl_keras.replicas import first_row, replica_position

LOWEST = -1e9
CHUNK_SIZE = 256


def chunked_logsumexp(similarities, query, document, inverse_temperatures, chunk_size):
    """Row and column logsumexp of every prefix's logits, of which some rows are alive at a time.

    The gradient computes each chunk's logits S once more. Of the column's logsumexp
    c[j] = log sum over chunks of exp(c_chunk[j]) it knows the share exp(c_chunk[j] - c[j]) of a
    chunk, so that it is that of the chunk alone, times this share.

    Args:
        similarities: function (queries, documents, inverse temperatures) -> a list with the logits
            (rows, m) of each prefix.
        query: tensor (n, d).
        document: tensor (m, d).
        inverse_temperatures: tensor (prefixes,).
        chunk_size: int, queries whose logits are alive together.

    Returns:
        Three tensors: logsumexp of the rows (n, prefixes) and of the columns (m, prefixes), and
        which column is the largest of each row, int32 (n, prefixes).
    """
    chunks, count = Chunks(query, chunk_size), inverse_temperatures.shape[0]

    def logits_of(number, queries, document, inverse):
        found = similarities(queries, document, inverse)
        if chunks.all_new:
            return found
        is_new = chunks.is_new(number, rank=2)
        return [tf.where(is_new, one, tf.constant(LOWEST, one.dtype)) for one in found]

    def logsumexp(logits):
        """(rows, prefixes) and (m, prefixes)."""
        sums = tf.stack([row_and_column_logsumexp(one) for one in logits], axis=1)
        return sums[: chunks.size], sums[chunks.size :]

    @tf.custom_gradient
    def summed(query, document, inverse):
        columns = tf.fill((tf.shape(document)[0], count), tf.constant(-float("inf"), query.dtype))

        def step(number, rows, columns, largest):
            logits = logits_of(number, chunks.inputs(number), document, inverse)
            own_rows, own_columns = logsumexp(logits)
            own_largest = [tf.argmax(one, axis=1, output_type=tf.int32) for one in logits]
            return (
                chunks.with_new_part(rows, own_rows, number),
                ops.logaddexp(columns, own_columns),
                chunks.with_new_part(largest, tf.stack(own_largest, axis=1), number),
            )

        shape = (chunks.rows, count)
        rows, columns, largest = chunks.run(
            step, tf.zeros(shape, query.dtype), columns, tf.zeros(shape, tf.int32)
        )

        def gradient(to_rows, to_columns, _):
            def step(number, *sums):
                given = chunks.inputs(number), document, inverse
                given = [tf.identity(one) for one in given]
                with tf.GradientTape() as tape:
                    tape.watch(given)
                    own_rows, own_columns = logsumexp(logits_of(number, *given))
                share = tf.exp(own_columns - columns)
                upstream = chunks.new_part(to_rows, number), to_columns * share
                found = tape.gradient((own_rows, own_columns), given, upstream)
                to_query = chunks.with_new_part(sums[0], found[0], number)
                return to_query, sums[1] + found[1], sums[2] + found[2]

            return chunks.run(step, *map(tf.zeros_like, (query, document, inverse)))

        return (rows, columns, largest), gradient

    return summed(query, document, inverse_temperatures)


@register
class ContrastiveScores(MatryoshkaSimilarity):
    """The symmetric contrastive loss of pairs of embeddings at every trained prefix, for each row.

    output[i, p] = (loss, 1 where the own document is the nearest one): what
    `SymmetricContrastive("gathered")` and `InBatchAccuracy` take from the logits that
    `MatryoshkaSimilarity` gives, without those logits. Batches of n pairs have n * n of them for
    each prefix; here `chunk_size` rows are alive at a time, and the backward pass computes them
    once more. Train it with `MatryoshkaLoss(SymmetricContrastive("scores"))`.

    On several replicas the documents are those of all, which `GatheredBatch` gathers.

    Args:
        nesting_dims: `NestingDims` or list of ints that ends at the width of the inputs.
        chunk_size: int, queries whose logits are alive together. Default 256.
        **kwargs: those of `MatryoshkaSimilarity`: `normalize`, `temperature`,
            `learnable_temperature`, `per_prefix_temperature`, `name`, `dtype`, `trainable`.

    Input shape:
        A list [query, document] of (n, d) and (m, d). On one replica query i belongs to document
        i, and documents beyond n are further negatives; on several m is n times their number.

    Output shape:
        (n, prefixes, 2).

    Raises:
        ValueError: those of `MatryoshkaSimilarity`; a `chunk_size` that is no whole number above
            0, fewer documents than queries, documents of one replica among several, or another
            backend than TensorFlow.

    Example:

    >>> import keras
    >>> from mrl_keras import MatryoshkaLoss, SymmetricContrastive
    >>> from mrl_keras.layers import MatryoshkaSimilarity
    >>> from mrl_keras.models import ContrastiveScores
    >>> pairs = [np.eye(4, dtype="float32"), np.eye(4, dtype="float32")[[0, 1, 3, 2]]]
    >>> scores = ContrastiveScores([2, 4], chunk_size=2)(pairs)
    >>> keras.ops.convert_to_numpy(scores)[:, 1, 1].tolist()  # the last two are swapped
    [1.0, 1.0, 0.0, 0.0]
    >>> whole = MatryoshkaLoss(SymmetricContrastive())(None, MatryoshkaSimilarity([2, 4])(pairs))
    >>> bool(abs(MatryoshkaLoss(SymmetricContrastive("scores"))(None, scores) - whole) < 1e-6)
    True

    Source: arXiv 2205.13147, Section 3 (contrastive learning, as in ALIGN).
    """

    _needs = "a list [query, document] of shapes (n, {width}) and (m, {width}) with m at least n"

    def __init__(self, nesting_dims, chunk_size=CHUNK_SIZE, **kwargs):
        require_backend("ContrastiveScores", "There, take MatryoshkaSimilarity.")
        super().__init__(nesting_dims, **kwargs)
        self.chunk_size = whole_number(chunk_size, "`chunk_size`")

    def call(self, inputs):
        query, document = map(tf.convert_to_tensor, self._widened(inputs))
        _check_gathered(query.shape[0], document.shape[0])
        inverse = self._inverse_temperatures(accumulation_dtype(self.compute_dtype))
        inverse = tf.stack([tf.cast(one, query.dtype) for one in inverse])
        rows, columns, largest = chunked_logsumexp(
            self._similarities, query, document, inverse, self.chunk_size
        )
        count = ops.shape(query)[0]
        first = first_row(count)
        columns = logsumexp_of_replicas(columns)
        own = slice(first, first + count)
        positive = nested_cosine if self.normalize else nested_product
        positive = tf.concat(positive(query, document[own], self.nesting_dims), axis=1) * inverse
        loss = 0.5 * (rows + columns[own]) - positive
        nearest = tf.equal(largest, (first + tf.range(count))[:, None])
        return tf.cast(tf.stack([loss, tf.cast(nearest, loss.dtype)], axis=2), self.compute_dtype)

    def _similarities(self, query, document, inverse):
        inverse = tf.unstack(inverse)
        return nested_similarity(query, document, self.nesting_dims, inverse, self.normalize)

    def _fit_together(self, query, document):
        return None in (query[0], document[0]) or query[0] <= document[0]

    def compute_output_shape(self, input_shape):
        query, _ = self._check_shapes(input_shape)
        return (query[0], len(self.nesting_dims), 2)

    def get_config(self):
        return {**super().get_config(), "chunk_size": self.chunk_size}


def similarity_layer(nesting_dims, chunk_size=None, **kwargs):
    """`MatryoshkaSimilarity`, or with a `chunk_size` `ContrastiveScores`."""
    if chunk_size is None:
        return MatryoshkaSimilarity(nesting_dims, **kwargs)
    return ContrastiveScores(nesting_dims, chunk_size, **kwargs)


def _check_gathered(queries, documents):
    """Refuse a replica's own documents where several replicas share a batch."""
    replicas = replica_position()[1]
    if replicas > 1 and None not in (queries, documents) and documents != replicas * queries:
        raise ValueError(
            f"On {replicas} replicas contrastive scores need the documents of all, {replicas} "
            f"times as many as a replica's queries. Received {queries} queries and {documents} "
            "documents; `GatheredBatch` gathers them."
        )
