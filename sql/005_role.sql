-- The role
--
-- Makes a role with no more rights than streaming needs. It has no password: set
-- one, or let pg_hba.conf say how the role is known. Of a role that exists the
-- attributes are left as they are; the rights are granted all the same.
--
-- Rights: a superuser, or from Postgres 16 on a role with CREATEROLE and
-- REPLICATION; and to grant: the owner of the database and of the schema walpost.
-- A managed Postgres may replace the attribute by a role of its own, as in
-- GRANT rds_replication TO walpost.
--
-- By hand, after 003 and 004: psql -f 005_role.sql [-v role=walpost]
--
-- REPLICATION lets the role read the slot, and so all that is published. Reading
-- the slot needs no SELECT on the outbox table, so none is granted. These do:
--   snapshot: initial and walpost replay --source table
--     GRANT USAGE ON SCHEMA public TO walpost;
--     GRANT SELECT ON public.outbox TO walpost;
--   walpost purge
--     GRANT SELECT, DELETE ON public.outbox TO walpost;
-- Where 004 was applied it may call the functions that make and drop partitions; then
-- walpost purge needs SELECT only.

\set ON_ERROR_STOP on
\if :{?role}
\else
\set role walpost
\endif

SET walpost.role TO :'role';

DO $do$
DECLARE
  role text := current_setting('walpost.role');
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
    EXECUTE format('CREATE ROLE %I LOGIN REPLICATION', role);
  END IF;
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
  IF to_regprocedure('walpost.drop_partition(regclass, regclass)') IS NOT NULL THEN
    EXECUTE format('GRANT USAGE ON SCHEMA walpost TO %I', role);
    EXECUTE format('GRANT EXECUTE ON FUNCTION walpost.make_partitions, walpost.detach_partition, walpost.drop_partition TO %I', role);
  END IF;
  IF to_regclass('walpost.checkpoint') IS NULL THEN
    RAISE NOTICE 'there is no table walpost.checkpoint to grant rights on';
    RETURN;
  END IF;
  EXECUTE format('GRANT USAGE ON SCHEMA walpost TO %I', role);
  EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON walpost.checkpoint TO %I', role);
  IF to_regclass('walpost.checkpoint_log') IS NOT NULL THEN
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON walpost.checkpoint_log TO %I', role);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON walpost.replay TO %I', role);
  END IF;
  IF to_regclass('walpost.snapshot') IS NOT NULL THEN
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON walpost.snapshot TO %I', role);
  END IF;
END
$do$;
