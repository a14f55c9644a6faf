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

/// Whether Envoy reads a method over HTTP/1. Others are answered with status 400.
pub(crate) fn is_method(method: &str) -> bool {
    METHODS.contains(&method)
}

/// Whether no request has a header of this name, in lower case, where rules are asked.
pub(crate) fn is_removed(name: &str) -> bool {
    // The certificate of the caller is known from the connection.
    REMOVED.contains(&name) || name == "x-forwarded-client-cert"
}

/// Returns the headers that rules see, with names in lower case.
pub(crate) fn routed(headers: &[(String, String)]) -> Vec<(String, String)> {
    let values = |of: &'static str| {
        let lines = headers.iter().filter(move |(name, _)| name == of);
        lines.flat_map(|(_, value)| value.split(',').map(|token| token.trim().to_lowercase()))
    };
    let websocket = values("upgrade").eq(["websocket".to_owned()])
        && values("connection").any(|token| token == "upgrade");
    let kept = headers.iter().filter(|(name, value)| match &**name {
        "connection" | "upgrade" => websocket,
        "te" => value.split(',').any(|token| token.trim() == "trailers"),
        name => !is_removed(name) && values("connection").all(|token| token != name),
    });
    kept.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_a_connection_and_commands_are_not_routed() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let kept = [header("te", "trailers"), header("x-b", "1")];
        let mut sent = kept.to_vec();
        sent.extend(REMOVED.map(|name| header(name, "1")));
        sent.push(header("connection", "close, X-A"));
        sent.extend([header("x-a", "1"), header("upgrade", "h2c")]);
        assert_eq!(routed(&sent), kept);
        let websocket = [
            header("connection", "Upgrade"),
            header("upgrade", "websocket"),
        ];
        assert_eq!(routed(&websocket), websocket);
    }
}
