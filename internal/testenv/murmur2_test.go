package testenv

import (
	"testing"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestJavaPartitions(t *testing.T) {
	keys, err := JavaPartitions()
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) < 300 {
		t.Errorf("got %d keys, want 300 or more", len(keys))
	}
	partitioner := kgo.StickyKeyPartitioner(nil).ForTopic("any") // the Java client's, says its comment
	planes, notText := map[rune]bool{}, 0
	for _, k := range keys {
		for _, r := range string(k.Key) {
			planes[r>>16] = true
		}
		if !utf8.Valid(k.Key) {
			notText++
		}
		for _, count := range []int32{1, 3, 12, 50} {
			want, ok := k.Partition[count]
			if got := partitioner.Partition(&kgo.Record{Key: k.Key}, int(count)); !ok || got != int(want) {
				t.Errorf("key %x of %d: partitioner has %d, table has %d, %v", k.Key, count, got, want, ok)
			}
		}
	}
	if len(planes) != 17 || notText < 50 {
		t.Errorf("got keys of %d planes and %d that are not text, want 17 and 50 or more", len(planes), notText)
	}
}

func TestJavaPartitionRefuses(t *testing.T) {
	for name, fields := range map[string][]string{
		"too few":    {"00"},
		"not hex":    {"0x", "1"},
		"not number": {"00", "one"},
	} {
		if p, err := javaPartition(fields, []int32{3}); err == nil {
			t.Errorf("%s: got %v, want an error", name, p)
		}
	}
}
