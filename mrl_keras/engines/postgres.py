"""PostgreSQL with pgvector: one stored vector, indexes on prefixes, reranks by nested queries."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mrl_keras.checks import differences, whole_number
from mrl_keras.engines.engine import Engine, check_plain_filter, chosen_shortlist_dims
from mrl_keras.retrieval.plan import SearchPlan

_OPERATORS = {"cosine": ("<=>", "vector_cosine_ops"), "dot": ("<#>", "vector_ip_ops")}
_ID_TYPES = {"string": "text", "int64": "bigint"}
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,50}(\.[a-z_][a-z0-9_]{0,50})?")
_HNSW_DIMS = 2000  # a pgvector HNSW index takes no wider vectors
_EF_SEARCH = 1000  # the most that hnsw.ef_search can be
_FORMAT = 1


@dataclass(frozen=True)
class PgvectorOptions:
    """How a table's prefixes are indexed.

    Args:
        shortlist_dims: ints, the prefixes with an HNSW index. Defaults to `None`, the smallest.
        m: int, edges of a node of the graph. Defaults to 16.
        ef_construction: int, candidates while the graph is built. Defaults to 64.
        max_scan_tuples: int, rows that one filtered or long search visits at most. Defaults to
            20,000.
        connect_timeout: int, seconds. Defaults to 10.

    Raises:
        ValueError: a number below 1.
    """

    shortlist_dims: Sequence[int] | None = None
    m: int = 16
    ef_construction: int = 64
    max_scan_tuples: int = 20_000
    connect_timeout: int = 10

    def __post_init__(self):
        for name in ("m", "ef_construction", "max_scan_tuples", "connect_timeout"):
            object.__setattr__(self, name, whole_number(getattr(self, name), f"`{name}`"))


class PgvectorEngine(Engine):
    """A PostgreSQL table (id, embedding, payload) whose prefixes are searched by pgvector.

    The embedding is stored once. The index is on an expression, the prefix
    `subvector(embedding, 1, m)::vector(m)`, by an operator class that normalises it; a plan becomes
    nested queries, each ordering the rows of the one inside by more dims. Rows of the outer queries
    are read whole from the table, since PostgreSQL stores a vector in one piece.

    Shortlists above 1,000 rows, and filtered ones, go on through the index by pgvector's iterative
    scans until they have enough rows, or `max_scan_tuples` were visited. Needs pgvector 0.8.

    Args:
        conninfo: str, as psycopg takes it: "postgresql://user@host/database".
        table: str, its name in lower case, perhaps with a schema: "docs", "search.docs".
        dims, metric, id_dtype: as for `Engine`.
        options: `PgvectorOptions`. Defaults to `None`, its defaults.

    `filters` of a query are a plain dict, compared with the payload's fields; or a pair of an SQL
    condition and its values, `("payload->>'lang' = %s", ["en"])`, which must be trusted.

    Raises:
        ValueError: as `Engine`; a name that is no plain SQL name; `shortlist_dims` that are not
            among `dims`, or above 2,000.
        ImportError: psycopg or pgvector is not installed.

    Example:

    >>> engine = PgvectorEngine("postgresql:///db", "docs", [8, 64])        # doctest: +SKIP
    >>> engine.create()                                                     # doctest: +SKIP
    >>> engine.upload(rows, ids)                                            # doctest: +SKIP
    >>> engine.finish()  # builds the index                                 # doctest: +SKIP
    >>> engine.query(rows[:1], plan).ids                                    # doctest: +SKIP

    Source: arXiv 2205.13147, Section 4.3.1; expression indexes on `subvector` are pgvector's.
    """

    def __init__(
        self,
        conninfo: str,
        table: str,
        dims: Sequence[int],
        *,
        metric: str = "cosine",
        id_dtype: str = "string",
        options: PgvectorOptions | None = None,
    ):
        super().__init__(dims, metric, id_dtype)
        self.conninfo = conninfo
        self.table = table
        self.options = options or PgvectorOptions()
        if not isinstance(table, str) or not _NAME.fullmatch(table):
            raise ValueError(
                "`table` must be a plain SQL name in lower case, perhaps after a schema and a dot. "
                f"Received {table!r}."
            )
        self.shortlist_dims = chosen_shortlist_dims(self.options.shortlist_dims, self.dims)
        if self.shortlist_dims[-1] > _HNSW_DIMS:
            raise ValueError(
                f"`shortlist_dims` must be at most {_HNSW_DIMS}, the widest that pgvector indexes. "
                f"Received {self.shortlist_dims[-1]}."
            )
        self._psycopg, self._register = _psycopg()
        self._open = None

    def close(self) -> None:
        """Closes the connection; the next call opens another one."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def create(self) -> None:
        """Makes the extension and the empty table; one with the same settings is kept as it is.

        Raises:
            ValueError: a table of this name that is another's or has other settings; no pgvector.
            ConnectionError: the server can't be reached.
        """
        settings = self._settings()
        with self._transaction() as run:
            if run("SELECT to_regclass(%s)", [self.table]).fetchone()[0] is None:
                comment = self._psycopg.sql.Literal(json.dumps(settings, sort_keys=True))
                run(
                    f"CREATE TABLE {self.table} (id {_ID_TYPES[self.id_dtype]} PRIMARY KEY, "
                    f"embedding vector({self.width}) NOT NULL, "
                    "payload jsonb NOT NULL DEFAULT '{}')"
                )
                run(
                    self._psycopg.sql.SQL("COMMENT ON TABLE {} IS {}").format(
                        self._psycopg.sql.SQL(self.table), comment
                    )
                )
                return
            text = run("SELECT obj_description(to_regclass(%s), 'pg_class')", [self.table])
            text = text.fetchone()[0]
        try:
            there = json.loads(text or "")
        except ValueError:
            there = None
        if not isinstance(there, dict):
            raise ValueError(
                f"The table {self.table} exists and is not one that `create` made. Choose another "
                "name."
            )
        found = differences(there, settings)
        if found:
            listed = "; ".join(f"{name} is {old!r}, wanted {new!r}" for name, old, new in found)
            raise ValueError(
                f"The table {self.table} exists with other settings: {listed}. Choose another "
                "name, or drop it first."
            )

    def finish(self) -> None:
        """Builds the indexes that are missing, and the planner's statistics."""
        operators = _OPERATORS[self.metric][1]
        with self._transaction() as run:
            for dim in self.shortlist_dims:
                name = f"{self.table.rpartition('.')[2]}_d{dim}"
                run(
                    f"CREATE INDEX IF NOT EXISTS {name} ON {self.table} USING hnsw "
                    f"(({_prefix(dim)}) {operators}) WITH (m = {self.options.m}, "
                    f"ef_construction = {self.options.ef_construction})"
                )
            run(f"ANALYZE {self.table}")

    def delete(self, ids: Sequence) -> int:
        """Deletes rows; returns how many of `ids` were there."""
        names = self._check_ids(ids, len(ids)).tolist()
        with self._transaction() as run:
            return run(f"DELETE FROM {self.table} WHERE {self._is_any()}", [names]).rowcount

    def __len__(self) -> int:
        with self._transaction() as run:
            return run(f"SELECT count(*) FROM {self.table}").fetchone()[0]

    def explain(self, embedding: np.ndarray, plan: SearchPlan, filters=None) -> str:
        """PostgreSQL's plan of one query, which shows whether an index is used.

        Args:
            embedding: float (width,).
            plan, filters: as for `query`.
        """
        plan.check_dims(self.dims)
        text, values = self.statement(np.asarray(embedding, np.float32), plan, filters)
        with self._transaction() as run:
            self._prepare(run, plan, filters, exact=False)
            return "\n".join(row[0] for row in run("EXPLAIN " + text, values).fetchall())

    def _there(self, ids):
        with self._transaction() as run:
            rows = run(f"SELECT id FROM {self.table} WHERE {self._is_any()}", [ids]).fetchall()
        return {name for (name,) in rows}

    def _write(self, rows, ids, payload):
        kinds = [_ID_TYPES[self.id_dtype], "vector", "jsonb"]
        wrap = self._psycopg.types.json.Jsonb
        with self._transaction() as run:
            run(f"CREATE TEMP TABLE incoming (LIKE {self.table}) ON COMMIT DROP")
            copying = "COPY incoming FROM STDIN (FORMAT BINARY)"
            with self._open.cursor() as cursor, cursor.copy(copying) as copy:
                copy.set_types(kinds)
                for name, row, of in zip(ids, rows, payload, strict=True):
                    copy.write_row((name, row, wrap(dict(of))))
            run(
                f"INSERT INTO {self.table} SELECT id, embedding, payload FROM incoming "
                "ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding, "
                "payload = excluded.payload"
            )

    def _find(self, query, plan, filters, exact):
        text, values = self.statement(query, plan, filters)
        with self._transaction() as run:
            self._prepare(run, plan, filters, exact)
            return run(text, values).fetchall()

    def _prepare(self, run, plan, filters, exact):
        """Settings of one transaction: how the shortlist uses its index."""
        if exact:
            run("SET LOCAL enable_indexscan = off")
            return
        size = plan.shortlist_size
        run(f"SET LOCAL hnsw.ef_search = {min(max(size, 40), _EF_SEARCH)}")
        if filters is not None or size > _EF_SEARCH:
            run("SET LOCAL hnsw.iterative_scan = relaxed_order")
            most = max(self.options.max_scan_tuples, size)
            run(f"SET LOCAL hnsw.max_scan_tuples = {most}")

    def statement(self, query: np.ndarray, plan: SearchPlan, filters=None) -> tuple[str, list]:
        """(SQL, its values) that answer one query with the rows (score, id).

        Args:
            query: float32 (width,).
            plan, filters: as for `query`.
        """
        operator = _OPERATORS[self.metric][0]
        score = "1 - distance" if self.metric == "cosine" else "-distance"
        condition, values = self._condition(filters)
        source, where = self.table, f" WHERE {condition}" if condition else ""
        for dim, size in zip(plan.dims, (*plan.sizes, plan.k), strict=True):
            expression = "embedding" if dim == self.width else _prefix(dim)
            # OFFSET 0 keeps the planner from merging a rerank into the query inside it.
            source = (
                f"(SELECT id, embedding, {expression} {operator} %s::vector({dim}) AS distance "
                f"FROM {source}{where} ORDER BY distance LIMIT {size} OFFSET 0) AS d{dim}"
            )
            where = ""
            values = [query[:dim], *values]  # outer queries come first in the text
        return f"SELECT {score}, id FROM {source} ORDER BY distance, id", values

    def _condition(self, filters):
        if filters is None:
            return "", []
        if isinstance(filters, tuple) and len(filters) == 2 and isinstance(filters[0], str):
            return f"({filters[0]})", list(filters[1])
        parts, values = [], []
        for name, wanted in check_plain_filter(filters).items():
            contained = [json.dumps({name: one}) for one in wanted]
            parts.append("(" + " OR ".join(["payload @> %s::jsonb"] * len(contained)) + ")")
            values += contained
        return " AND ".join(parts), values

    def _is_any(self):
        return f"id = ANY(%s::{_ID_TYPES[self.id_dtype]}[])"

    def _settings(self):
        return {
            "mrl_keras": _FORMAT,
            "dims": list(self.dims),
            "metric": self.metric,
            "id_dtype": self.id_dtype,
        }

    def _connect(self):
        if self._open is None or self._open.closed:
            self._open = self._psycopg.connect(
                self.conninfo, connect_timeout=self.options.connect_timeout, autocommit=True
            )
            self._open.execute("CREATE EXTENSION IF NOT EXISTS vector")
            self._register(self._open)
        return self._open

    @contextlib.contextmanager
    def _transaction(self) -> Iterator:
        """Yields a function that runs SQL in one transaction; errors are one line each."""
        errors = self._psycopg.errors
        try:
            with self._connect().transaction():
                yield self._open.execute
        except errors.UndefinedTable as error:
            raise ValueError(
                f"There is no table {self.table}. Call `create()` first, or name another one."
            ) from error
        except self._psycopg.OperationalError as error:
            self.close()
            raise ConnectionError(
                f"PostgreSQL can't be reached ({_line(error)}). Start the server, check its "
                "address, and do the same again: uploads go on with `resume=True`."
            ) from error
        except self._psycopg.Error as error:
            raise ValueError(f"PostgreSQL refused the request: {_line(error)}") from error


def _prefix(dim):
    return f"subvector(embedding, 1, {dim})::vector({dim})"


def _line(error):
    return " ".join(str(error).split())[:300]


def _psycopg():
    try:
        import psycopg
        import psycopg.sql
        import psycopg.types.json
        from pgvector.psycopg import register_vector
    except ImportError as error:
        raise ImportError(
            "The PostgreSQL engine needs psycopg and pgvector, which are not installed. Install "
            'them with: pip install "mrl_keras[pgvector]"'
        ) from error
    return psycopg, register_vector
