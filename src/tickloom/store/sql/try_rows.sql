-- For one transaction that is rolled back: writes the rows of pg_temp.tried, in order of their numbers, in about as many
-- statements as there are refusals, and returns the refused rows. {others}: SQLSTATEs that are not refusals. A statement that
-- fails leaves only the value of a sequence behind: the number of the row that it had reached. So the next statement writes
-- the rows before that one, and another one that row by itself. If the error comes late (a foreign key, a constraint
-- trigger), the range is halved.
CREATE SEQUENCE pg_temp.tried_at MINVALUE 0;

CREATE FUNCTION pg_temp.rows_refused(
    write text,         -- writes the rows: $1, $2 times [from, to), $3, $4 numbers [from, to]
    variants text[],    -- the same with other averages
    counted boolean,    -- whether it must write every row of its range
    start timestamptz,
    stop timestamptz
) RETURNS TABLE (number bigint, state text, message text, "constraint" text, "column" text, own boolean)
LANGUAGE plpgsql AS $$
DECLARE
    place   bigint;  -- all rows before it are written, or refused
    last    bigint;
    upto    bigint;
    ends    bigint;  -- a range [place, ends] that was refused as a whole
    reached bigint;  -- the row that the statement had reached there, 0 if that is not known
    size    bigint;
    before  bigint;  -- the refusal before this one
    written bigint;
    variant text;
    "table" text;
BEGIN
    SELECT min(t.number), max(t.number) INTO place, last FROM pg_temp.tried t
    WHERE t."timestamp" >= start AND t."timestamp" < stop;
    size := last - place + 1;
    before := place;
    WHILE place <= last LOOP
        upto := CASE
            WHEN ends IS NULL THEN least(place + size - 1, last)
            WHEN reached > place THEN reached - 1
            WHEN reached = place OR ends = place THEN place
            ELSE (place + ends) / 2
        END;
        BEGIN
            EXECUTE write USING start, stop, place, upto;
            GET DIAGNOSTICS written = ROW_COUNT;
            IF counted AND written <= upto - place THEN
                RAISE EXCEPTION USING ERRCODE = 'integrity_constraint_violation', MESSAGE = '{kept_out} the table';
            END IF;
            place := upto + 1;
            size := size * 2;
            ends := nullif(greatest(ends, upto), upto);
        EXCEPTION WHEN OTHERS OR assert_failure THEN
            GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, "constraint" = CONSTRAINT_NAME,
                "column" = COLUMN_NAME, "table" = TABLE_NAME;
            IF state ~ '^({others})' OR (state = '23514' AND "constraint" = '' AND "table" <> '') THEN
                RAISE;
            ELSIF upto > place THEN
                ends := upto;
                SELECT CASE WHEN last_value BETWEEN place AND upto - 1 THEN last_value ELSE 0 END
                INTO reached FROM pg_temp.tried_at;
            ELSE
                number := place;
                own := cardinality(variants) > 0;
                FOREACH variant IN ARRAY variants LOOP
                    BEGIN
                        EXECUTE variant USING start, stop, place, place;
                        RAISE EXCEPTION USING ERRCODE = 'TL000';  -- so that it leaves nothing behind
                    EXCEPTION WHEN OTHERS OR assert_failure THEN
                        own := own AND SQLSTATE <> 'TL000';
                    END;
                END LOOP;
                RETURN NEXT;
                size := greatest(2 * (place - before), 16);
                before := place;
                place := place + 1;
                ends := NULL;
            END IF;
        END;
    END LOOP;
END
$$
