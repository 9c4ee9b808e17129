#!/usr/bin/env bash
# Shows that the tests see faults: plants each mutant of this folder in a copy of
# the tree, runs the crash harness and, if that has not seen it, the packages' own
# suites, and prints who did. Ends with 1 if one was missed.
#
# Of the faults only those are taken that a mutant's file names, so that it does not
# take hours; -a takes all. The guarantee is at-least-once, without shards, or what the
# file names.
#
#   test/mutants/run.sh [-a] [-f FAULTS] [-s SEED] [NAME...]
set -euo pipefail

all= faults=40 seed=1
while getopts 'af:s:' option; do
	case $option in
	a) all=1 ;;
	f) faults=$OPTARG ;;
	s) seed=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# caught BY FINDING COMMAND... runs a test, and says by whom the mutant is caught if it
# fails with a line that FINDING matches, and shows the first of them. A test that fails
# without one, as when a server does not start, has not caught it.
caught() {
	local by=$1 finding=$2
	shift 2
	if (cd "$work/tree" && "$@") >"$work/log" 2>&1; then
		return 1
	fi
	if ! grep -qE "$finding" "$work/log"; then
		echo "$by failed and found nothing:" && tail -n 5 "$work/log"
		return 1
	fi
	echo "caught by $by"
	grep -E "$finding" "$work/log" | head -n 4 | cut -c1-250 | sed 's/^ */    /' || true # head ends the pipe
}

# What the harness finds: of events and positions, or that a fault was not survived.
verdict='_test\.go:[0-9]+: (lost|invented|reordered|changed|misplaced|saved early|confirmed early|repeated for no reason|peak RSS|seed [0-9]+ block)'

missed=0
for patch in "$here"/*.patch; do
	name=$(basename "$patch" .patch)
	if [ $# -gt 0 ] && [[ " $* " != *" $name "* ]]; then
		continue
	fi
	rm -rf "$work/tree" && mkdir "$work/tree"
	(cd "$root" && git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf -) | tar -x -C "$work/tree"
	printf '%s: ' "$name"
	if ! (cd "$work/tree" && patch -F0 -s -p1 <"$patch"); then
		echo "does not apply any more"
		missed=1
		continue
	fi
	if ! (cd "$work/tree" && go build ./...); then
		echo "does not build: a test that fails would show nothing"
		missed=1
		continue
	fi
	only=
	[ -n "$all" ] || only=$(sed -n 's/^Faults: //p' "$patch")
	guarantee=$(sed -n 's/^Guarantee: //p' "$patch")
	shards=$(sed -n 's/^Shards: //p' "$patch")
	caught "the crash harness" "$verdict" go test -count=1 -timeout 60m -failfast -v ./test/crash -faults "$faults" -guarantee "${guarantee:-at-least-once}" -shards "${shards:-1}" -seed "$seed" -only "$only" ||
		caught "the packages' tests" '^ *--- FAIL|^panic:' go test -count=1 -timeout 10m -failfast ./pkg/... ||
		{ echo "missed" && missed=1; }
done
exit $missed
