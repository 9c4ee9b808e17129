package testenv

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// postgresImage is the image of a Postgres; its tag is the major version.
const postgresImage = "postgres"

// containerPostgres starts a Postgres in a container.
func containerPostgres(ctx context.Context, cfg PostgresConfig) (*PostgresServer, error) {
	if cfg.Engine == nil {
		return nil, fmt.Errorf("%w: no engine was given", ErrUnavailable)
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	password := newPassword()
	instance, err := cfg.Engine.Create(ctx, Image{
		Name: postgresImage + ":" + cmp.Or(cfg.Version, newestEmbedded),
		Env:  map[string]string{"POSTGRES_PASSWORD": password},
		Files: map[string]string{ // the image runs it once, before the server opens its port
			"/docker-entrypoint-initdb.d/settings.sh": "cat >>\"$PGDATA/postgresql.conf\" <<'END'\n" + confLines(cfg.Settings) + "END\n" + fileLines(cfg.Files),
		},
		Ports: map[int]int{port: 5432},
	})
	if err != nil {
		return nil, err
	}
	s := &PostgresServer{
		Source: Container, dsn: tcpDSN("127.0.0.1", port, password), port: port, timeout: cfg.StartTimeout,
		launch: instance.Start, remove: instance.Remove,
	}
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// fileLines are lines of a shell script that writes files into the data directory.
func fileLines(files map[string]string) string {
	var b strings.Builder
	for name, content := range files {
		fmt.Fprintf(&b, "(umask 077; base64 -d >\"$PGDATA/%s\" <<'END'\n%s\nEND\n)\n", name, base64.StdEncoding.EncodeToString([]byte(content)))
	}
	return b.String()
}
