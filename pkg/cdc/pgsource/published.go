package pgsource

// Published are common table expressions of a query WITH RECURSIVE, in which $1 is the name of a
// publication, and an expression named leaf has the oid of tables. For each that is published the
// last one has a row: published (oid, via, filter, columns, generated), where via is the table
// that its rows come as, filter and columns are the row filter, as it is stored, and the numbers of
// the columns in a list, both NULL if there is none (15 and later), and generated says that stored
// generated columns come without a list (18 and later).
//
// The server's own views and functions for it lock each table that they list, and so wait for
// whoever has one of them for himself, which may be no table of ours.
//
// What is here is what the plugin does, in get_rel_sync_entry:
// https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/replication/pgoutput/pgoutput.c
//
// Schemas (15 and later) are found by what depends on the publication: 14 has no catalog of them.
const Published = `
	pub AS (SELECT oid, puballtables, pubviaroot, coalesce(to_jsonb(p)->>'pubgencols', '') = 's' AS generated FROM pg_publication p WHERE pubname = $1),
	pubschema AS (
		SELECT s.refobjid AS oid FROM pub
		JOIN pg_depend p ON p.refclassid = 'pg_publication'::regclass AND p.refobjid = pub.oid AND p.classid = to_regclass('pg_catalog.pg_publication_namespace')
		JOIN pg_depend s ON s.classid = p.classid AND s.objid = p.objid AND s.refclassid = 'pg_namespace'::regclass),
	line (leaf, oid, level) AS (
		SELECT oid, oid, 0 FROM leaf
		UNION ALL
		SELECT line.leaf, i.inhparent, line.level + 1 FROM line JOIN pg_class c ON c.oid = line.oid
		JOIN pg_inherits i ON i.inhrelid = c.oid WHERE c.relispartition AND NOT i.inhdetachpending),
	topmost AS (
		SELECT DISTINCT ON (line.leaf) line.leaf AS oid, CASE WHEN pub.pubviaroot THEN line.oid ELSE line.leaf END AS via
		FROM pub CROSS JOIN line JOIN pg_class l ON l.oid = line.leaf JOIN pg_class c ON c.oid = line.oid
		WHERE l.relpersistence = 'p' AND (pub.puballtables AND l.relkind IN ('r', 'p')
			OR line.oid IN (SELECT prrelid FROM pg_publication_rel WHERE prpubid = pub.oid)
			OR c.relkind IN ('r', 'p') AND c.relnamespace IN (SELECT oid FROM pubschema))
		ORDER BY line.leaf, line.level DESC),
	published AS (
		SELECT t.oid, t.via, to_jsonb(r)->>'prqual' AS filter, nullif(to_jsonb(r)->'prattrs', 'null') AS columns, pub.generated
		FROM pub CROSS JOIN topmost t JOIN pg_class c ON c.oid = t.via
		LEFT JOIN pg_publication_rel r ON r.prpubid = pub.oid AND r.prrelid = t.via AND NOT pub.puballtables AND c.relnamespace NOT IN (SELECT oid FROM pubschema))`

// Tree is a common table expression of a query WITH RECURSIVE: below an expression named target,
// with the oid and relkind of tables, their partitions of all levels, and they themselves.
// pg_partition_tree locks what it lists.
const Tree = `
	tree (root, oid, relkind) AS (
		SELECT oid, oid, relkind FROM target
		UNION ALL
		SELECT tree.root, c.oid, c.relkind FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid AND NOT i.inhdetachpending
		JOIN pg_class c ON c.oid = i.inhrelid WHERE tree.relkind = 'p')`
