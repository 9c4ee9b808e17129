package checkpointtest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
	"github.com/walpost/walpost/pkg/checkpoint/checkpointtest"
)

var kinds = map[string]checkpointtest.Fault{
	"Lost":            checkpointtest.Lost,
	"Persisted":       checkpointtest.Persisted,
	"Silent":          checkpointtest.Silent,
	"PersistedSilent": checkpointtest.PersistedSilent,
}

func always(fault checkpointtest.Fault) func(checkpointtest.Op, cdc.Position) checkpointtest.Fault {
	return func(checkpointtest.Op, cdc.Position) checkpointtest.Fault { return fault }
}

func TestMemory(t *testing.T) {
	checkpointtest.Run(t, func(t *testing.T) checkpointtest.Harness {
		m := checkpointtest.NewMemory()
		h := checkpointtest.Harness{
			Open:   func(*testing.T) cdc.Store { return m.Open() },
			Faults: map[string]func(*testing.T) func(){},
		}
		for name, fault := range kinds {
			h.Faults[name] = func(*testing.T) func() {
				m.SetFault(always(fault))
				return m.Heal
			}
		}
		return h
	})
}

func TestMemoryFaults(t *testing.T) {
	tests := []struct {
		name    string
		stored  bool
		wantErr error
	}{
		{"Lost", false, checkpointtest.ErrFault},
		{"Persisted", true, checkpointtest.ErrFault},
		{"Silent", false, context.DeadlineExceeded},
		{"PersistedSilent", true, context.DeadlineExceeded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := checkpointtest.NewMemory()
				s := m.Open()
				if _, err := s.Acquire(t.Context()); err != nil {
					t.Fatalf("Acquire() = %v", err)
				}
				m.SetFault(always(kinds[tt.name]))
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				pos := cdc.Position{SystemID: 1, Timeline: 1, LSN: 5}
				if err := s.Save(ctx, pos); !errors.Is(err, tt.wantErr) {
					t.Errorf("Save() = %v, want %v", err, tt.wantErr)
				}
				if got := m.Checkpoint().Position == pos; got != tt.stored {
					t.Errorf("stored = %t, want %t", got, tt.stored)
				}
			})
		})
	}
}
