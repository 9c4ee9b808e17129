-- The partitions
--
-- For outbox tables that 001 has made with partitioned=day or week: makes their
-- partitions for now and the next seven periods, and the functions with which
-- walpost run makes those to come and drops those that are old and published. All
-- bounds are in UTC, and a week begins on Monday. What exists is left as it is.
--
-- Rights: CREATE on the database if there is no schema walpost yet, else on that
-- schema; and the ownership of the tables.
--
-- By hand, after 001: psql -f 004_partitions.sql [-v outbox_tables='{app.outbox}']
--
-- Why it is made like this:
-- * Only who owns a table makes and detaches its partitions, and an owner may do
--   everything else. So walpost's role owns nothing: it may call functions that run
--   with the rights of whoever applies this file, and these do no more than is needed.
-- * They serve a table only if the column that it is partitioned by has the comment
--   that 001 gives it, which nobody but the owner can set.
-- * A partition is made apart and attached, which makes no insert wait, as CREATE TABLE
--   ... PARTITION OF would.
-- * To detach one makes inserts wait. So that is given up after 100 ms, and tried again.
--   An owner can do without: walpost then uses DETACH PARTITION CONCURRENTLY, which no
--   function can.
-- * Seven are made ahead, so that there is time to mend what keeps walpost from it:
--   where there is none, inserts fail.
-- * There is no default partition. Rows in one would be in the way of the partition
--   that they belong to, and each ATTACH would have to look for them.

\set ON_ERROR_STOP on
\if :{?outbox_tables}
\else
\set outbox_tables '{public.outbox}'
\endif

SET walpost.outbox_tables TO :'outbox_tables';

DO $do$
DECLARE
  name text;
  owner text;
BEGIN
  IF to_regnamespace('walpost') IS NULL THEN
    CREATE SCHEMA walpost;
    COMMENT ON SCHEMA walpost IS 'The state of walpost';
  END IF;

  IF to_regprocedure('walpost.drop_partition(regclass, regclass)') IS NULL THEN
    -- Who owns the schema can put other functions in the place of those that are called here.
    SELECT rolname INTO owner FROM pg_namespace JOIN pg_roles r ON r.oid = nspowner
      WHERE nspname = 'walpost' AND rolname <> current_user AND NOT rolsuper;
    IF owner IS NOT NULL THEN
      RAISE EXCEPTION 'schema walpost belongs to role %, which would get the rights of role %', owner, current_user
        USING ERRCODE = 'invalid_schema_definition', HINT = format('ALTER SCHEMA walpost OWNER TO %I', current_user);
    END IF;

    CREATE FUNCTION walpost.partition_period(parent regclass) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $fn$
      SELECT substring(col_description(parent, a.attnum) FROM '^Partitions by (day|week), made and dropped by walpost$')
      FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
      WHERE p.partrelid = parent AND p.partstrat = 'r' AND p.partnatts = 1 AND a.atttypid = 'timestamptz'::regtype
    $fn$;
    COMMENT ON FUNCTION walpost.partition_period IS
      'The period of a table whose partitions walpost makes and drops; NULL for any other';

    CREATE FUNCTION walpost.partition_start(period text, at timestamptz, ahead int) RETURNS timestamptz
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $fn$
      SELECT date_trunc(period, at) + ahead * ('1 ' || period)::interval
    $fn$;
    COMMENT ON FUNCTION walpost.partition_start IS
      'When the period begins that a moment is in, or one of those after it';

    CREATE FUNCTION walpost.partitions(parent regclass) RETURNS TABLE (part regclass, state text, lower timestamptz, upper timestamptz)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $fn$
      SELECT i.inhrelid::regclass, CASE WHEN i.inhdetachpending THEN 'pending' ELSE 'attached' END,
        coalesce(substring(b.bound FROM $re$FROM \('([^']+)'\)$re$)::timestamptz, '-infinity'),
        coalesce(substring(b.bound FROM $re$TO \('([^']+)'\)$re$)::timestamptz, 'infinity')
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid, LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid)) b (bound)
      WHERE i.inhparent = parent AND walpost.partition_period(parent) IS NOT NULL AND b.bound <> 'DEFAULT'
      UNION ALL
      SELECT c.oid::regclass, 'detached', NULL, NULL
      FROM pg_description d JOIN pg_class c ON c.oid = d.objoid
      WHERE d.classoid = 'pg_class'::regclass AND d.objsubid = 0 AND c.relkind = 'r' AND NOT c.relispartition
        AND d.description = format('Detached from %s by walpost, which drops it', parent)
    $fn$;
    COMMENT ON FUNCTION walpost.partitions IS
      'The partitions of a table, those among them that are being detached, and those that were and are still to be dropped';

    CREATE FUNCTION walpost.make_partitions(parent regclass) RETURNS SETOF regclass
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '5s' AS $fn$
    DECLARE
      period text := walpost.partition_period(parent);
      root record;
      part text;
      since timestamptz;
      until timestamptz;
    BEGIN
      IF period IS NULL THEN
        RAISE EXCEPTION 'the partitions of % are not made by walpost', parent USING ERRCODE = 'wrong_object_type';
      END IF;
      EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', parent); -- two calls at once
      SELECT nspname, relname, pg_get_userbyid(relowner) AS owner INTO root
        FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = parent;
      FOR i IN 0..7 LOOP
        since := walpost.partition_start(period, now(), i);
        until := walpost.partition_start(period, now(), i + 1);
        CONTINUE WHEN EXISTS (SELECT FROM walpost.partitions(parent) p WHERE p.lower < until AND p.upper > since);
        part := format('%I.%I', root.nspname, root.relname || '_p' || to_char(since, 'YYYYMMDD'));
        EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING COMMENTS EXCLUDING IDENTITY EXCLUDING INDEXES)', part, parent);
        EXECUTE format('ALTER TABLE %s OWNER TO %I', part, root.owner);
        EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', parent, part, since, until);
        RETURN NEXT part::regclass;
      END LOOP;
    END
    $fn$;
    COMMENT ON FUNCTION walpost.make_partitions IS
      'Makes the partitions for now and the next seven periods that are missing';

    CREATE FUNCTION walpost.detach_partition(parent regclass, old regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '100ms' AS $fn$
    DECLARE
      found_state text;
    BEGIN
      SELECT p.state INTO found_state FROM walpost.partitions(parent) p WHERE p.part = old AND p.upper <= now();
      IF found_state IS NULL THEN
        RAISE EXCEPTION '% is no partition of % that walpost drops, or its time is not over', old, parent USING ERRCODE = 'wrong_object_type';
      END IF;
      EXECUTE format('COMMENT ON TABLE %s IS %L', old, format('Detached from %s by walpost, which drops it', parent));
      IF has_table_privilege(session_user, parent, 'SELECT') THEN -- who read it with its parent goes on to
        EXECUTE format('GRANT SELECT ON %s TO %I', old, session_user);
      END IF;
      IF found_state = 'pending' THEN
        EXECUTE format('ALTER TABLE %s DETACH PARTITION %s FINALIZE', parent, old);
        RETURN;
      END IF;
      -- First what may be long in use: while this waits it holds nothing that inserts need.
      EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', old);
      EXECUTE format('ALTER TABLE %s DETACH PARTITION %s', parent, old);
    END
    $fn$;
    COMMENT ON FUNCTION walpost.detach_partition IS
      'Detaches a partition whose time is over';

    CREATE FUNCTION walpost.drop_partition(parent regclass, old regclass) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $fn$
    BEGIN
      IF NOT EXISTS (SELECT FROM walpost.partitions(parent) p WHERE p.part = old AND p.state = 'detached') THEN
        RAISE EXCEPTION '% was not detached from % by walpost', old, parent USING ERRCODE = 'wrong_object_type';
      END IF;
      EXECUTE format('DROP TABLE %s', old);
    END
    $fn$;
    COMMENT ON FUNCTION walpost.drop_partition IS
      'Drops what detach_partition has detached';

    REVOKE ALL ON FUNCTION walpost.make_partitions, walpost.detach_partition, walpost.drop_partition FROM PUBLIC;
  END IF;

  FOREACH name IN ARRAY current_setting('walpost.outbox_tables')::text[] LOOP
    IF walpost.partition_period(to_regclass(name)) IS NOT NULL THEN
      PERFORM walpost.make_partitions(to_regclass(name));
    END IF;
  END LOOP;
END
$do$;
