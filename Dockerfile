# syntax=docker/dockerfile:1
# Two images from one build: `--target heddle` (control plane) and `--target sidecar` (stock Envoy and the agent).
ARG RUST=1.95
ARG ENVOY=1.40.0

FROM rust:${RUST}-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked -p heddle-operator -p heddle-agent -p heddle-cli \
    && mkdir /out && cp target/release/heddle-operator target/release/heddle-agent target/release/heddle /out/

FROM envoyproxy/envoy:distroless-v${ENVOY} AS envoy

FROM gcr.io/distroless/cc-debian12:nonroot AS heddle
COPY --from=build /out/heddle-operator /out/heddle /usr/local/bin/
# The operator verifies with it what proxies reject (docs/design/0007-rejections-are-claims.md).
COPY --from=envoy /usr/local/bin/envoy /usr/local/bin/envoy
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/heddle-operator"]

FROM envoy AS sidecar
COPY --from=build /out/heddle-agent /usr/local/bin/heddle-agent
USER 1337:1337
ENTRYPOINT ["/usr/local/bin/heddle-agent"]
