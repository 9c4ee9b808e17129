package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The rates that are no numbers.
const (
	rateRamp = "ramp"
	ratePull = "ramp-pull"
)

// noBacklogs is the word for none of the workloads.
const noBacklogs = "none"

// The growth that is no list of workloads.
const (
	growthAway   = "brokers away"
	growthShards = "shards"
)

// selected reports whether one of the comma-separated words is part of name.
func selected(words, name string) bool {
	return words == "" || slices.ContainsFunc(strings.Split(words, ","), func(w string) bool { return strings.Contains(name, w) })
}

// judge refuses words that select nothing, before anything is started.
func (b *bench) judge() error {
	var backlogs, contenders []string
	for _, c := range b.allContenders() {
		contenders = append(contenders, c.name)
	}
	all := workloads
	if b.growth {
		all, backlogs = growth(), []string{growthAway, growthShards}
	}
	for _, w := range all {
		backlogs = append(backlogs, w.Name)
	}
	if !b.growth {
		backlogs = append(backlogs, noBacklogs)
	}
	err := errors.Join(selectsEach("-workloads", b.workloads, backlogs), selectsEach("-contenders", b.settings.contenders, contenders), judgeRates(b.rates))
	if err == nil && !b.growth && b.workloads == noBacklogs && b.rates == "" {
		err = errors.New("nothing is selected: -workloads none leaves out the backlogs, and -rates is empty")
	}
	return err
}

// selectsEach refuses each of the words that is part of no name.
func selectsEach(flag, words string, names []string) error {
	if words == "" {
		return nil
	}
	var errs []error
	for word := range strings.SplitSeq(words, ",") {
		if word == "" || !slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, word) }) {
			errs = append(errs, fmt.Errorf("%s: %q selects nothing: there are %s", flag, word, strings.Join(names, ", ")))
		}
	}
	return errors.Join(errs...)
}

// judgeRates refuses each rate that there is not.
func judgeRates(rates string) error {
	if rates == "" {
		return nil
	}
	var errs []error
	for rate := range strings.SplitSeq(rates, ",") {
		n, err := strconv.Atoi(rate)
		if rate != rateRamp && rate != ratePull && (err != nil || n < 1) {
			errs = append(errs, fmt.Errorf("-rates: %q is no rate: want events per second, %s or %s", rate, rateRamp, ratePull))
		}
	}
	return errors.Join(errs...)
}
