// Package containers runs the servers of
// [github.com/walpost/walpost/internal/testenv] in Docker, through
// testcontainers-go. Only tests import it, so that the product does not carry
// a container engine's client.
package containers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"golang.org/x/sys/unix"

	"github.com/walpost/walpost/internal/testenv"
)

// Docker is the engine that testcontainers-go finds. It implements
// [testenv.Engine].
type Docker struct{}

// Create implements [testenv.Engine]. It pulls the image if it is not there.
func (Docker) Create(ctx context.Context, image testenv.Image) (testenv.Instance, error) {
	provider, err := testcontainers.NewDockerProvider()
	if err == nil {
		err = provider.Health(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: no Docker engine answers: %w", testenv.ErrUnavailable, err)
	}
	created, err := provider.CreateContainer(ctx, request(image))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create container of %s: %w", image.Name, err), provider.Close())
	}
	return &instance{provider: provider, container: created, api: provider.Client(), id: created.GetContainerID()}, nil
}

func request(image testenv.Image) testcontainers.ContainerRequest {
	req := testcontainers.ContainerRequest{
		Image: image.Name,
		Env:   image.Env,
		HostConfigModifier: func(host *container.HostConfig) {
			host.PortBindings = portBindings(image.Ports)
		},
	}
	for _, port := range slices.Sorted(maps.Values(image.Ports)) {
		req.ExposedPorts = append(req.ExposedPorts, strconv.Itoa(port)+"/tcp")
	}
	for path, content := range image.Files {
		req.Files = append(req.Files, testcontainers.ContainerFile{
			Reader: strings.NewReader(content), ContainerFilePath: path, FileMode: 0o755,
		})
	}
	return req
}

func portBindings(ports map[int]int) network.PortMap {
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	bindings := network.PortMap{}
	for outer, inner := range ports {
		port := network.MustParsePort(strconv.Itoa(inner) + "/tcp")
		bindings[port] = []network.PortBinding{{HostIP: loopback, HostPort: strconv.Itoa(outer)}}
	}
	return bindings
}

// instance is one container.
type instance struct {
	provider  *testcontainers.DockerProvider
	container testcontainers.Container
	api       client.APIClient
	id        string
}

// Start implements [testenv.Instance].
func (i *instance) Start(ctx context.Context) (testenv.Process, error) {
	if _, err := i.api.ContainerStart(ctx, i.id, client.ContainerStartOptions{}); err != nil {
		return nil, fmt.Errorf("start container: %w", err)
	}
	p := &process{instance: i, done: make(chan struct{})}
	wait := i.api.ContainerWait(context.WithoutCancel(ctx), i.id, client.ContainerWaitOptions{
		Condition: container.WaitConditionNotRunning,
	})
	go func() {
		defer close(p.done)
		select {
		case <-wait.Result:
		case <-wait.Error: //nolint:errcheck // the engine is gone, and the container with it
		}
	}()
	return p, nil
}

// Remove implements [testenv.Instance].
func (i *instance) Remove(ctx context.Context) error {
	return errors.Join(i.container.Terminate(ctx), i.provider.Close())
}

// process is a container's run between a start and its end.
type process struct {
	*instance
	done chan struct{}
}

func (p *process) Done() <-chan struct{} { return p.done }

func (p *process) Signal(sig syscall.Signal) error {
	_, err := p.api.ContainerKill(context.Background(), p.id, client.ContainerKillOptions{Signal: unix.SignalName(sig)})
	if err != nil {
		return fmt.Errorf("signal container: %w", err)
	}
	return nil
}

// Kill ends all processes of the container: the engine kills its namespace.
func (p *process) Kill(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
