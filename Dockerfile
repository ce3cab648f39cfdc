# The same sources give the same binary, wherever and whenever the image is built.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS
ARG TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY main.go ./
COPY api api
COPY controllers controllers
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags='-s -w -buildid=' -o /sidecarset .

FROM gcr.io/distroless/static:nonroot
COPY --from=build /sidecarset /sidecarset
USER 65532:65532
ENTRYPOINT ["/sidecarset"]
