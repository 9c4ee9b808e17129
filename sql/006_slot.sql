-- The replication slot
--
-- Makes the slot that keeps the write-ahead log until walpost has published it.
-- From then on a walpost that does not run makes the server's disk fill up, unless
-- max_slot_wal_keep_size bounds that. Events are published from this moment on. A
-- slot of that name that exists is left as it is.
--
-- Rights: REPLICATION. Needs wal_level = logical. It waits for every transaction
-- that is open and has written something.
--
-- By hand: psql -f 006_slot.sql [-v slot=walpost] [-v failover=false]
-- From Postgres 17 on it is a failover slot, of which standbys may keep a copy,
-- unless failover is false.

\set ON_ERROR_STOP on
\if :{?slot}
\else
\set slot walpost
\endif
\if :{?failover}
\else
\set failover true
\endif

SET walpost.slot TO :'slot';
SET walpost.failover TO :'failover';

DO $do$
DECLARE
  slot text := current_setting('walpost.slot');
  existing record;
BEGIN
  SELECT * INTO existing FROM pg_replication_slots WHERE slot_name = slot;
  IF FOUND THEN
    IF existing.plugin IS DISTINCT FROM 'pgoutput' OR existing.database IS DISTINCT FROM current_database() THEN
      RAISE 'slot "%" belongs to something else: database "%", plugin "%"', slot, existing.database, existing.plugin
        USING ERRCODE = 'object_in_use', HINT = 'Take another name, as names are common to all databases; or drop that slot if nothing needs it.';
    END IF;
    RETURN;
  END IF;
  PERFORM set_config('lock_timeout', '0', true); -- what is waited for holds no table
  IF current_setting('walpost.failover')::boolean
     AND current_setting('server_version_num')::int >= 170000 THEN
    PERFORM pg_create_logical_replication_slot(slot, 'pgoutput', failover => true);
  ELSE
    PERFORM pg_create_logical_replication_slot(slot, 'pgoutput');
  END IF;
END
$do$;
