package pgsource

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// NameStandbys is the way out for who has made walpost a synchronous standby.
const NameStandbys = "name the standbys alone in synchronous_standby_names, by the application_name of each, as in 'FIRST 1 (standby1, standby2)', and SELECT pg_reload_conf()"

// Synchronous reports whether synchronous_standby_names, which it returns, names whoever connects with
// the session's application_name, as '*' does. The server takes the reader of a logical slot for a standby like
// any other, which has flushed what is confirmed: commits then wait until their events, and all before
// them, are in Kafka, and what walpost waits for may wait for walpost.
// https://github.com/postgres/postgres/blob/REL_18_STABLE/src/backend/replication/syncrep.c, SyncRepGetStandbyPriority
func Synchronous(ctx context.Context, conn *pgx.Conn) (named bool, setting string, err error) {
	var application string
	const query = "SELECT current_setting('synchronous_standby_names'), current_setting('application_name')"
	if err := conn.QueryRow(ctx, query).Scan(&setting, &application); err != nil {
		return false, "", fmt.Errorf("read synchronous_standby_names: %w", err)
	}
	for _, name := range standbyNames(setting) {
		if name == "*" || strings.EqualFold(name, application) {
			return true, setting, nil
		}
	}
	return false, setting, nil
}

// standbyNames returns the names in a synchronous_standby_names, which the server has accepted.
func standbyNames(setting string) (names []string) {
	for setting = strings.TrimSpace(setting); setting != ""; setting = strings.TrimSpace(setting) {
		switch setting[0] {
		case '(': // what was before is how many
			names, setting = nil, setting[1:]
		case ')', ',':
			setting = setting[1:]
		case '"':
			end := 1
			for end < len(setting) && (setting[end] != '"' || strings.HasPrefix(setting[end:], `""`)) {
				if setting[end] == '"' {
					end++
				}
				end++
			}
			names = append(names, strings.ReplaceAll(setting[1:min(end, len(setting))], `""`, `"`))
			setting = setting[min(end+1, len(setting)):]
		default:
			end := strings.IndexAny(setting, "(),\" \t\r\n")
			if end < 0 {
				end = len(setting)
			}
			names, setting = append(names, setting[:end]), setting[end:]
		}
	}
	return names
}

// warnSynchronous says once, for each value of the setting, that walpost holds commits up.
func (s *Source) warnSynchronous(ctx context.Context, conn *pgx.Conn) error {
	named, setting, err := Synchronous(ctx, conn)
	if err != nil {
		return err
	}
	if !named {
		setting = ""
	}
	if setting != "" && setting != s.synchronous {
		s.cfg.Logger.Warn("the server may take walpost for a synchronous standby: commits then wait for Kafka, and may wait without end",
			"synchronous_standby_names", setting, "hint", NameStandbys)
	}
	s.synchronous = setting
	return nil
}
