package inspect

import (
	"os"
	"testing"

	"github.com/walpost/walpost/internal/testenv/envtest"
)

func TestMain(m *testing.M) { os.Exit(envtest.Main(m)) }
