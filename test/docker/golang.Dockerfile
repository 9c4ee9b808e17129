# golang, with the modules that go.mod names instead of a way to a proxy.
FROM walpost-test-base
COPY go /usr/local/go
COPY modules /modules
ENV PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    GOPROXY=file:///modules GOSUMDB=off GOTOOLCHAIN=local GOFLAGS=-p=1
