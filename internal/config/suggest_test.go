package config

import "testing"

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"slot", "slot", 0},
		{"slot", "slto", 1},
		{"slot", "slots", 1},
		{"lot", "slot", 1},
		{"slot", "slat", 1},
		{"", "abc", 3},
		{"kitten", "sitting", 3},
	} {
		t.Run(test.a+" "+test.b, func(t *testing.T) {
			if got := distance(test.a, test.b); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
			if got := distance(test.b, test.a); got != test.want {
				t.Errorf("the other way: got %d, want %d", got, test.want)
			}
		})
	}
}

func TestDebeziumKeysNameSettings(t *testing.T) {
	for theirs, ours := range debeziumKeys {
		if settingOf(ours) == nil || settingOf(theirs) != nil {
			t.Errorf("%s: %s is no setting, or theirs is one of ours too", theirs, ours)
		}
	}
}
