//! The bytes of an agent's reports.

use heddle_xds_types::edges::{
    EdgeCounts, EdgeDelta, EdgeName, EdgeReport, MAX_EDGES_OF_REPORT, Protocol, Reporter,
};
use prost::Message;

/// The time between two reports, in seconds.
pub const SECONDS: usize = 5;
/// The prefix of a message of gRPC, and the head of the frame of HTTP/2 that carries it.
const FRAME: usize = 5 + 9;

/// The bytes of a report, before TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes {
    /// The first report of a stream has the names of the edges.
    pub first: usize,
    /// Each later one.
    pub each: usize,
}

/// The name of an edge, about as long as real ones: every other one is of a caller.
pub fn name(number: usize) -> EdgeName {
    let name = EdgeName {
        protocol: Protocol::Http.into(),
        service: format!("service-{number:04}"),
        ..EdgeName::default()
    };
    if number.is_multiple_of(2) {
        return EdgeName {
            reporter: Reporter::Destination.into(),
            peer: format!(
                "spiffe://cluster.local/ns/team-{}/sa/service-{number:04}",
                number / 10
            ),
            ..name
        };
    }
    let namespace = format!("team-{}", number / 10);
    EdgeName {
        reporter: Reporter::Source.into(),
        backend: format!("out|{namespace}/service-{number:04}|8080"),
        service_namespace: namespace,
        ..name
    }
}

/// The traffic of an edge in the time between two reports.
pub fn counts(turn: u32) -> EdgeCounts {
    let mut counts = EdgeCounts {
        responses: [0, 0, 480 + turn % 50, 0, 3, 1],
        failures: 1,
        duration_sum_ms: 3_000,
        ..EdgeCounts::default()
    };
    for (bucket, count) in [(1, 40), (2, 400 + turn % 50), (3, 44)] {
        if let Some(own) = counts.durations.get_mut(bucket) {
            *own = count;
        }
    }
    counts
}

/// Returns the bytes of the reports of a sidecar with so many active edges.
pub fn bytes(edges: usize) -> Bytes {
    let report = |named: bool| -> usize {
        let numbers: Vec<usize> = (0..edges).collect();
        let messages = numbers.chunks(MAX_EDGES_OF_REPORT).map(|numbers| {
            let deltas = numbers.iter().map(|number| {
                let id = u32::try_from(*number).unwrap_or(u32::MAX);
                EdgeDelta::new(id, named.then(|| name(*number)), &counts(id))
            });
            let report = EdgeReport {
                node: "team-1/service-0001-5d4f8c7b9-x2x9z".to_owned(),
                edges: deltas.collect(),
                lost: 0,
            };
            FRAME + report.encoded_len()
        });
        messages.sum()
    };
    Bytes {
        first: report(true),
        each: report(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_reports_are_without_names_and_grow_with_the_edges() {
        let [few, many] = [5, 100].map(bytes);
        assert!(
            few.first > few.each && many.first > 2 * many.each,
            "{few:?} {many:?}"
        );
        // 20 times the edges, and the same head.
        assert!(
            many.each > 10 * few.each && many.each < 20 * few.each,
            "{few:?} {many:?}"
        );
    }
}
