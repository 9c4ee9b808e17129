# golang, with the modules that go.mod names instead of a way to a proxy, and
# with what was compiled in an earlier run.
FROM walpost-test-base
COPY go /usr/local/go
COPY modules /modules
COPY go-build /root/.cache/go-build
ENV PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    GOPROXY=file:///modules GOSUMDB=off GOTOOLCHAIN=local
