package pgsource

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/walpost/walpost/internal/testenv/envtest"
	"github.com/walpost/walpost/pkg/cdc"
)

// A slot or publication that is missing beside those of another number of shards is no reason to
// make one more: the hint tells the number that there is.
func TestMissingBesideShards(t *testing.T) {
	db := envtest.NewDatabase(t)
	conn := db.Connect(t)
	base := envtest.Name(t)
	for _, name := range []string{base + "_0_of_3", base + "_1_of_3"} {
		db.Exec(t, "SELECT pg_create_logical_replication_slot('"+name+"', 'pgoutput')")
		db.Exec(t, "CREATE PUBLICATION "+name)
	}
	alone := base + "x" // begins with the same, and is another name
	for _, tt := range []struct{ name, missing, want, not string }{
		{"all keys", base, "set postgres.shard to i/3, with i from 0 to 2", "walpost init"},
		{"another number", base + "_0_of_4", "set postgres.shard to i/3, with i from 0 to 2", "walpost init"},
		{"one of them", base + "_2_of_3", "run walpost init --shards 3 without postgres.shard, or else", "postgres.shard to"},
		{"none like it", alone, "run walpost init, or else", "shard"},
		{"none like its shards", alone + "_0_of_2", "run walpost init --shards 2 without postgres.shard", "i/3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bare := cdc.Refuse("run walpost init, or else", "%q does not exist", tt.missing)
			for _, err := range []error{NoSlot(t.Context(), conn, tt.missing, bare), noPublication(t.Context(), conn, tt.missing, bare)} {
				var refused *cdc.RefusedError
				if !errors.As(err, &refused) || err.Error() != bare.Error() || !strings.Contains(refused.Hint, tt.want) || strings.Contains(refused.Hint, tt.not) {
					t.Errorf("got %v, hint %q, want %q and not %q", err, refused.Hint, tt.want, tt.not)
				}
			}
		})
	}
	if same, others, err := Shards(t.Context(), conn, base+"_2_of_3"); err != nil || !same || len(others) != 0 {
		t.Errorf("got %t, %v, %v for one of the shards, want no others", same, others, err)
	}
	if same, others, err := Shards(t.Context(), conn, base); err != nil || same || !slices.Equal(others, []int{3}) {
		t.Errorf("got %t, %v, %v, want others of 3", same, others, err)
	}
}
