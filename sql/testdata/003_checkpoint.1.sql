-- The checkpoint table
--
-- Makes the schema walpost and in it the table where walpost keeps how far each
-- slot has been published (checkpoint.store: postgres). The table lies in the same
-- database as the outbox on purpose: if a failover loses the last transactions, it
-- loses the positions that point behind them too. What exists is left as it is.
--
-- Rights: CREATE on the database. The schema's name is fixed.
--
-- By hand: psql -f 003_checkpoint.sql
--
-- fillfactor leaves most of the page free: the row is rewritten about every second,
-- and a new version that fits into the same page costs no index entry.

\set ON_ERROR_STOP on

DO $do$
BEGIN
  IF to_regnamespace('walpost') IS NULL THEN
    CREATE SCHEMA walpost;
    COMMENT ON SCHEMA walpost IS 'The state of walpost';
  END IF;
  IF to_regclass('walpost.checkpoint') IS NOT NULL THEN
    RETURN;
  END IF;
  CREATE TABLE walpost.checkpoint (
    slot        text        PRIMARY KEY,
    epoch       bigint      NOT NULL,
    owner       text        NOT NULL,
    acquired_at timestamptz NOT NULL,
    system_id   numeric(20),
    timeline    bigint,
    lsn         pg_lsn,
    saved_at    timestamptz,
    CONSTRAINT checkpoint_position_is_whole
      CHECK (num_nulls(system_id, timeline, lsn, saved_at) IN (0, 4))
  ) WITH (fillfactor = 20);
  COMMENT ON TABLE walpost.checkpoint IS 'How far each slot has been published';
  COMMENT ON COLUMN walpost.checkpoint.epoch IS
    'Rises with every start of walpost; a process with a lower one can save no more';
  COMMENT ON COLUMN walpost.checkpoint.owner IS
    'The process that started last, for people to read';
  COMMENT ON COLUMN walpost.checkpoint.system_id IS
    'The cluster that the position belongs to, as pg_control_system() prints it';
  COMMENT ON COLUMN walpost.checkpoint.lsn IS
    'Everything that was committed before it is in Kafka; NULL until the first save';
END
$do$;
