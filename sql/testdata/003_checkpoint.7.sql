-- The tables of walpost
--
-- Makes the schema walpost and in it the table where walpost keeps how far each
-- slot has been published (checkpoint.store: postgres). The table lies in the same
-- database as the outbox on purpose: if a failover loses the last transactions, it
-- loses the positions that point behind them too. Beside it lie a log of these
-- positions over time, by which walpost replay finds a moment and walpost purge what
-- is published, what replays were asked for, and what is published before a slot's
-- stream (snapshot: initial). What is missing is made, and what an earlier walpost has
-- made is brought to the present version, its rows with it.
--
-- Rights: CREATE on the database, or on the schema if that exists; and the ownership of
-- the tables if they are of an earlier version. The schema's name is fixed.
--
-- By hand: psql -f 003_checkpoint.sql
--
-- fillfactor leaves most of the page free: the row is rewritten about every second,
-- and a new version that fits into the same page costs no index entry.
--
-- The version of the tables is noted in the comment on walpost.checkpoint: everybody may
-- read it, and who may change a table may write it. A change of a table raises it, in
-- version.go too, and has its step below, which is harmless where it is done already. A
-- walpost of the version before must go on to work with the tables.

\set ON_ERROR_STOP on

DO $do$
DECLARE
  version CONSTANT int := 1;
  made int; -- 0 before versions were noted
BEGIN
  IF to_regnamespace('walpost') IS NULL THEN
    CREATE SCHEMA walpost;
    COMMENT ON SCHEMA walpost IS 'The state of walpost';
  END IF;
  made := coalesce(substring(obj_description(to_regclass('walpost.checkpoint'), 'pg_class') FROM 'version ([0-9]+)$')::int, 0);
  IF made > version THEN
    RAISE EXCEPTION 'the tables of walpost are of version %, and this walpost knows version % at most', made, version
      USING ERRCODE = 'feature_not_supported', HINT = 'run walpost init of the walpost that has made them, or of a later one';
  END IF;

  -- What is there becomes what the next version has, one after the other.
  PERFORM set_config('lock_timeout', '2s', true); -- a running walpost waits behind us
  IF made < 1 AND to_regclass('walpost.checkpoint') IS NOT NULL THEN
    ALTER TABLE walpost.checkpoint
      ADD COLUMN IF NOT EXISTS partial_commit_lsn pg_lsn,
      ADD COLUMN IF NOT EXISTS partial_rows       bigint,
      ADD COLUMN IF NOT EXISTS partial_last_id    text,
      DROP CONSTRAINT IF EXISTS checkpoint_partial_is_whole;
    -- Which row was the last is not known: the transaction's rows are published again.
    UPDATE walpost.checkpoint SET partial_commit_lsn = NULL, partial_rows = NULL
      WHERE partial_rows IS NOT NULL AND partial_last_id IS NULL;
    ALTER TABLE walpost.checkpoint ADD CONSTRAINT checkpoint_partial_is_whole
      CHECK (num_nulls(partial_commit_lsn, partial_rows, partial_last_id) IN (0, 3));
    COMMENT ON COLUMN walpost.checkpoint.partial_rows IS
      'Rows in Kafka of the next transaction, whose commit record is at partial_commit_lsn';
    COMMENT ON COLUMN walpost.checkpoint.partial_last_id IS
      'The id of the last of these rows';
  END IF;
  IF made < 1 AND to_regclass('walpost.snapshot') IS NOT NULL THEN
    ALTER TABLE walpost.snapshot DROP CONSTRAINT IF EXISTS snapshot_plan_is_whole;
    ALTER TABLE walpost.snapshot ADD CONSTRAINT snapshot_plan_is_whole
      CHECK (num_nulls(visible, parts) IN (0, 2) AND (lsn IS NOT NULL OR visible IS NULL));
    COMMENT ON COLUMN walpost.snapshot.lsn IS
      'Where the slot begins; NULL until it is made';
  END IF;

  -- What is missing is made as it is now.
  IF to_regclass('walpost.checkpoint') IS NULL THEN
    CREATE TABLE walpost.checkpoint (
      slot        text        PRIMARY KEY,
      epoch       bigint      NOT NULL,
      owner       text        NOT NULL,
      acquired_at timestamptz NOT NULL,
      system_id   numeric(20),
      timeline    bigint,
      lsn         pg_lsn,
      saved_at    timestamptz,
      partial_commit_lsn pg_lsn,
      partial_rows       bigint,
      partial_last_id    text,
      CONSTRAINT checkpoint_position_is_whole
        CHECK (num_nulls(system_id, timeline, lsn, saved_at) IN (0, 4)),
      CONSTRAINT checkpoint_partial_is_whole
        CHECK (num_nulls(partial_commit_lsn, partial_rows, partial_last_id) IN (0, 3))
    ) WITH (fillfactor = 20);
    COMMENT ON COLUMN walpost.checkpoint.epoch IS
      'Rises with every start of walpost; a process with a lower one can save no more';
    COMMENT ON COLUMN walpost.checkpoint.owner IS
      'The process that started last, for people to read';
    COMMENT ON COLUMN walpost.checkpoint.system_id IS
      'The cluster that the position belongs to, as pg_control_system() prints it';
    COMMENT ON COLUMN walpost.checkpoint.lsn IS
      'Everything that was committed before it is in Kafka; NULL until the first save';
    COMMENT ON COLUMN walpost.checkpoint.partial_rows IS
      'Rows in Kafka of the next transaction, whose commit record is at partial_commit_lsn';
    COMMENT ON COLUMN walpost.checkpoint.partial_last_id IS
      'The id of the last of these rows';
  END IF;

  IF to_regclass('walpost.checkpoint_log') IS NULL THEN
    CREATE TABLE walpost.checkpoint_log (
      slot       text        NOT NULL,
      at         timestamptz NOT NULL DEFAULT clock_timestamp(),
      lsn        pg_lsn      NOT NULL,
      end_lsn    pg_lsn      NOT NULL,
      oldest_xid xid8        NOT NULL,
      PRIMARY KEY (slot, at)
    );
    COMMENT ON TABLE walpost.checkpoint_log IS 'How far each slot was published at a moment, and where bookmarks were set';
    COMMENT ON COLUMN walpost.checkpoint_log.lsn IS
      'Everything that was committed before it was in Kafka';
    COMMENT ON COLUMN walpost.checkpoint_log.end_lsn IS
      'What was committed up to this moment lies before it';
    COMMENT ON COLUMN walpost.checkpoint_log.oldest_xid IS
      'All transactions before it had ended';
  END IF;

  IF to_regclass('walpost.replay') IS NULL THEN
    CREATE TABLE walpost.replay (
      id          text        PRIMARY KEY,
      slot        text        NOT NULL,
      bookmark    text        NOT NULL,
      from_lsn    pg_lsn      NOT NULL,
      to_lsn      pg_lsn      NOT NULL,
      options     jsonb       NOT NULL,
      begun_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
      finished_at timestamptz
    );
    COMMENT ON TABLE walpost.replay IS 'What was asked to be published again; how far each is stands in walpost.checkpoint';
    COMMENT ON COLUMN walpost.replay.bookmark IS
      'The slot that keeps the events';
  END IF;

  IF to_regclass('walpost.snapshot') IS NULL THEN
    CREATE TABLE walpost.snapshot (
      slot        text        PRIMARY KEY,
      begun_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
      lsn         pg_lsn,
      visible     pg_snapshot,
      parts       jsonb,
      finished_at timestamptz,
      CONSTRAINT snapshot_plan_is_whole CHECK (num_nulls(visible, parts) IN (0, 2) AND (lsn IS NOT NULL OR visible IS NULL))
    );
    COMMENT ON TABLE walpost.snapshot IS 'What was in the outbox tables before a slot, and is published before its stream; how far that is stands in the checkpoint';
    COMMENT ON COLUMN walpost.snapshot.lsn IS
      'Where the slot begins; NULL until it is made';
    COMMENT ON COLUMN walpost.snapshot.visible IS
      'The transactions whose rows are published';
  END IF;

  IF made < version THEN
    EXECUTE format('COMMENT ON TABLE walpost.checkpoint IS %L', 'How far each slot has been published; tables of version ' || version);
  END IF;
END
$do$;
