-- The function that emits events
--
-- Makes walpost.emit, with which an application writes an event into WAL and into no
-- table (messages.prefix): SELECT walpost.emit('order', '42', 'OrderCreated', '{"total": 995}').
-- It returns the event's id. The event is published if and only if the transaction
-- commits, and like an inserted row in the order of the commits.
--
-- Rights: CREATE on the database, or on the schema walpost if that exists. Who is to call it
-- needs USAGE on the schema walpost, which is granted to nobody here:
--   GRANT USAGE ON SCHEMA walpost TO app;
--
-- By hand: psql -f 007_emit.sql [-v prefix=walpost]

\set ON_ERROR_STOP on
\if :{?prefix}
\else
\set prefix walpost
\endif

SET walpost.prefix TO :'prefix';

DO $do$
BEGIN
  IF to_regnamespace('walpost') IS NULL THEN
    CREATE SCHEMA walpost;
    COMMENT ON SCHEMA walpost IS 'The state of walpost';
  END IF;
  IF to_regprocedure('walpost.emit(text,text,text,jsonb)') IS NULL THEN
    EXECUTE format($create$
      CREATE FUNCTION walpost.emit(aggregatetype text, aggregateid text, type text, payload jsonb) RETURNS uuid
      LANGUAGE sql VOLATILE SET search_path = pg_catalog AS $body$
        WITH event AS MATERIALIZED (SELECT gen_random_uuid() AS id),
        written AS MATERIALIZED (
          SELECT id, pg_logical_emit_message(true, %L, jsonb_build_object(
            'id', id, 'aggregatetype', $1, 'aggregateid', $2, 'type', $3, 'payload', $4)::text) AS lsn FROM event)
        SELECT id FROM written WHERE lsn IS NOT NULL
      $body$ $create$, current_setting('walpost.prefix'));
    COMMENT ON FUNCTION walpost.emit IS 'Writes an event into WAL, and returns its id';
  END IF;
END
$do$;
