-- The publication
--
-- Makes the publication that says which tables walpost reads: the outbox, and of
-- it the inserts only, so that a purge costs nothing downstream. The inserts into a
-- partition are published as inserts into the table it belongs to. A publication of
-- that name that exists is left as it is, whatever is in it.
--
-- With a shard, as in 0/3, it publishes a third of the events: those whose key has a
-- hash that gives 0 modulo 3. One without a key belongs to shard 0. That needs Postgres
-- 15 or later.
--
-- Rights: CREATE on the database, and the ownership of the tables.
--
-- By hand: psql -f 002_publication.sql [-v publication=walpost]
--   [-v outbox_tables='{app.outbox}'] [-v shard=0/3 -v key=aggregateid]

\set ON_ERROR_STOP on
\if :{?publication}
\else
\set publication walpost
\endif
\if :{?outbox_tables}
\else
\set outbox_tables '{public.outbox}'
\endif
\if :{?shard}
\else
\set shard none
\endif
\if :{?key}
\else
\set key aggregateid
\endif

SET walpost.publication TO :'publication';
SET walpost.outbox_tables TO :'outbox_tables';
SET walpost.shard TO :'shard';
SET walpost.key TO :'key';

DO $do$
DECLARE
  publication text := current_setting('walpost.publication');
  shard text := current_setting('walpost.shard');
  key text := current_setting('walpost.key');
  tables regclass[];
  list text;
BEGIN
  IF EXISTS (SELECT FROM pg_publication WHERE pubname = publication) THEN
    RETURN;
  END IF;
  tables := current_setting('walpost.outbox_tables');
  IF shard = 'none' THEN
    list := array_to_string(tables, ', ');
  ELSIF current_setting('server_version_num')::int < 150000 THEN
    RAISE EXCEPTION 'shards need row filters, which Postgres has from version 15 on';
  ELSE
    SELECT string_agg(format('%s WHERE (coalesce(%s(%I) & 2147483647, 0) %% %s = %s)', t,
             CASE a.atttypid
               WHEN 'text'::regtype THEN 'hashtext' WHEN 'varchar'::regtype THEN 'hashtext'
               WHEN 'bpchar'::regtype THEN 'hashbpchar' WHEN 'uuid'::regtype THEN 'uuid_hash'
               WHEN 'int2'::regtype THEN 'hashint2' WHEN 'int4'::regtype THEN 'hashint4'
               WHEN 'int8'::regtype THEN 'hashint8'
             END, key, split_part(shard, '/', 2), split_part(shard, '/', 1)), ', ')
      INTO list
      FROM unnest(tables) t JOIN pg_attribute a ON a.attrelid = t AND a.attname = key AND NOT a.attisdropped;
    IF list IS NULL OR list LIKE '%WHERE (coalesce((%' THEN
      RAISE EXCEPTION 'column % of % is missing, or of a type that shards have no hash for', quote_ident(key), array_to_string(tables, ', ')
        USING HINT = 'text, varchar, char, uuid and the integers have one';
    END IF;
  END IF;
  EXECUTE format(
    'CREATE PUBLICATION %I FOR TABLE %s WITH (publish = %L, publish_via_partition_root = true)',
    publication, list, 'insert');
END
$do$;
