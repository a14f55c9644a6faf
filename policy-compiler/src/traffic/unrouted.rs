//! The part of requests that no rule sees: headers that Envoy removes, and methods that it answers, before it routes.

/// Headers that Envoy removes from every request: commands to Envoy, and those about one connection.
const REMOVED: [&str; 19] = [
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-ip-tags",
    "x-envoy-max-retries",
    "x-envoy-original-url",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
];

/// The method of tunnels: no route takes it.
pub(crate) const CONNECT: &str = "CONNECT";

/// Whether no request has a header of this name, in lower case, where rules are asked.
pub(crate) fn is_removed(name: &str) -> bool {
    // The certificate of the caller is known from the connection.
    REMOVED.contains(&name) || name == "x-forwarded-client-cert"
}
