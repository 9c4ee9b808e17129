# The image holds the static binary, the certificates of public authorities, and
# nothing else: no shell, no libraries, no root.
ARG GO_VERSION=1.26
FROM golang:${GO_VERSION} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /walpost ./cmd/walpost \
 && mkdir -m 1777 /empty

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /walpost /walpost
# Transactions that do not fit into memory are spilled here.
COPY --from=build --chown=65532:65532 /empty /tmp
USER 65532:65532
EXPOSE 9187
ENTRYPOINT ["/walpost"]
CMD ["run"]
