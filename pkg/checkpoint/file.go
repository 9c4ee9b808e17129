package checkpoint

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/walpost/walpost/pkg/cdc"
)

// FileConfig holds a File store's settings.
type FileConfig struct {
	// Path names the file. Its folder must exist, on a disk of this machine,
	// and takes two files more: Path with .lock, which is never removed, and
	// with .tmp while the file is written. Required.
	Path string

	// Slot is the name of the slot whose checkpoint this is. A file of another
	// slot is refused. Required.
	Slot string

	// Owner says who acquired the checkpoint, for people who read the file.
	// Defaults to host/pid.
	Owner string
}

// File keeps the checkpoint in a JSON file, which is replaced as a whole. The
// processes of one machine may share it: a lock is held while it is changed, and
// its epoch fences who acquired it earlier. A context bounds the wait for the
// lock; what is written to the disk is not interrupted.
//
// A file outlives a failover of the database that loses transactions, and then
// points behind them: the start is refused, and somebody must decide.
//
// Its errors are [cdc.RefusedError] if the file cannot be read or the folder
// cannot be written to, [cdc.ErrFenced], and else those of package os.
type File struct {
	path, slot, owner string
	epoch             atomic.Int64 // of the last Acquire; zero before it, which no file has
	closed            atomic.Bool
}

// content is what is in the file.
type content struct {
	Slot  string `json:"slot"`
	Owner string `json:"owner"`
	cdc.Checkpoint
}

// NewFile returns a store that has not touched the file yet. The error lists all
// that is wrong with cfg.
func NewFile(cfg FileConfig) (*File, error) {
	var noPath error
	if cfg.Path == "" {
		noPath = errors.New("path is empty")
	}
	if err := errors.Join(noPath, checkSlot(cfg.Slot)); err != nil {
		return nil, err
	}
	return &File{path: cfg.Path, slot: cfg.Slot, owner: cmp.Or(cfg.Owner, defaultOwner())}, nil
}

// Close makes further calls fail. Between calls a File holds nothing open.
func (f *File) Close() error {
	f.closed.Store(true)
	return nil
}

// Load implements [cdc.Store]. The checkpoint of a missing file is a zero one.
// What Load returns may have reached the disk's cache only; Acquire writes it
// again, durably.
func (f *File) Load(ctx context.Context) (cdc.Checkpoint, error) {
	err := f.usable(ctx)
	if err == nil {
		var have content
		if have, err = f.read(); err == nil {
			return have.Checkpoint, nil
		}
	}
	return cdc.Checkpoint{}, fmt.Errorf("load checkpoint of slot %q: %w", f.slot, f.explain(err))
}

// Acquire implements [cdc.Store].
func (f *File) Acquire(ctx context.Context) (cdc.Checkpoint, error) {
	now, err := f.change(ctx, func(have content) (content, error) {
		have.Slot, have.Owner = f.slot, f.owner
		have.Epoch++
		return have, nil
	})
	if err != nil {
		return cdc.Checkpoint{}, fmt.Errorf("acquire checkpoint of slot %q: %w", f.slot, f.explain(err))
	}
	return now.Checkpoint, nil
}

// Save implements [cdc.Store].
func (f *File) Save(ctx context.Context, pos cdc.Position) error {
	_, err := f.change(ctx, func(have content) (content, error) {
		if have.Epoch == 0 || have.Epoch != f.epoch.Load() {
			return content{}, cdc.ErrFenced
		}
		have.Position = further(have.Position, pos)
		have.SavedAt = time.Now().UTC()
		return have, nil
	})
	if err != nil {
		return fmt.Errorf("save checkpoint of slot %q at %s: %w", f.slot, pos.LSN, f.explain(err))
	}
	return nil
}

// further returns the position to keep. Positions are compared within one
// history only; that of another replaces what was there.
func further(have, pos cdc.Position) cdc.Position {
	if have.SystemID == pos.SystemID && have.Timeline == pos.Timeline && have.LSN > pos.LSN {
		return have
	}
	return pos
}

// change replaces what is in the file by what edit makes of it. Nobody else
// changes it meanwhile.
func (f *File) change(ctx context.Context, edit func(content) (content, error)) (content, error) {
	if err := f.usable(ctx); err != nil {
		return content{}, err
	}
	lock, err := lockFile(ctx, f.path+".lock", lockTimeout)
	if err != nil {
		return content{}, err
	}
	defer lock.Close() //nolint:errcheck // nothing was written to it
	have, err := f.read()
	if err != nil {
		return content{}, err
	}
	next, err := edit(have)
	if err != nil {
		return content{}, err
	}
	if err := f.write(next); err != nil {
		return content{}, err
	}
	f.epoch.Store(next.Epoch)
	return next, nil
}

func (f *File) usable(ctx context.Context) error {
	if f.closed.Load() {
		return errClosed
	}
	return context.Cause(ctx)
}

// read returns what is in the file, or zero if there is none.
func (f *File) read() (content, error) {
	data, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return content{}, f.checkFolder()
	}
	if err != nil {
		return content{}, err
	}
	var have content
	if err := json.Unmarshal(data, &have); err != nil {
		return content{}, f.refuseContent(err)
	}
	if have.Epoch < 1 {
		return content{}, f.refuseContent(fmt.Errorf("its epoch is %d", have.Epoch))
	}
	if have.Slot != f.slot {
		return content{}, cdc.Refuse("give each slot a file of its own",
			"read %s: it is the checkpoint of slot %q", f.path, have.Slot)
	}
	return have, nil
}

// checkFolder tells a first start from a folder that is not there, as when a
// disk is not mounted. A checkpoint in it would be overlooked.
func (f *File) checkFolder() error {
	_, err := os.Stat(filepath.Dir(f.path))
	return err
}

func (f *File) refuseContent(err error) error {
	return &cdc.RefusedError{
		Err: fmt.Errorf("read %s: not a checkpoint: %w", f.path, err),
		Hint: fmt.Sprintf("put back a copy of %s, or move it away to start where the slot was last confirmed",
			f.path),
	}
}

func (f *File) write(next content) error {
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	return replace(f.path, append(data, '\n'))
}

// replace makes data the content of the file path. When it returns nil that is
// durable: the data is on disk before the name points to it, and the name is on
// disk after. After an error the file is either as it was or holds all of data.
// The caller holds the lock, so one name for the temporary file is enough, and
// what a crash leaves of it is overwritten.
func replace(path string, data []byte) error {
	temp := path + ".tmp"
	if err := writeSynced(temp, data); err != nil {
		_ = os.Remove(temp) // err says more
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func writeSynced(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// unusable are the errors of a path that no second try can write to.
var unusable = []error{
	fs.ErrPermission, fs.ErrNotExist, syscall.EROFS, syscall.ENOTDIR, syscall.EISDIR,
}

// explain says what can be done about err where the words of the system do not.
func (f *File) explain(err error) error {
	var refused *cdc.RefusedError
	if errors.As(err, &refused) {
		return err
	}
	for _, target := range unusable {
		if errors.Is(err, target) {
			return &cdc.RefusedError{Err: err, Hint: fmt.Sprintf("name a file in a folder that exists "+
				"and that the user who runs walpost can write to, not %s", f.path)}
		}
	}
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("%w: free some space in %s", err, filepath.Dir(f.path))
	}
	return err
}
