package outbox

import (
	"fmt"
	"strings"

	"github.com/walpost/walpost/pkg/cdc"
)

// placement is a column that goes into a record beside key and value.
type placement struct {
	column    string
	name      string // of the header, or in the envelope
	envelope  bool   // no header, but part of the value
	partition bool   // no header, but the number of the partition
}

const placeHint = "write column:header[:alias], column:envelope[:alias] or column:partition"

// parsePlacements reads Debezium's syntax. Like Debezium it takes several
// placements with commas between them, spaces around a part, and the kind in
// any case.
func parsePlacements(list []string) ([]placement, []error) {
	var (
		places []placement
		errs   []error
		seen   bool                // a partition
		names  = map[string]bool{} // in the envelope
	)
	for _, s := range strings.Split(strings.Join(list, ","), ",") {
		if len(list) == 0 {
			break
		}
		p, err := parsePlacement(s)
		if err == nil && p.partition && seen {
			err = problem("place", "keep one of them", "%q: another column is the partition already", strings.TrimSpace(s))
		}
		if err == nil && p.envelope && (names[p.name] || p.name == "payload") {
			err = problem("place", "give it another alias", "%q: the envelope has a field %q already", strings.TrimSpace(s), p.name)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		seen = seen || p.partition
		names[p.name] = names[p.name] || p.envelope
		places = append(places, p)
	}
	return places, errs
}

func parsePlacement(s string) (placement, error) {
	s = strings.TrimSpace(s)
	parts := strings.Split(s, ":")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
		if parts[i] == "" {
			return placement{}, problem("place", placeHint, "%q: a part is empty", s)
		}
	}
	if len(parts) < 2 || len(parts) > 3 {
		return placement{}, problem("place", placeHint, "%q: want two or three parts with colons between them, got %d", s, len(parts))
	}
	p := placement{column: parts[0], name: parts[len(parts)-1]}
	if len(parts) == 2 {
		p.name = p.column
	}
	switch strings.ToLower(parts[1]) {
	case "header":
	case "partition":
		if len(parts) == 3 {
			return placement{}, problem("place", "remove the alias", "%q: a partition takes no alias", s)
		}
		p.name, p.partition = "", true
	case "envelope":
		p.envelope = true
	default:
		return placement{}, problem("place", placeHint, "%q: unknown place %q", s, parts[1])
	}
	return p, nil
}

// problem is a mistake in the setting outbox.<key>.
func problem(key, hint, format string, args ...any) error {
	return cdc.Refuse(hint, "outbox.%s: %w", key, fmt.Errorf(format, args...))
}
