package purge

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/parquet-go/parquet-go"
)

// column is one of a table, as an archive in Parquet has it.
type column struct {
	Name string
	Type string // of Postgres, without modifiers
}

// columnsOf returns the columns of a table by their names, which is the order of Parquet's
// groups.
func columnsOf(ctx context.Context, conn *pgx.Conn, t pgx.Identifier) ([]column, error) {
	const query = `SELECT attname, atttypid::regtype::text FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped`
	rows, err := conn.Query(ctx, query, t.Sanitize())
	if err != nil {
		return nil, fmt.Errorf("look up the columns of %s: %w", t.Sanitize(), err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[column])
	if err != nil {
		return nil, fmt.Errorf("look up the columns of %s: %w", t.Sanitize(), err)
	}
	slices.SortFunc(columns, func(a, b column) int { return strings.Compare(a.Name, b.Name) })
	return columns, nil
}

// node is the column's type. What Parquet has no type for is text, as Postgres prints it.
func (c column) node() parquet.Node {
	switch c.Type {
	case "smallint", "integer", "bigint":
		return parquet.Int(64)
	case "boolean":
		return parquet.Leaf(parquet.BooleanType)
	case "real", "double precision":
		return parquet.Leaf(parquet.DoubleType)
	case "timestamp with time zone":
		return parquet.Timestamp(parquet.Microsecond)
	case "json", "jsonb":
		return parquet.JSON()
	}
	return parquet.String()
}

// value makes the column's value of what to_jsonb has made of it.
func (c column) value(raw json.RawMessage) (v parquet.Value, err error) {
	if string(raw) == "null" || raw == nil {
		return parquet.NullValue(), nil
	}
	switch c.Type {
	case "smallint", "integer", "bigint":
		var n int64
		err = json.Unmarshal(raw, &n)
		return parquet.Int64Value(n), err
	case "boolean":
		var b bool
		err = json.Unmarshal(raw, &b)
		return parquet.BooleanValue(b), err
	case "real", "double precision":
		var f float64
		if s, ok := text(raw); ok { // NaN and the infinities
			return parquet.DoubleValue(map[string]float64{"NaN": math.NaN(), "Infinity": math.Inf(1), "-Infinity": math.Inf(-1)}[s]), nil
		}
		err = json.Unmarshal(raw, &f)
		return parquet.DoubleValue(f), err
	case "timestamp with time zone":
		s, _ := text(raw)
		return timeValue(s)
	case "json", "jsonb":
		return parquet.ByteArrayValue(raw), nil
	}
	if s, ok := text(raw); ok {
		return parquet.ByteArrayValue([]byte(s)), nil
	}
	return parquet.ByteArrayValue(raw), nil
}

func text(raw json.RawMessage) (s string, ok bool) { return s, json.Unmarshal(raw, &s) == nil }

// timeValue is in microseconds, and for the infinities what Postgres itself stores.
func timeValue(s string) (parquet.Value, error) {
	switch s {
	case "infinity":
		return parquet.Int64Value(math.MaxInt64), nil
	case "-infinity":
		return parquet.Int64Value(math.MinInt64), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	return parquet.Int64Value(t.UnixMicro()), err
}

// groupBytes is from how much JSON on a row group is written, which is in memory until then.
const groupBytes = 32 << 20

// toParquet writes a file of JSON lines anew, beside it, and removes it once the new one is on
// disk. It returns the new one's path, or an error, and leaves the old one, if anything goes
// wrong.
func toParquet(path string, columns []column) (target string, err error) {
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = in.Close() }() // was only read
	target = strings.TrimSuffix(path, ".ndjson") + ".parquet"
	part := target + ".part"
	out, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(part)
		}
	}()
	if err := errors.Join(writeParquet(out, in, columns), out.Sync(), out.Close()); err != nil {
		return "", err
	}
	if err := os.Rename(part, target); err != nil {
		return "", err
	}
	return target, os.Remove(path)
}

func writeParquet(out io.Writer, in io.Reader, columns []column) error {
	group := parquet.Group{}
	for _, c := range columns {
		group[c.Name] = parquet.Optional(c.node())
	}
	w := parquet.NewWriter(out, parquet.NewSchema("outbox", group), parquet.Compression(&parquet.Zstd))
	lines := bufio.NewReaderSize(in, 1<<20)
	for n, held := 1, 0; ; n++ {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return w.Close()
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		row, err := parquetRow(line, columns)
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if _, err := w.WriteRows([]parquet.Row{row}); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if held += len(line); held >= groupBytes {
			held = 0
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
}

func parquetRow(line []byte, columns []column) (parquet.Row, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return nil, err
	}
	row := make(parquet.Row, len(columns))
	for i, c := range columns {
		v, err := c.value(fields[c.Name])
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", c.Name, err)
		}
		defined := 1
		if v.IsNull() {
			defined = 0
		}
		row[i] = v.Level(0, defined, i)
	}
	return row, nil
}
