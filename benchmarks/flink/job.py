"""Flink SQL on a local cluster: runs ``job.sql`` up to the log's end."""

import os
import re
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

from pyflink.table import EnvironmentSettings, TableEnvironment


def statements() -> list[str]:
    """The statements of ``job.sql`` with the environment's values."""
    url = urlsplit(os.environ["PEER_DATABASE_URL"])
    database = {
        "JDBC_URL": f"jdbc:postgresql://{url.hostname}:{url.port}{url.path}?reWriteBatchedInserts=true",
        "JDBC_USER": url.username or "",
        "JDBC_PASSWORD": url.password or "",
    }
    text = re.sub(r"--.*", "", Path(__file__).with_name("job.sql").read_text())
    filled = Template(text).substitute(os.environ, **database)
    return [statement for part in filled.split(";") if (statement := part.strip())]


def main() -> None:
    """Process the log up to its end at the start."""
    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    jars = sorted(Path(os.environ["PEER_JARS_FOLDER"]).glob("*.jar"))
    settings = {
        "pipeline.jars": ";".join(jar.as_uri() for jar in jars),
        "parallelism.default": str(os.cpu_count()),
        "execution.checkpointing.interval": "10s",
        # The inputs contain only inserts, and the tables' own upsert handles a key that comes twice.
        "table.exec.sink.upsert-materialize": "NONE",
        "table.exec.sink.require-on-conflict": "false",
    }
    for name, value in settings.items():
        tables.get_config().set(name, value)
    inserts = tables.create_statement_set()
    for statement in statements():
        if statement.startswith("INSERT"):
            inserts.add_insert_sql(statement)
        else:
            tables.execute_sql(statement)
    inserts.execute().wait()


if __name__ == "__main__":
    main()
