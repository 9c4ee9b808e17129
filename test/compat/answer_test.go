package compat

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/walpost/walpost/pkg/deadletter"
)

// answer is a record that was published. Bytes are as Go quotes them, null is nil.
type answer struct {
	Topic     string       `json:"topic"`
	Partition int32        `json:"partition"`
	Timestamp int64        `json:"timestamp,omitempty"` // ms; only where a column says it
	Key       *string      `json:"key"`
	Value     *string      `json:"value"`
	Headers   [][2]*string `json:"headers"`
}

func quoted(b []byte) *string {
	if b == nil {
		return nil
	}
	s := strconv.Quote(string(b))
	s = s[1 : len(s)-1]
	return &s
}

// collect reads until each row that is wanted has been published, and a moment longer.
func collect(t *testing.T, brokers []string, tables []table, wanted func(row) bool) map[uuid.UUID][]answer {
	t.Helper()
	missing, stamped := map[uuid.UUID]string{}, map[uuid.UUID]bool{}
	for _, tab := range tables {
		for _, r := range tab.rows {
			if wanted(r) {
				missing[tab.id(r)] = tab.setup.name + "/" + r.name
			}
			stamped[tab.id(r)] = tab.setup.name == "timestamp"
		}
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeRegex(), kgo.ConsumeTopics(`^[^_].*`), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.MetadataMaxAge(200*time.Millisecond), kgo.MetadataMinAge(100*time.Millisecond))
	must(t, err)
	defer c.Close()
	got := map[uuid.UUID][]answer{}
	for deadline := time.Now().Add(limit / 2); time.Now().Before(deadline); {
		wait := 500 * time.Millisecond
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		fetches := c.PollFetches(ctx)
		cancel()
		fetches.EachRecord(func(r *kgo.Record) {
			id, a := toAnswer(r)
			if stamped[id] {
				a.Timestamp = r.Timestamp.UnixMilli()
			}
			got[id] = append(got[id], a)
			delete(missing, id)
		})
		if len(missing) == 0 && fetches.NumRecords() == 0 {
			return got
		}
	}
	for _, name := range missing {
		t.Errorf("%s was not published", name)
	}
	return got
}

// address is how Java prints bytes that it does not print.
var address = regexp.MustCompile(`\[B@[0-9a-f]+`)

func toAnswer(r *kgo.Record) (id uuid.UUID, a answer) {
	a = answer{Topic: r.Topic, Partition: r.Partition, Key: quoted(r.Key), Value: quoted(r.Value)}
	if r.Key == nil { // any partition
		a.Partition = -1
	}
	if address.Match(r.Key) { // another key, and partition, each time
		a.Partition, a.Key = -1, quoted(address.ReplaceAll(r.Key, []byte("[B@...")))
	}
	for _, h := range r.Headers {
		key := h.Key
		if strings.HasPrefix(key, "walpost-dlq-") && key != deadletter.HeaderKind && key != deadletter.HeaderReason {
			continue // of this run
		}
		a.Headers = append(a.Headers, [2]*string{&key, quoted(h.Value)})
		if h.Key == "id" && id == uuid.Nil {
			id, _ = uuid.ParseBytes(h.Value) // else it is nobody's
		}
	}
	return id, a
}

// recording is what was recorded of a row.
type recording struct {
	Debezium answer  `json:"debezium"`
	Walpost  *answer `json:"walpost,omitempty"` // where it differs; nil if it publishes nothing
}

func (r recording) walpost() []answer {
	if r.Walpost == nil {
		return nil
	}
	return []answer{*r.Walpost}
}

// recordings are by setup and row.
type recordings map[string]map[string]recording

const recordingFile = "recorded.json"

func readRecorded(t *testing.T) (all recordings) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", recordingFile))
	if os.IsNotExist(err) {
		return recordings{}
	}
	must(t, err)
	must(t, json.Unmarshal(data, &all))
	return all
}

// record keeps what was published.
func record(t *testing.T, tables []table, judged, ours map[uuid.UUID][]answer) recordings {
	t.Helper()
	all := recordings{}
	for _, tab := range tables {
		all[tab.setup.name] = map[string]recording{}
		for _, r := range tab.rows {
			id := tab.id(r)
			if len(judged[id]) != 1 || len(ours[id]) != r.published() {
				t.Fatalf("%s/%s: published %d times by Debezium, and %d times by walpost", tab.setup.name, r.name, len(judged[id]), len(ours[id]))
			}
			rec := recording{Debezium: judged[id][0]}
			if r.differs != "" && !r.unpublished {
				rec.Walpost = &ours[id][0]
			}
			all[tab.setup.name][r.name] = rec
		}
	}
	data, err := json.MarshalIndent(all, "", " ")
	must(t, err)
	must(t, os.WriteFile(filepath.Join("testdata", recordingFile), append(data, '\n'), 0o600))
	return all
}

// report counts what was compared.
type report struct {
	cases, judged, accepted int
	differs                 map[string]int
}

func (r *report) compare(t *testing.T, tab table, recorded recordings, judged, ours map[uuid.UUID][]answer) {
	t.Helper()
	for _, row := range tab.rows {
		name, id := tab.setup.name+"/"+row.name, tab.id(row)
		rec, ok := recorded[tab.setup.name][row.name]
		if !ok {
			t.Errorf("%s has no recorded answer: run make compat-record", name)
			continue
		}
		want := []answer{rec.Debezium}
		if row.differs != "" {
			if want = rec.walpost(); reflect.DeepEqual(want, []answer{rec.Debezium}) || len(want) != row.published() {
				t.Errorf("%s is accepted as different (%s), and is not", name, row.differs)
				continue
			}
			r.accepted++
			r.differs[row.differs]++
		}
		r.cases++
		same(t, name+": walpost", ours[id], want)
		if live, ok := judged[id]; ok {
			r.judged++
			same(t, name+": Debezium now", live, []answer{rec.Debezium})
		}
	}
}

func same(t *testing.T, what string, got, want []answer) {
	t.Helper()
	if len(got) == len(want) && (len(got) == 0 || reflect.DeepEqual(got, want)) {
		return
	}
	text := func(v any) string {
		data, _ := json.Marshal(v)
		if len(data) > 1500 {
			data = append(data[:1500], "..."...)
		}
		return string(data)
	}
	t.Errorf("%s:\n got %s\nwant %s", what, text(got), text(want))
}

func (r *report) print(t *testing.T) {
	t.Helper()
	fmt.Printf("FIGURES compat: %d cases, %d of them compared live with Debezium, %d accepted differences: %v\n", r.cases, r.judged, r.accepted, r.differs)
}
