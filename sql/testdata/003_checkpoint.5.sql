-- The tables of walpost
--
-- Makes the schema walpost and in it the table where walpost keeps how far each
-- slot has been published (checkpoint.store: postgres). The table lies in the same
-- database as the outbox on purpose: if a failover loses the last transactions, it
-- loses the positions that point behind them too. Beside it lie a log of these
-- positions over time, by which walpost replay finds a moment and walpost purge what
-- is published, what replays were asked for, and what is published before a slot's
-- stream (snapshot: initial). What exists is left as it is, so
-- that this file also makes what an earlier version had not.
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
    COMMENT ON TABLE walpost.checkpoint IS 'How far each slot has been published';
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
      CONSTRAINT snapshot_plan_is_whole CHECK (num_nulls(lsn, visible, parts) IN (0, 3))
    );
    COMMENT ON TABLE walpost.snapshot IS 'What was in the outbox tables before a slot, and is published before its stream; how far that is stands in the checkpoint';
    COMMENT ON COLUMN walpost.snapshot.lsn IS
      'Where the slot begins; NULL until the plan is made';
    COMMENT ON COLUMN walpost.snapshot.visible IS
      'The transactions whose rows are published';
  END IF;
END
$do$;
