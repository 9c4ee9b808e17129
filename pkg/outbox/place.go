package outbox

import (
	"fmt"
	"strings"

	"github.com/walpost/walpost/pkg/cdc"
)

// placement is a column that goes into a record beside key and value.
type placement struct {
	column    string
	header    string // the header's name
	partition bool   // no header, but the number of the partition
}

const placeHint = "write column:header, column:header:alias or column:partition"

// parsePlacements reads Debezium's syntax. Like Debezium it takes several
// placements with commas between them, spaces around a part, and the kind in
// any case.
func parsePlacements(list []string) ([]placement, []error) {
	var (
		places []placement
		errs   []error
		seen   bool // a partition
	)
	for _, s := range strings.Split(strings.Join(list, ","), ",") {
		if len(list) == 0 {
			break
		}
		p, err := parsePlacement(s)
		if err == nil && p.partition && seen {
			err = problem("place", "keep one of them", "%q: another column is the partition already", strings.TrimSpace(s))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		seen = seen || p.partition
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
	p := placement{column: parts[0], header: parts[len(parts)-1]}
	switch strings.ToLower(parts[1]) {
	case "header":
		if len(parts) == 2 {
			p.header = p.column
		}
	case "partition":
		if len(parts) == 3 {
			return placement{}, problem("place", "remove the alias", "%q: a partition takes no alias", s)
		}
		p.header, p.partition = "", true
	case "envelope":
		return placement{}, problem("place", "place the column in a header", "%q: the envelope is not supported yet", s)
	default:
		return placement{}, problem("place", placeHint, "%q: unknown place %q", s, parts[1])
	}
	return p, nil
}

// problem is a mistake in the setting outbox.<key>.
func problem(key, hint, format string, args ...any) error {
	return cdc.Refuse(hint, "outbox.%s: %w", key, fmt.Errorf(format, args...))
}
