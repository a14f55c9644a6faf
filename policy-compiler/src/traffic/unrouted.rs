//! The part of requests that no rule sees: headers that Envoy removes, and methods that it answers, before it routes.
//! And the requests for another protocol: upgrades, and tunnels, which no route takes.

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

/// The methods that Envoy reads over HTTP/1.
pub(crate) const METHODS: [&str; 34] = [
    "ACL",
    "BIND",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "MSEARCH",
    "NOTIFY",
    "OPTIONS",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "PUT",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "TRACE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

/// The method of tunnels: no route takes it.
pub(crate) const CONNECT: &str = "CONNECT";

/// The protocols of `Upgrade` that are passed on, in lower case. After the server has agreed, the sidecars judge no byte, so a protocol that
/// carries further requests is never one of them (`h2c`, `TLS/1.0`). Envoy holds the body of such a request until the server has agreed: Docker
/// agrees to `tcp` only after the body.
pub(crate) const UPGRADES: [&str; 3] = ["websocket", "spdy/3.1", "tailscale-control-protocol"];

/// The one value of `te` that is passed on.
pub(crate) const TRAILERS: &str = "trailers";

/// Whether Envoy reads a method over HTTP/1. Others are answered with status 400.
pub(crate) fn is_method(method: &str) -> bool {
    METHODS.contains(&method)
}

/// The header in which an application gets the identity of its caller. The server's sidecar sets it from the connection.
pub(crate) const CLIENT_CERTIFICATE: &str = "x-forwarded-client-cert";

/// Whether no request has a header of this name, in lower case, where the rules of the caller are asked.
pub(crate) fn is_removed(name: &str) -> bool {
    is_never_received(name) || name == CLIENT_CERTIFICATE
}

/// Whether no request has a header of this name, in lower case, where the rules of servers are asked.
pub(crate) fn is_never_received(name: &str) -> bool {
    REMOVED.contains(&name)
}

/// Returns the headers that rules see, with names in lower case.
pub(crate) fn routed(headers: &[(String, String)]) -> Vec<(String, String)> {
    let values = |of: &'static str| {
        let lines = headers.iter().filter(move |(name, _)| name == of);
        lines.flat_map(|(_, value)| value.split(',').map(|token| token.trim().to_lowercase()))
    };
    let known = |protocol: &&str| values("upgrade").eq([(*protocol).to_owned()]);
    let upgrade =
        UPGRADES.iter().any(known) && values("connection").any(|token| token == "upgrade");
    let kept = headers.iter().filter(|(name, _)| match &**name {
        "connection" | "upgrade" => upgrade,
        "te" => false,
        name => !is_removed(name) && values("connection").all(|token| token != name),
    });
    let trailers = values("te").any(|token| token == TRAILERS);
    let te = trailers.then(|| ("te".to_owned(), TRAILERS.to_owned()));
    te.into_iter().chain(kept.cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_a_connection_and_commands_are_not_routed() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let kept = [header("te", "trailers"), header("x-b", "1")];
        let te = [header("te", "gzip, trailers"), header("te", "gzip")];
        let mut sent = [&te[..], &[header("x-b", "1")]].concat();
        sent.extend(REMOVED.map(|name| header(name, "1")));
        sent.push(header("connection", "close, X-A"));
        sent.extend([header("x-a", "1"), header("upgrade", "h2c")]);
        assert_eq!(routed(&sent), kept);
        for protocol in ["websocket", "WebSocket", "SPDY/3.1"] {
            let upgrade = [header("connection", "Upgrade"), header("upgrade", protocol)];
            assert_eq!(routed(&upgrade), upgrade);
        }
    }
}
