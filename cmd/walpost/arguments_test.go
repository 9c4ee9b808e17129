package main

import (
	"strings"
	"testing"
)

// What is wrong with a command line is told without a server, all of it, and ends with exit
// code 2.
func TestArgumentsBeforeServer(t *testing.T) {
	long := strings.Repeat("s", 60)
	for _, tt := range []struct {
		name, args string
		want       []string // a line each
	}{
		{"purge without an age", "purge", []string{"give --older-than, or set purge.older_than"}},
		{"purge of what age", "purge --older-than soon", []string{`--older-than: "soon" is not a duration`}},
		{"no LSN to set", "checkpoint set here", []string{`parse LSN "here"`}},
		{"slot is the store", "checkpoint set 0/1000 --checkpoint.store slot", []string{"checkpoint.store slot takes no position by hand"}},
		{"no name, and nowhere", "bookmark create No --at once", []string{`bookmark "No": want 1 to 32`, `--at "once": want checkpoint or now`}},
		{"the window", "bookmark create window", []string{"is the service's own"}},
		{"a long name", "bookmark create b --slot " + long, []string{"longer than the 63 bytes"}},
		{"advance what where", "bookmark advance No --to there", []string{`bookmark "No": want 1 to 32`, `--to: parse LSN "there"`}},
		{"drop what", "bookmark drop No", []string{`bookmark "No": want 1 to 32`}},
		{"purge by a negative age", "purge --older-than=-36h", []string{`--older-than: "-36h" is negative`}},
		{"purge by a negative rest", "purge --older-than 1d-36h", []string{`--older-than: "1d-36h" is negative`}},
		{"rows backwards", "replay --source table --from -2h --to -3h", []string{"--to is before --from"}},
		{"replay of nothing", "replay", []string{"give --from, or --resume"}},
		{"replay with all wrong", "replay --source tape --order-by at --from x/y --to -soon --timestamp then --rate=-1", []string{
			`--source "tape": want wal or table`, "--order-by goes with --source table only", `--from: parse LSN "x/y"`,
			`--to: "-soon" is no time ago`, `--timestamp "then": want commit or now`, "--rate -1: want 0 or more",
		}},
		{"order of WAL", "replay --from -1h --order-by at", []string{"--order-by goes with --source table only"}},
		{"no bookmark's name", "replay --from Yesterday --rate NaN", []string{`--from: "Yesterday" is no LSN, no time and no bookmark`, "--rate NaN"}},
		{"rows without a time", "replay --source table --from 0/100 --to end", []string{`--from "0/100" is no time`, `--to "end" is no time`}},
		{"resume from", "replay --resume x --from y", []string{"--resume goes on with what the replay was begun with: leave out --from\n"}},
		{"resume with all", "replay --resume x --from a/b --to y --key k --type t --topic u --into v --dry-run", []string{"leave out --from, --to, --key, --type, --topic, --into, --dry-run\n"}},
		{"resume a table", "replay --resume x --source table", []string{"--resume does not go with --source table"}},
		{"partitioned by what", "init --partitioned month", []string{`partitioned "month": want day or week`}},
		{"partitioned by what, for shards", "init --partitioned month --shards 3 --role r", []string{`partitioned "month": want day or week`}},
		{"a long role of shards", "init --shards 2 --partitioned year --role " + long + "four", []string{`role "` + long, `partitioned "year"`}},
		{"take over no slot", "init --take-over No", []string{`slot "No": only`}},
		{"ways that exclude each other", "init --take-over other --shards 3 --print", []string{"--take-over excludes --shards, --print\n"}},
		{"clean and measure", "bench --clean --rate 5", []string{"--clean excludes --rate\n"}},
		{"two examples", "config --example --from-debezium x", []string{"--example excludes --from-debezium\n"}},
		{"argument for none", "config show", []string{"walpost config takes no arguments, and got \"show\"\n"}},
		{"flags that are not", "status --nosuch --slot --x --watch --intance=a -o json --admin.lisen a", []string{"--nosuch: unknown flag", "--intance: unknown flag", "--admin.lisen: unknown flag"}},
		{"flag before the command", "--verbose run --slot x", []string{"--verbose: unknown flag"}},
		{"value of a short flag", "status -o --x --nosuch", []string{"--nosuch: unknown flag"}},
		{"take over into a slot", "init --take-over other --checkpoint.store slot", []string{"checkpoint.store slot takes no position by hand"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append(strings.Fields(tt.args), "--dsn", "host=127.0.0.1 port=1 connect_timeout=1")
			_, stderr, code := walpost(t, args...)
			if code != exitInvalid {
				t.Errorf("exit %d, want %d", code, exitInvalid)
			}
			for _, want := range tt.want {
				if strings.Count(stderr, want) != 1 {
					t.Errorf("got %q %d times, want it once", want, strings.Count(stderr, want))
				}
			}
			problems := strings.Count(stderr, "walpost: ") - strings.Count(stderr, "walpost: hint: ")
			if problems != len(tt.want) || t.Failed() {
				t.Errorf("got %d problems, want %d:\n%s", problems, len(tt.want), stderr)
			}
		})
	}
}
