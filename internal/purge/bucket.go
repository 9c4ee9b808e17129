package purge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// bucket is a place in a store that speaks S3, for files that are whole.
type bucket struct {
	client       *minio.Client
	name, prefix string
}

const (
	// partBytes is how much of a file is in memory while it is sent.
	partBytes = 8 << 20

	// strayAfter is how old a file must be that another run has left, to be taken along.
	strayAfter = time.Hour
)

// parseBucket reads s3://bucket/prefix.
func parseBucket(s string) (name, prefix string, err error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.RawQuery != "" || u.User != nil {
		return "", "", errors.New("want s3://bucket or s3://bucket/prefix")
	}
	return u.Host, strings.Trim(u.Path, "/"), nil
}

// openBucket asks nobody. Who it is that asks, and where, is said as for the AWS programs:
// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a file of credentials, or the role of the
// machine; AWS_REGION; AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL for another store.
func openBucket(where string) (*bucket, error) {
	name, prefix, err := parseBucket(where)
	if err != nil {
		return nil, err
	}
	env := os.Getenv //nolint:forbidigo // what every program that speaks S3 is told by
	endpoint := cmp.Or(env("AWS_ENDPOINT_URL_S3"), env("AWS_ENDPOINT_URL"), "https://s3.amazonaws.com")
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("the endpoint %q of S3 is no URL", endpoint)
	}
	client, err := minio.New(u.Host, &minio.Options{
		Secure: u.Scheme != "http", Region: cmp.Or(env("AWS_REGION"), env("AWS_DEFAULT_REGION")),
		Creds: credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{}}),
	})
	if err != nil {
		return nil, err
	}
	return &bucket{client: client, name: name, prefix: prefix}, nil
}

// check reports whether the bucket answers, before anything is deleted.
func (b *bucket) check(ctx context.Context) error {
	ok, err := b.client.BucketExists(ctx, b.name)
	if err == nil && !ok {
		err = errors.New("it does not exist")
	}
	if err != nil {
		return fmt.Errorf("archive to bucket %s: %w", b.name, err)
	}
	return nil
}

// move sends files that are whole, and removes each once the store has it. What cannot be
// sent stays.
func (b *bucket) move(ctx context.Context, files []string) error {
	var errs []error
	for _, file := range files {
		key := path.Join(b.prefix, filepath.Base(file))
		_, err := b.client.FPutObject(ctx, b.name, key, file, minio.PutObjectOptions{PartSize: partBytes, NumThreads: 1, SendContentMd5: true})
		if err == nil {
			err = os.Remove(file)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("move %s to bucket %s, it stays for the next purge: %w", file, b.name, err))
		}
	}
	return errors.Join(errs...)
}

// strays returns the files that earlier runs have left in a folder.
func strays(dir string, own []string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		file := filepath.Join(dir, e.Name())
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || time.Since(info.ModTime()) < strayAfter || slices.Contains(own, file) {
			continue // gone, or not one of these
		}
		if ext := filepath.Ext(file); ext == ".ndjson" || ext == ".parquet" {
			found = append(found, file)
		}
	}
	return found, nil
}
