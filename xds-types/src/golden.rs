//! The golden metrics: the series that Envoy counts, and the labels that Prometheus reads.
//!
//! Each series of Envoy has one tag with all fields of its edge. A tag costs a request over a thousand instructions, a
//! further field of the same tag a fifth of that. The tag has nothing about the pod itself: the agent, through which Prometheus
//! reads the metrics, makes labels of the fields and adds those of the pod.

use crate::denial;

/// The histogram of the durations of requests. The number of requests is its count.
pub const DURATIONS: &str = "heddle_request_duration_ms";
/// The counter of requests with a status from 400 on, or with a response flag of Envoy.
pub const FAILURES: &str = "heddle_request_failures_total";
/// The counter of ended connections of bytes.
pub const CONNECTIONS: &str = "heddle_tcp_connections";
/// The counter of bytes from the client, of ended connections.
pub const RECEIVED: &str = "heddle_tcp_received_bytes";
/// The counter of bytes to the client, of ended connections.
pub const SENT: &str = "heddle_tcp_sent_bytes";

/// All of them.
pub const NAMES: [&str; 5] = [DURATIONS, FAILURES, CONNECTIONS, RECEIVED, SENT];

/// The one tag of their series.
pub const TAG: &str = "edge";

/// Between the fields of the tag. Names of Kubernetes, identities, statuses and flags do not have it; the last field may.
const SEPARATOR: char = ';';

/// Between the origin of a response at the client and the policies that limit the requests under way to its cluster.
pub const BEFORE_LIMITS: &str = ";by ";

/// The flag of requests and connections beyond a limit.
const OVERFLOW: &str = "UO";

/// The upper bounds of the buckets of durations in milliseconds: some of [`crate::edges::BOUNDS_MS`].
pub const BUCKETS_MS: [f64; 12] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 5_000.0, 30_000.0,
];

/// The labels that a Mesh may leave out. A new one comes last, for its place is its bit.
pub const OPTIONAL_LABELS: [&str; 8] = [
    "source_workload",
    "source_principal",
    "destination_workload",
    "upstream_cluster",
    "grpc_status",
    "response_flags",
    "route",
    "policy",
];

/// The runtime value of Envoy with the labels that the agent leaves out: a bit for each.
pub const LEFT_OUT: &str = "heddle.metrics.left_out";

/// The bits of these labels.
#[must_use]
pub fn left_out(labels: &[&str]) -> u32 {
    let all = OPTIONAL_LABELS.iter().enumerate();
    all.filter(|(_, label)| labels.contains(label))
        .fold(0, |bits, (place, _)| bits | 1 << place)
}

/// Whether a label is left out by these bits.
#[must_use]
pub fn is_left_out(bits: u32, label: &str) -> bool {
    let place = OPTIONAL_LABELS.iter().position(|of| *of == label);
    place.is_some_and(|place| bits & (1 << place) != 0)
}

/// The side that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The client's sidecar.
    Source,
    /// The server's sidecar.
    Destination,
}

impl Side {
    /// The value of the label `reporter`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// The fields of a tag, or commands of Envoy for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge<'a> {
    /// The side that counts.
    pub reporter: Side,
    /// The namespace of the service. Empty at the server, which is in it.
    pub namespace: &'a str,
    /// The service; behind `|`, if the text has one.
    pub service: &'a str,
    /// The status of the response. Empty for connections of bytes.
    pub code: &'a str,
    /// The status of gRPC, if it is a call of gRPC.
    pub grpc_status: &'a str,
    /// At the client the cluster of the backend, at the server the identity of the client.
    pub peer: &'a str,
    /// Not of the durations.
    pub details: Option<Details<'a>>,
}

/// The fields that tell why a request or connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Details<'a> {
    /// Envoy's response flags; `-` without any.
    pub flags: &'a str,
    /// The rule of the route table.
    pub route: &'a str,
    /// The origin of the response. Of a connection of bytes at the server: its cluster, or the policy that denied it.
    pub origin: &'a str,
}

/// The pod of the sidecar, as the labels name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its workload.
    pub workload: String,
    /// Its identity.
    pub principal: String,
}

impl<'a> Edge<'a> {
    /// Writes the fields as one tag.
    #[must_use]
    pub fn format(&self) -> String {
        let mut fields = vec![
            self.reporter.as_str(),
            self.namespace,
            self.service,
            self.code,
            self.grpc_status,
            self.peer,
        ];
        if let Some(details) = &self.details {
            fields.extend([details.flags, details.route, details.origin]);
        }
        fields.join(&SEPARATOR.to_string())
    }

    /// Reads a tag. `None`: it is not one of ours.
    #[must_use]
    pub fn parse(tag: &'a str) -> Option<Self> {
        let mut fields = tag.splitn(9, SEPARATOR);
        let reporter = match fields.next()? {
            "source" => Side::Source,
            "destination" => Side::Destination,
            _ => return None,
        };
        Some(Self {
            reporter,
            namespace: fields.next()?,
            service: fields.next()?.rsplit('|').next()?,
            code: fields.next()?,
            grpc_status: fields.next()?,
            peer: fields.next()?,
            details: match fields.next() {
                Some(flags) => Some(Details {
                    flags,
                    route: fields.next()?,
                    origin: fields.next()?,
                }),
                None => None,
            },
        })
    }

    /// Whether it is of connections of bytes.
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        self.code.is_empty()
    }

    /// The labels for Prometheus, in the metrics of this pod.
    #[must_use]
    pub fn labels<'b>(&'b self, pod: &'b Pod) -> Vec<(&'static str, &'b str)> {
        let mut labels = vec![("reporter", self.reporter.as_str())];
        match self.reporter {
            Side::Source => labels.extend([
                ("source_namespace", &*pod.namespace),
                ("source_workload", &pod.workload),
                ("source_principal", &pod.principal),
                ("destination_namespace", self.namespace),
                ("destination_service", self.service),
                ("upstream_cluster", self.peer),
            ]),
            Side::Destination => labels.extend([
                ("source_principal", self.peer),
                ("destination_namespace", &*pod.namespace),
                ("destination_workload", &pod.workload),
                ("destination_service", self.service),
            ]),
        }
        if self.is_tcp() {
            labels.push(("protocol", "tcp"));
        } else {
            labels.push(("protocol", "http"));
            labels.push(("response_code", self.code));
            labels.push(("grpc_status", self.grpc_status));
        }
        if let Some(details) = &self.details {
            labels.push(("response_flags", details.flags));
            if !self.is_tcp() {
                labels.push(("route", details.route));
            }
            labels.push(("policy", details.policy()));
        }
        labels
    }
}

impl<'a> Details<'a> {
    /// The policies with the limit that refused; the rule of an AuthPolicy that denied; `no-allow:` with the policies that were asked if no rule
    /// allowed; else empty.
    fn policy(&self) -> &'a str {
        if self.flags.split(',').any(|flag| flag == OVERFLOW) {
            let limits = self.origin.rsplit_once(BEFORE_LIMITS);
            let limits = limits.map(|(_, limits)| limits);
            return limits.filter(|of| *of != "-").unwrap_or_default();
        }
        denial::decision(self.origin)
            .or_else(|| self.origin.strip_prefix("denied:"))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        Pod {
            namespace: "shop".to_owned(),
            workload: "cart".to_owned(),
            principal: "spiffe://d/ns/shop/sa/cart".to_owned(),
        }
    }

    #[test]
    fn a_tag_is_read_as_it_was_written() {
        let requests = Edge {
            reporter: Side::Source,
            namespace: "db",
            service: "ratings",
            code: "200",
            grpc_status: "14",
            peer: "out|db/ratings|80",
            details: None,
        };
        let details = Details {
            flags: "UF,URX",
            route: "whole service",
            origin: "via;upstream",
        };
        let failures = Edge {
            details: Some(details),
            ..requests.clone()
        };
        for edge in [requests, failures] {
            let tag = edge.format();
            assert_eq!(Edge::parse(&tag), Some(edge));
        }
        for strange in ["", "source", "outbound;a;b;c;d;e", "source;a;b;c;d;e;f"] {
            assert_eq!(Edge::parse(strange), None, "{strange}");
        }
    }

    #[test]
    fn the_pod_is_the_caller_or_the_server() {
        let pod = pod();
        let source = Edge::parse("source;db;ratings;200;;out|db/ratings|80").unwrap();
        let labels = source.labels(&pod);
        assert!(labels.contains(&("source_workload", "cart")), "{labels:?}");
        assert!(labels.contains(&("destination_namespace", "db")));
        let tag = "destination;;in|cart;403;;spiffe://d/ns/shop/sa/x;-;;rbac_access_denied_matched_policy[shop/p/0]";
        let destination = Edge::parse(tag).unwrap();
        let labels = destination.labels(&pod);
        for label in [
            ("destination_workload", "cart"),
            ("destination_service", "cart"),
            ("destination_namespace", "shop"),
            ("source_principal", "spiffe://d/ns/shop/sa/x"),
            ("policy", "shop/p/0"),
        ] {
            assert!(labels.contains(&label), "{labels:?}");
        }
        for (tag, policy) in [
            (
                "source;db;ratings;503;;out|db/ratings|80;UO;whole service;overflow;by TrafficPolicy db/p",
                "TrafficPolicy db/p",
            ),
            (
                "source;db;ratings;;;out|db/ratings|80;UF,UO;;;by TrafficPolicy db/p, TrafficPolicy db/q",
                "TrafficPolicy db/p, TrafficPolicy db/q",
            ),
            (
                "source;db;ratings;503;;out|db/ratings|80;UO;r;overflow;by -",
                "",
            ),
            (
                "source;db;ratings;503;;out|db/ratings|80;UF;r;x;by TrafficPolicy db/p",
                "",
            ),
            ("destination;;in|cart;503;;;UO;all;overflow", ""),
        ] {
            let edge = Edge::parse(tag).unwrap();
            let labels = edge.labels(&pod);
            assert!(labels.contains(&("policy", policy)), "{tag}: {labels:?}");
        }
        let bytes = Edge::parse("destination;;cart;;;;-;;denied:no-allow:shop/p").unwrap();
        let labels = bytes.labels(&pod);
        assert!(
            labels.contains(&("policy", "no-allow:shop/p")),
            "{labels:?}"
        );
        assert!(labels.contains(&("protocol", "tcp")), "{labels:?}");
    }
}
