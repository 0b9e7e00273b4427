# Prism, Beam's runner for one machine, of the version of apache-beam in requirements.lock:
# docker build -f kubeflow/image/prism.Dockerfile -t REGISTRY/perennial-prism .
FROM golang:1.26-trixie AS build
RUN CGO_ENABLED=0 go install github.com/apache/beam/sdks/v2/go/cmd/prism@v2.77.0

FROM scratch
COPY --from=build /go/bin/prism /prism
USER 65532:65532
ENTRYPOINT ["/prism"]
