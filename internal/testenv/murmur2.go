package testenv

import (
	_ "embed"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

//go:embed testdata/murmur2.tsv
var murmur2Table string

// JavaPartition is where Kafka's Java client puts a key.
type JavaPartition struct {
	Key []byte

	// Partition is the partition by the number of partitions.
	Partition map[int32]int32
}

// JavaPartitions returns some 300 keys of every kind. They were made with
// testdata/murmur2.sh.
func JavaPartitions() ([]JavaPartition, error) {
	header, rows, _ := strings.Cut(strings.TrimSuffix(murmur2Table, "\n"), "\n")
	counts, err := numbers(strings.Split(header, "\t")[1:])
	if err != nil {
		return nil, err
	}
	var all []JavaPartition
	for row := range strings.SplitSeq(rows, "\n") {
		p, err := javaPartition(strings.Split(row, "\t"), counts)
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", row, err)
		}
		all = append(all, p)
	}
	return all, nil
}

func javaPartition(fields []string, counts []int32) (JavaPartition, error) {
	if len(fields) != 1+len(counts) {
		return JavaPartition{}, fmt.Errorf("got %d fields, want %d", len(fields), 1+len(counts))
	}
	key, err := hex.DecodeString(fields[0])
	if err != nil {
		return JavaPartition{}, err
	}
	partitions, err := numbers(fields[1:])
	if err != nil {
		return JavaPartition{}, err
	}
	p := JavaPartition{Key: key, Partition: make(map[int32]int32, len(counts))}
	for i, count := range counts {
		p.Partition[count] = partitions[i]
	}
	return p, nil
}

func numbers(fields []string) ([]int32, error) {
	all := make([]int32, len(fields))
	for i, field := range fields {
		n, err := strconv.ParseInt(field, 10, 32)
		if err != nil {
			return nil, err
		}
		all[i] = int32(n)
	}
	return all, nil
}
