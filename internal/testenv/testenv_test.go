package testenv

import (
	"errors"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// need ends the test if err is not nil: it skips it if this machine has no such
// server, unless servers are required.
func need(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if errors.Is(err, ErrUnavailable) && os.Getenv("CI") != "true" && os.Getenv("WALPOST_TEST_REQUIRE") != "1" {
		t.Skip(err)
	}
	t.Fatal(err)
}
