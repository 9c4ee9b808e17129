package inspect

import (
	"cmp"
	"context"
	"slices"

	"github.com/dustin/go-humanize"

	"github.com/walpost/walpost/internal/bookmark"
)

// bookmarks sees whether one is lost, or will be, as it keeps more than the server lets it.
func (p *Postgres) bookmarks(ctx context.Context) (*Check, error) {
	all, err := bookmark.List(ctx, p.Conn, p.Slot)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	keep, err := p.keepSize(ctx)
	if err != nil {
		return nil, err
	}
	first := func(is func(bookmark.Bookmark) bool) *bookmark.Bookmark {
		if i := slices.IndexFunc(all, is); i >= 0 {
			return &all[i]
		}
		return nil
	}
	if b := first(func(b bookmark.Bookmark) bool { return !b.Usable }); b != nil {
		return fail("walpost bookmark drop "+b.Name, "bookmark %q is lost: %s", b.Name, b.Status)
	}
	if b := first(func(b bookmark.Bookmark) bool { return b.Status == "unreserved" }); b != nil {
		return fail(lighten(b), "bookmark %q keeps %s, more than max_slot_wal_keep_size: the server may remove it at the next checkpoint", b.Name, retained(b))
	}
	most := slices.MaxFunc(all, func(a, b bookmark.Bookmark) int { return cmp.Compare(a.Retained, b.Retained) })
	if keep >= 0 && most.Retained > keep/2 {
		return warn(lighten(&most), "bookmark %q keeps %s of %s that a slot may, and is lost beyond that", most.Name, retained(&most), humanize.IBytes(uint64(keep)))
	}
	return ok("%d, of which %q keeps most, %s", len(all), most.Name, retained(&most))
}

func retained(b *bookmark.Bookmark) string { return humanize.IBytes(uint64(max(0, b.Retained))) }

// lighten says how a bookmark is made to keep less.
func lighten(b *bookmark.Bookmark) string {
	if b.Name == bookmark.WindowName {
		return "lower replay.window or replay.max_bytes, or raise max_slot_wal_keep_size"
	}
	return "walpost bookmark advance " + b.Name + ", or drop it, or raise max_slot_wal_keep_size"
}
