package config

import (
	"fmt"
	"regexp"
	"strconv"
)

// MaxShards is how many shards there may be: each decodes all of the WAL.
const MaxShards = 64

// Shard is an instance's share of the keys: those whose hash modulo Count is Index. The
// zero Shard is all of them.
type Shard struct{ Index, Count int }

// ParseShard reads i/K, with i from 0 to K-1 and K from 1 to MaxShards.
func ParseShard(s string) (Shard, error) {
	const want = "i/K, with i from 0 to K-1 and K at most 64"
	m := shardPattern.FindStringSubmatch(s)
	if m == nil {
		return invalid[Shard](strconv.Quote(s)+" is not a shard", want)
	}
	index, _ := strconv.Atoi(m[1]) // two digits each
	count, _ := strconv.Atoi(m[2])
	if count < 1 || count > MaxShards || index >= count {
		return invalid[Shard](strconv.Quote(s)+" is not a shard", want)
	}
	return Shard{index, count}, nil
}

var shardPattern = regexp.MustCompile(`^([0-9]{1,2})/([0-9]{1,2})$`)

// String returns i/K, or nothing for all keys.
func (s Shard) String() string {
	if s.Count == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d", s.Index, s.Count)
}

// Name returns the name of the shard's own slot or publication.
func (s Shard) Name(base string) string {
	if s.Count == 0 {
		return base
	}
	return fmt.Sprintf("%s_%d_of_%d", base, s.Index, s.Count)
}

// optionalShard takes what ParseShard does, or nothing.
var optionalShard = parser[Shard]{kind: kindText, parse: func(s string) (Shard, error) {
	if s == "" {
		return Shard{}, nil
	}
	return ParseShard(s)
}}

// choose puts the shard's own names in the place of those of all keys.
func (p *Postgres) choose() {
	if p.Shard.Count == 0 {
		return
	}
	p.base = struct{ publication, slot string }{p.Publication, p.Slot}
	p.Publication, p.Slot = p.Shard.Name(p.Publication), p.Shard.Name(p.Slot)
}

// Shards returns the configuration of each shard of as many as c is one of, or c alone.
func (c Config) Shards() []Config {
	if c.Postgres.Shard.Count == 0 {
		return []Config{c}
	}
	all := make([]Config, c.Postgres.Shard.Count)
	for i := range all {
		p := c.Postgres
		p.Shard.Index = i
		p.Publication, p.Slot = p.base.publication, p.base.slot
		p.choose()
		all[i] = c
		all[i].Postgres = p
	}
	return all
}

// tooLong reports whether the shard's own names are longer than Postgres takes.
func (s Shard) tooLong(c *Config) bool {
	return len(s.Name(c.Postgres.Publication)) > maxName || len(s.Name(c.Postgres.Slot)) > maxName
}
