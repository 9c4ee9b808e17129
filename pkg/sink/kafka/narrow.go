package kafka

// A broker that refuses a batch does not say which of its records is at fault,
// nor how large a batch it would take. The client library then fails all that
// waits for the partition, and would send what comes after. So the sink lets it
// send nothing more, takes all that it fails back, and sends that again, in
// order, with smaller batches: until the broker takes them, or refuses a record
// in a batch of its own.

// divisor is what a refused batch is divided by. Half would waste less room
// when the limit is found, and take twice as many rounds to a single record.
const divisor = 4

// suspects are the records of one partition that were failed for a refusal. The
// first is also the first of the refused batch; where that ended is not known.
type suspects struct {
	first *delivery
	next  *delivery // the one behind it; nil if there is none
	count int
	bytes int64 // of a batch that would hold them all, at most
}

// place is a partition.
type place struct {
	topic     *topic
	partition int32
}

// narrow lowers the limits of the topics that a batch in queue was refused for.
// If such a batch held one record only, it returns that, and the error to fail
// it with.
func (s *Sink) narrow(queue []*delivery) (culprit *delivery, err error) {
	limits := make(map[*topic]int32)
	for _, sus := range accuse(queue) {
		t, own := sus.first.topic, batchSize(sus.first.record)
		refusal := sus.first.refusal
		if sus.alone(t.batch()) {
			return sus.first, refused(t.name, own, refusal)
		}
		limit := max(int32(own), int32(min(int64(t.batch()), sus.bytes)/divisor))
		if lowest, ok := limits[t]; !ok || limit < lowest {
			limits[t] = limit
		}
		s.health.warn("refused "+t.name, "broker refused a batch, sending its records in smaller ones",
			"topic", t.name, "max_batch_bytes", limit, "err", refusal)
	}
	for t, limit := range limits {
		t.limit.Store(limit)
	}
	for _, d := range queue {
		d.refusal = nil
	}
	return nil, nil
}

// alone reports whether the first was in a batch of its own: with the next one it
// would have been larger than limit.
func (s *suspects) alone(limit int) bool {
	return s.next == nil || batchSize(s.first.record)+batchSize(s.next.record)-batchOverhead > limit
}

// accuse groups what was refused by partition, in the order of the queue.
func accuse(queue []*delivery) []*suspects {
	var all []*suspects
	of := make(map[place]*suspects)
	for _, d := range queue {
		if d.refusal == nil {
			continue
		}
		p := place{d.topic, d.Partition}
		if of[p] == nil {
			of[p] = &suspects{first: d}
			all = append(all, of[p])
		}
		if of[p].next == nil && d != of[p].first {
			of[p].next = d
		}
		of[p].count++
		of[p].bytes += int64(batchSize(d.record))
	}
	return all
}

// makeRoom raises the limit of d's topic so that a batch can hold d, if it cannot.
// It must be called while feeding, with nothing in flight, and the client be
// replaced after it.
func makeRoom(d *delivery) (raised bool) {
	size := batchSize(d.record)
	if size <= d.topic.batch() {
		return false
	}
	d.topic.limit.Store(int32(size))
	return true
}
