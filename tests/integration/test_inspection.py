"""What `check` and the start of a daemon say about tables that somebody changed, and that the fix they print works."""

import re
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from tickloom.errors import SchemaMismatch
from tickloom.settings import Settings
from tickloom.store.check import check_schema
from tickloom.store.postgres import Connection, connect

PRICES = "ALTER TABLE stock_prices"


async def refused(connection: Connection, settings: Settings) -> str:
    with pytest.raises(SchemaMismatch) as raised:
        await check_schema(connection, settings)
    return str(raised.value)


@pytest.mark.parametrize(
    ("spoil", "fix"),
    [
        (f"{PRICES} ALTER COLUMN price TYPE numeric", f"{PRICES} ALTER COLUMN price TYPE float8 USING price::float8"),
        (
            f"{PRICES} ALTER COLUMN low_price TYPE text",
            f"{PRICES} ALTER COLUMN low_price TYPE float8 USING low_price::float8",
        ),
        (
            f"{PRICES} ALTER COLUMN high_price TYPE real",
            f"{PRICES} ALTER COLUMN high_price TYPE float8 USING high_price::float8",
        ),
        (
            f"{PRICES} ALTER COLUMN source_offset TYPE int",
            f"{PRICES} ALTER COLUMN source_offset TYPE bigint USING source_offset::bigint",
        ),
        (
            f"{PRICES} ALTER COLUMN symbol TYPE varchar(64)",
            f'{PRICES} ALTER COLUMN symbol TYPE text COLLATE "C" USING symbol::text',
        ),
        (
            f'{PRICES} ALTER COLUMN symbol TYPE text COLLATE "default"',
            f'{PRICES} ALTER COLUMN symbol TYPE text COLLATE "C"',
        ),
        (
            "ALTER TABLE stock_analytics_data ALTER COLUMN processed_at TYPE timestamptz(0)",
            "ALTER TABLE stock_analytics_data ALTER COLUMN processed_at TYPE timestamptz USING processed_at::timestamptz",
        ),
        (
            "ALTER TABLE stock_analytics_data ALTER COLUMN processed_at TYPE timestamp",
            "ALTER TABLE stock_analytics_data ALTER COLUMN processed_at TYPE timestamptz USING processed_at AT TIME ZONE 'UTC'",
        ),
        (
            "ALTER TABLE tickloom.symbols ALTER COLUMN since TYPE timestamp",
            "ALTER TABLE tickloom.symbols ALTER COLUMN since TYPE timestamptz USING since AT TIME ZONE 'UTC'",
        ),
        (
            "ALTER TABLE tickloom.dead_letters ALTER COLUMN headers TYPE text",
            "ALTER TABLE tickloom.dead_letters ALTER COLUMN headers TYPE jsonb USING headers::jsonb",
        ),
        (
            'ALTER TABLE tickloom.dead_letters ALTER COLUMN "offset" TYPE int',
            'ALTER TABLE tickloom.dead_letters ALTER COLUMN "offset" TYPE bigint USING "offset"::bigint',
        ),
        (f"{PRICES} ALTER COLUMN source_offset DROP NOT NULL", f"{PRICES} ALTER COLUMN source_offset SET NOT NULL"),
        (f"{PRICES} ALTER COLUMN open_price SET NOT NULL", f"{PRICES} ALTER COLUMN open_price DROP NOT NULL"),
        (
            "ALTER TABLE tickloom.offsets ALTER COLUMN owner SET NOT NULL",
            "ALTER TABLE tickloom.offsets ALTER COLUMN owner DROP NOT NULL",
        ),
        (f"{PRICES} ADD COLUMN note text NOT NULL", f"{PRICES} ALTER COLUMN note DROP NOT NULL"),
        (
            "ALTER TABLE tickloom.gaps ADD COLUMN note text NOT NULL",
            "ALTER TABLE tickloom.gaps ALTER COLUMN note DROP NOT NULL",
        ),
        (f"{PRICES} DROP CONSTRAINT stock_prices_pkey", f'{PRICES} ADD PRIMARY KEY (symbol, "timestamp")'),
        (
            f'{PRICES} DROP CONSTRAINT stock_prices_pkey, ADD PRIMARY KEY ("timestamp", symbol)',
            f'{PRICES} DROP CONSTRAINT stock_prices_pkey, ADD PRIMARY KEY (symbol, "timestamp")',
        ),
        (
            "ALTER TABLE tickloom.symbols DROP CONSTRAINT symbols_pkey, ADD CONSTRAINT mine PRIMARY KEY (symbol) DEFERRABLE",
            "ALTER TABLE tickloom.symbols DROP CONSTRAINT mine, ADD PRIMARY KEY (symbol)",
        ),
        (
            "ALTER TABLE stock_prices DROP COLUMN open_price, ADD COLUMN open_price float8 GENERATED ALWAYS AS (price) STORED",
            f"{PRICES} ALTER COLUMN open_price DROP EXPRESSION",
        ),
        (
            "ALTER TABLE tickloom.offsets ALTER COLUMN stored DROP DEFAULT, ALTER COLUMN stored ADD GENERATED ALWAYS AS IDENTITY",
            "ALTER TABLE tickloom.offsets ALTER COLUMN stored DROP IDENTITY",
        ),
        (
            "CREATE RULE calm AS ON UPDATE TO stock_volumes DO INSTEAD NOTHING",
            "DROP RULE calm ON stock_volumes",
        ),
        ("ALTER TABLE tickloom.offsets SET UNLOGGED", "ALTER TABLE tickloom.offsets SET LOGGED"),
    ],
    ids=lambda text: text.removeprefix("ALTER TABLE "),
)
async def test_the_printed_fix_works(connection: Connection, settings: Settings, spoil: str, fix: str) -> None:
    """A message without the exact statement would send its reader to the manual at night, and a wrong statement would do harm."""
    await connection.execute(spoil)
    assert fix in await refused(connection, settings)
    await connection.execute(fix)
    await check_schema(connection, settings)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("ALTER TABLE stock_volumes RENAME COLUMN volume TO amount", "RENAME COLUMN … TO volume"),
        ("ALTER TABLE stock_volumes DROP COLUMN volume", "lacks volume"),
        ("ALTER TABLE tickloom.offsets DROP COLUMN skipped", "if it was dropped, restore the table from a backup"),
        ("DROP TABLE tickloom.symbols", "tickloom.symbols does not exist, although its migration was applied"),
        ("ALTER TABLE stock_prices RENAME TO ticks", "stock_prices does not exist; run `tickloom migrate`"),
        (
            "ALTER TABLE stock_prices RENAME TO ticks; CREATE VIEW public.stock_prices AS SELECT * FROM ticks",
            "is a view; rename",
        ),
        (
            "ALTER TABLE stock_prices RENAME TO ticks; CREATE MATERIALIZED VIEW public.stock_prices AS SELECT * FROM ticks",
            "is a materialized view",
        ),
        (
            "CREATE DOMAIN public.dear AS text NOT NULL; ALTER TABLE stock_prices ADD COLUMN note public.dear",
            "column note of",
        ),
    ],
)
async def test_what_no_single_statement_fixes(
    connection: Connection, settings: Settings, spoil: str, words: str
) -> None:
    """The daemon would report a missing relation, or nothing, and try again for ever."""
    for statement in spoil.split("; "):
        await connection.execute(statement)
    assert words in await refused(connection, settings)


@pytest.mark.parametrize(
    "addition",
    [
        "ALTER TABLE stock_prices ADD COLUMN note text",
        "ALTER TABLE stock_prices ADD COLUMN note text NOT NULL DEFAULT ''",
        "ALTER TABLE stock_prices ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE stock_prices ADD COLUMN twice float8 GENERATED ALWAYS AS (price * 2) STORED",
        "ALTER TABLE stock_prices ALTER COLUMN price SET NOT NULL, ALTER COLUMN price_moving_avg SET NOT NULL",
        "ALTER TABLE stock_prices ADD CONSTRAINT sane CHECK (price > -1e9)",
        "CREATE INDEX ON stock_prices (price)",
        'CREATE UNIQUE INDEX ON stock_prices (symbol, "timestamp", price)',
        "ALTER TABLE stock_prices RENAME CONSTRAINT stock_prices_pkey TO mine",
        "ALTER TABLE tickloom.dead_letters ADD COLUMN seen bool",
    ],
)
async def test_what_a_user_may_add(connection: Connection, settings: Settings, addition: str) -> None:
    """Users who may not add a column or an index would have to give up the daemon."""
    await connection.execute(addition)
    await check_schema(connection, settings)


async def test_a_trigger_fills_a_column_in(connection: Connection, settings: Settings) -> None:
    """A column without a default would be refused although a trigger fills it in before Postgres checks it."""
    await connection.execute("ALTER TABLE stock_prices ADD COLUMN note text NOT NULL")
    assert "note" in await refused(connection, settings)
    await connection.execute(
        "CREATE FUNCTION public.fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := 'x'; RETURN NEW; END $$"
    )
    await connection.execute(
        "CREATE TRIGGER fill BEFORE INSERT ON stock_prices FOR EACH ROW EXECUTE FUNCTION public.fill()"
    )
    await check_schema(connection, settings)


async def test_all_faults_are_reported_at_once(connection: Connection, settings: Settings) -> None:
    """A user would fix one fault, start the daemon, and only then hear of the next."""
    await connection.execute("ALTER TABLE stock_prices ALTER COLUMN price TYPE numeric")
    await connection.execute("ALTER TABLE tickloom.offsets ALTER COLUMN dead TYPE int")
    said = await refused(connection, settings)
    assert len(re.findall("ALTER TABLE", said)) == 2


@pytest.mark.parametrize("fix", ["DISABLE ROW LEVEL SECURITY", "BYPASSRLS"])
async def test_row_level_security(settings: Settings, connection: Connection, fix: str) -> None:
    """Rows that a policy hides would be taken for missing: written again, or left out of averages."""
    role = f"r{urlsplit(settings.database_url.get_secret_value()).path[1:]}"
    await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'weak'")
    await connection.execute(f"GRANT USAGE ON SCHEMA tickloom TO {role}")
    await connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public, tickloom TO {role}")
    parts: Any = urlsplit(settings.database_url.get_secret_value())
    url = urlunsplit(parts._replace(netloc=f"{role}:weak@{parts.hostname}:{parts.port}"))
    theirs = await connect(Settings(database_url=url))  # type: ignore[arg-type]
    try:
        await check_schema(theirs, settings)
        await connection.execute("ALTER TABLE stock_prices ENABLE ROW LEVEL SECURITY")
        said = await refused(theirs, settings)
        statement = next(one for one in re.findall(r"ALTER [A-Z]+ [^,;]+", said) if fix in one).removesuffix(" or ")
        await connection.execute(statement)
        await check_schema(theirs, settings)
    finally:
        await theirs.close()
