-- The publication
--
-- Makes the publication that says which tables walpost reads: the outbox, and of
-- it the inserts only, so that a purge costs nothing downstream. The inserts into a
-- partition are published as inserts into the table it belongs to. A publication of
-- that name that exists is left as it is, whatever is in it.
--
-- Rights: CREATE on the database, and the ownership of the tables.
--
-- By hand: psql -f 002_publication.sql [-v publication=walpost]
--   [-v outbox_tables='{app.outbox}']

\set ON_ERROR_STOP on
\if :{?publication}
\else
\set publication walpost
\endif
\if :{?outbox_tables}
\else
\set outbox_tables '{public.outbox}'
\endif

SET walpost.publication TO :'publication';
SET walpost.outbox_tables TO :'outbox_tables';

DO $do$
DECLARE
  publication text := current_setting('walpost.publication');
  tables regclass[];
BEGIN
  IF EXISTS (SELECT FROM pg_publication WHERE pubname = publication) THEN
    RETURN;
  END IF;
  tables := current_setting('walpost.outbox_tables');
  EXECUTE format(
    'CREATE PUBLICATION %I FOR TABLE %s WITH (publish = %L, publish_via_partition_root = true)',
    publication, array_to_string(tables, ', '), 'insert');
END
$do$;
