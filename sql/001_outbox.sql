-- The outbox table
--
-- Makes the table that applications insert their events into, in the same
-- transaction as the change that the event tells of. The columns are those that
-- Debezium's outbox event router expects. A table that exists is left as it is.
--
-- Rights: CREATE on the table's schema, and whoever applies this owns the table.
-- Applications need INSERT on it, and nothing else.
--
-- By hand: psql -f 001_outbox.sql [-v outbox_tables='{app.outbox}']
--   [-v partitioned=day]
-- outbox_tables is an array: several tables of this one shape are
-- '{sales.outbox,billing.outbox}'. With partitioned=day or week the tables are
-- partitioned by created_at, and have no partitions until 004 is applied.
--
-- Why it is made like this:
-- * payload is jsonb, which Postgres prints in its own normal form. If consumers
--   need the bytes as the application wrote them, make the column text or bytea.
-- * There is no index but the primary key: the events are read from the
--   write-ahead log, so an index would cost every insert and serve no read.
-- * REPLICA IDENTITY stays DEFAULT. Only inserts are published, so walpost would
--   do with NOTHING, but then a DELETE fails as soon as another publication, such
--   as one FOR ALL TABLES, includes the table.
-- * fillfactor stays at 100: rows are never updated, so room for new versions of
--   them would be wasted.
-- * Vacuum starts after a number of deleted rows, not after a share of the table.
--   A table that is filled and emptied has hardly any rows when its statistics are
--   taken, or very many, and a share of either says nothing. Large payloads lie in
--   the TOAST table, which counts for itself.
-- * Vacuum does not shorten the file. The next events need the space again, and to
--   give it back takes a lock that makes every insert wait. Partitions need none of
--   this: no rows are deleted, as each is dropped as a whole.
-- * A primary key has the column in it that a table is partitioned by. So an id is
--   unique in its partition only.

\set ON_ERROR_STOP on
\if :{?outbox_tables}
\else
\set outbox_tables '{public.outbox}'
\endif
\if :{?partitioned}
\else
\set partitioned none
\endif

SET walpost.outbox_tables TO :'outbox_tables';
SET walpost.partitioned TO :'partitioned';

DO $do$
DECLARE
  period text := current_setting('walpost.partitioned');
  mark text := format('Partitions by %s, made and dropped by walpost', period);
  key text := 'id';
  storage text := $with$WITH (
        autovacuum_vacuum_scale_factor = 0,
        autovacuum_vacuum_threshold = 10000,
        vacuum_truncate = false,
        toast.autovacuum_vacuum_scale_factor = 0,
        toast.autovacuum_vacuum_threshold = 10000,
        toast.vacuum_truncate = false
      )$with$;
  name text;
  quoted text;
BEGIN
  IF period IN ('day', 'week') THEN
    key := 'id, created_at';
    storage := 'PARTITION BY RANGE (created_at)';
  ELSIF period <> 'none' THEN
    RAISE EXCEPTION 'partitioned is %, want day or week', quote_literal(period);
  END IF;
  FOREACH name IN ARRAY current_setting('walpost.outbox_tables')::text[] LOOP
    IF to_regclass(name) IS NOT NULL THEN
      IF period <> 'none' AND NOT EXISTS (SELECT FROM pg_partitioned_table p JOIN pg_attribute a ON attrelid = partrelid
          WHERE partrelid = to_regclass(name) AND attnum = partattrs[0] AND col_description(attrelid, attnum) = mark) THEN
        RAISE EXCEPTION 'table % exists, and is not partitioned by % for walpost', to_regclass(name), period
          USING ERRCODE = 'wrong_object_type', HINT = 'leave --partitioned out, or name another table: one that exists is left as it is';
      END IF;
      CONTINUE;
    END IF;
    SELECT string_agg(quote_ident(part), '.' ORDER BY n) INTO quoted
      FROM unnest(parse_ident(name)) WITH ORDINALITY AS p (part, n);
    EXECUTE format($create$
      CREATE TABLE %s (
        id            uuid         NOT NULL DEFAULT gen_random_uuid(),
        aggregatetype varchar(255) NOT NULL,  -- names the topic
        aggregateid   varchar(255) NOT NULL,  -- the record's key
        type          varchar(255) NOT NULL,  -- what happened
        payload       jsonb,                  -- the record's value
        created_at    timestamptz  NOT NULL DEFAULT now(),
        PRIMARY KEY (%s)
      ) %s$create$, quoted, key, storage);
    EXECUTE format('COMMENT ON TABLE %s IS %L', quoted,
      'Events for Kafka, published by walpost. Insert only; purge what is published.');
    IF period <> 'none' THEN -- by which 004 knows the table
      EXECUTE format('COMMENT ON COLUMN %s.created_at IS %L', quoted, mark);
    END IF;
  END LOOP;
END
$do$;
