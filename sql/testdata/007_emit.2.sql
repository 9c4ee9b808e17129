-- The function that emits events
--
-- Makes walpost.emit, with which an application writes an event into WAL and into no
-- table (messages.prefix): SELECT walpost.emit('order', '42', 'OrderCreated', '{"total": 995}').
-- It returns the event's id. The event is published if and only if the transaction
-- commits, and like an inserted row in the order of the commits. A function of an
-- earlier version is replaced; its version is noted in its comment, and in version.go.
--
-- Rights: CREATE on the database, or on the schema walpost if that exists; and the
-- ownership of a function of an earlier version. Who is to call it
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
DECLARE
  version CONSTANT int := 1;
  made int; -- NULL without it, and 0 before versions were noted
  body text;
BEGIN
  IF to_regnamespace('walpost') IS NULL THEN
    CREATE SCHEMA walpost;
    COMMENT ON SCHEMA walpost IS 'The state of walpost';
  END IF;
  SELECT coalesce(substring(obj_description(oid, 'pg_proc') FROM 'version ([0-9]+)$')::int, 0), prosrc INTO made, body
    FROM pg_proc WHERE oid = to_regprocedure('walpost.emit(text,text,text,jsonb)');
  IF made > version THEN
    RAISE EXCEPTION 'function walpost.emit is of version %, and this walpost knows version % at most', made, version
      USING ERRCODE = 'feature_not_supported', HINT = 'run walpost init of the walpost that has made it, or of a later one';
  END IF;
  IF made < version AND strpos(body, format('(true, %L,', current_setting('walpost.prefix'))) = 0 THEN
    RAISE EXCEPTION 'function walpost.emit writes with another prefix than %', quote_literal(current_setting('walpost.prefix'))
      USING ERRCODE = 'invalid_parameter_value', HINT = 'set messages.prefix to that which the function has, or drop the function first';
  END IF;
  IF made IS NULL OR made < version THEN
    EXECUTE format($create$
      CREATE OR REPLACE FUNCTION walpost.emit(aggregatetype text, aggregateid text, type text, payload jsonb) RETURNS uuid
      LANGUAGE sql VOLATILE SET search_path = pg_catalog AS $body$
        WITH event AS MATERIALIZED (SELECT gen_random_uuid() AS id),
        written AS MATERIALIZED (
          SELECT id, pg_logical_emit_message(true, %L, jsonb_build_object(
            'id', id, 'aggregatetype', $1, 'aggregateid', $2, 'type', $3, 'payload', $4)::text) AS lsn FROM event)
        SELECT id FROM written WHERE lsn IS NOT NULL
      $body$ $create$, current_setting('walpost.prefix'));
    EXECUTE format('COMMENT ON FUNCTION walpost.emit IS %L', 'Writes an event into WAL, and returns its id; of version ' || version);
  END IF;
END
$do$;
