package harness

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// Page is a page in a real browser without a window, spoken to through pipes in the
// protocol of its developer tools. Its methods are for one goroutine.
// https://chromedevtools.github.io/devtools-protocol/
type Page struct {
	t       testing.TB
	in      *os.File
	out     *bufio.Reader
	id      int
	session string
}

// answer is a message of the browser.
type answer struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *struct{ Message string }
}

// pageTimeout bounds the wait for an answer of the browser.
const pageTimeout = 30 * time.Second

// OpenPage starts the browser at path with a page, and ends it with the test.
func OpenPage(t testing.TB, path, url string) *Page {
	t.Helper()
	read, in, err := os.Pipe()
	if err == nil {
		var out, write *os.File
		if out, write, err = os.Pipe(); err == nil {
			return openPage(t, path, url, []*os.File{read, write}, in, out)
		}
	}
	t.Fatal(err)
	return nil
}

func openPage(t testing.TB, path, url string, theirs []*os.File, in, out *os.File) *Page {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--remote-debugging-pipe", "--user-data-dir="+t.TempDir(), "about:blank")
	cmd.ExtraFiles, cmd.WaitDelay = theirs, 10*time.Second // as descriptors 3 and 4
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range theirs {
		_ = f.Close() // the browser has its own
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
		_ = in.Close()
		_ = out.Close()
	})
	_ = out.SetReadDeadline(time.Now().Add(2 * time.Minute)) // pipes take one
	p := &Page{t: t, in: in, out: bufio.NewReader(out)}
	var target struct{ TargetID string }
	p.call("Target.createTarget", map[string]any{"url": url}, &target)
	var attached struct{ SessionID string }
	p.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	p.session = attached.SessionID
	return p
}

// call asks the browser, and passes over what it says by itself.
func (p *Page) call(method string, params map[string]any, result any) {
	p.t.Helper()
	p.id++
	request := map[string]any{"id": p.id, "method": method, "params": params}
	if p.session != "" {
		request["sessionId"] = p.session
	}
	data, err := json.Marshal(request)
	if err == nil {
		_, err = p.in.Write(append(data, 0))
	}
	if err != nil {
		p.t.Fatalf("%s: %v", method, err)
	}
	for deadline := time.Now().Add(pageTimeout); time.Now().Before(deadline); {
		data, err := p.out.ReadBytes(0)
		if err != nil {
			p.t.Fatalf("%s: %v", method, err)
		}
		var a answer
		if err := json.Unmarshal(data[:len(data)-1], &a); err != nil {
			p.t.Fatalf("%s: %v", method, err)
		}
		if a.ID != p.id {
			continue
		}
		if a.Error != nil {
			p.t.Fatalf("%s: %s", method, a.Error.Message)
		}
		if err := json.Unmarshal(a.Result, result); err != nil {
			p.t.Fatalf("%s: %v", method, err)
		}
		return
	}
	p.t.Fatalf("%s: no answer", method)
}

// Eval returns what an expression of JavaScript comes to in the page, as text.
func (p *Page) Eval(expression string) string {
	p.t.Helper()
	var evaluated struct {
		Result           struct{ Value any }
		ExceptionDetails *struct{ Text string }
	}
	p.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &evaluated)
	if evaluated.ExceptionDetails != nil {
		p.t.Fatalf("%s: %s", expression, evaluated.ExceptionDetails.Text)
	}
	return fmt.Sprint(evaluated.Result.Value)
}

// Resize makes the page's window so large, in pixels.
func (p *Page) Resize(width, height int) {
	p.t.Helper()
	p.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, new(struct{}))
}

// Press presses and releases a key that has a name, as Tab or Enter.
func (p *Page) Press(key string) {
	p.t.Helper()
	codes := map[string]int{"Tab": 9, "Enter": 13}
	texts := map[string]string{"Enter": "\r"}
	for _, kind := range []string{"keyDown", "keyUp"} {
		p.call("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": codes[key], "text": texts[key]}, new(struct{}))
	}
}
