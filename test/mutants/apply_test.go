package mutants

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// Each mutant still applies: run.sh takes long, and is not part of each run.
func TestMutantsApply(t *testing.T) {
	patches, err := filepath.Glob("*.patch")
	if err != nil || len(patches) == 0 {
		t.Fatalf("no mutants: %v", err)
	}
	if _, err := exec.LookPath("patch"); err != nil {
		t.Skip("no patch program is installed")
	}
	for _, patch := range patches {
		cmd := exec.CommandContext(t.Context(), "patch", "--dry-run", "-F0", "-s", "-p1", "-d", "../..", "-i", filepath.Join("test", "mutants", patch))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", patch, err, out)
		}
	}
}
