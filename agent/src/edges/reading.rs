//! Reduces the golden metrics of Envoy to the traffic of edges since the reading before.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use heddle_xds_types::denial;
use heddle_xds_types::edges::{
    BOUNDS_MS, CLASSES, EdgeCounts, EdgeName, MAX_EDGES_OF_SIDECAR, MAX_TEXT, PROBE_ROUTE,
    Protocol, Reporter,
};
use heddle_xds_types::golden::{self, Edge, Side};
use heddle_xds_types::prometheus::{Sample, sample};

use super::Traffic;

/// Requests are counted by the buckets of their durations.
const BUCKET: &str = "envoy_heddle_request_duration_ms_bucket{";
/// The sum of those durations.
const SUM: &str = "envoy_heddle_request_duration_ms_sum{";
const CONNECTIONS: &str = "envoy_heddle_tcp_connections{";
const RECEIVED: &str = "envoy_heddle_tcp_received_bytes{";
const SENT: &str = "envoy_heddle_tcp_sent_bytes{";
/// The durations that Envoy did not record because a scope had the most series that it may have: one for each request. Only the scopes
/// of the golden metrics are bounded.
const BEYOND: &str = "envoy_server_stats_overflow_histogram{";

/// Lines of which the last value is remembered, 16 bytes each. Those of further lines are not counted.
const MAX_LINES: usize = 100_000;

/// Statuses of gRPC that are faults of the server, as OpenTelemetry's conventions have them: UNKNOWN, DEADLINE_EXCEEDED,
/// UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
const GRPC_FAILURES: [&str; 6] = ["2", "4", "12", "13", "14", "15"];

/// Flags of a connection of bytes that did not come to its destination: no healthy or no reachable upstream, overflow,
/// no route, no cluster, DNS, timeout, overload.
const TCP_FAILURES: [&str; 9] = ["UH", "UF", "UO", "NR", "NC", "DF", "UT", "OM", "UAEX"];

/// The counts of a line by which its series has grown so much.
type Counting = fn(&Sample, &Edge<'_>, u64) -> Option<EdgeCounts>;

/// Reads one Envoy again and again.
#[derive(Default)]
pub(super) struct Reader {
    hasher: RandomState,
    /// The values of the last whole reading, by a hash of the series.
    before: HashMap<u64, u64>,
    now: Reading,
}

/// One reading, as far as it has come.
#[derive(Default)]
struct Reading {
    values: HashMap<u64, u64>,
    traffic: Traffic,
    /// Requests and connections of edges beyond the bound, and requests beyond the bound of Envoy's series.
    lost: u64,
    /// The histogram of the line before, without its bound. Its buckets come in ascending order, and each includes those
    /// before it.
    histogram: String,
    /// The requests of that histogram since the last reading, up to that bound.
    below: u64,
}

impl Reader {
    /// Begins a reading. The part of one that was not whole is forgotten: the next has its traffic.
    pub(super) fn begin(&mut self) {
        self.now = Reading::default();
    }

    /// Reads one line.
    pub(super) fn take(&mut self, line: &str) {
        let Some((series, value)) = line.rsplit_once(' ') else {
            return;
        };
        if let Some((histogram, _)) = series.split_once(",le=\"") {
            if series.starts_with(BUCKET)
                && let Some(added) = self.added(series, value)
            {
                let requests = self.now.of_bucket(histogram, added);
                self.count(line, requests, of_request);
            }
            return;
        }
        if series.starts_with(BEYOND) {
            self.now.lost += self.added(series, value).unwrap_or(0);
            return;
        }
        let counts: Option<Counting> = if series.starts_with(CONNECTIONS) {
            Some(of_connection)
        } else if series.starts_with(SUM) {
            Some(of_durations)
        } else if series.starts_with(RECEIVED) {
            Some(|_, _, bytes| {
                Some(EdgeCounts {
                    received_bytes: bytes,
                    ..EdgeCounts::default()
                })
            })
        } else if series.starts_with(SENT) {
            Some(|_, _, bytes| {
                Some(EdgeCounts {
                    sent_bytes: bytes,
                    ..EdgeCounts::default()
                })
            })
        } else {
            None
        };
        if let Some(counts) = counts
            && let Some(added) = self.added(series, value)
        {
            self.count(line, added, counts);
        }
    }

    /// Ends a whole reading. Returns the traffic, and the number of requests and connections that are not in it.
    pub(super) fn end(&mut self) -> (Traffic, u64) {
        let done = std::mem::take(&mut self.now);
        self.before = done.values;
        (done.traffic, done.lost)
    }

    /// Returns the growth of a series. A series that has shrunk began again from 0: its listener was replaced, or Envoy forgot it.
    fn added(&mut self, series: &str, value: &str) -> Option<u64> {
        let value = whole(value)?;
        let key = self.hasher.hash_one(series);
        if self.now.values.len() >= MAX_LINES {
            return None;
        }
        self.now.values.insert(key, value);
        let before = self.before.get(&key).copied().unwrap_or(0);
        Some(value.checked_sub(before).unwrap_or(value))
    }

    /// Adds to the edge of a line. Lines without traffic are not parsed.
    fn count(&mut self, line: &str, added: u64, counts: Counting) {
        if added == 0 {
            return;
        }
        let Some(sample) = sample(line) else { return };
        let Some(edge) = Edge::parse(sample.label(golden::TAG)) else {
            return;
        };
        // The kubelet's probes are not traffic of the mesh.
        if edge.details.is_some_and(|of| of.route == PROBE_ROUTE) {
            return;
        }
        let Some(counts) = counts(&sample, &edge, added) else {
            return;
        };
        let name = name(&edge);
        let traffic = &mut self.now.traffic;
        if traffic.len() < MAX_EDGES_OF_SIDECAR || traffic.contains_key(&name) {
            traffic.entry(name).or_default().add(&counts);
        } else {
            self.now.lost += counts.requests() + u64::from(counts.connections);
        }
    }
}

impl Reading {
    /// Returns the requests of one bucket alone.
    fn of_bucket(&mut self, histogram: &str, up_to_bound: u64) -> u64 {
        if self.histogram != histogram {
            histogram.clone_into(&mut self.histogram);
            self.below = 0;
        }
        let requests = up_to_bound.saturating_sub(self.below);
        self.below += requests;
        requests
    }
}

/// A value as a whole number: counts are, and sums are rounded.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates"
)]
fn whole(value: &str) -> Option<u64> {
    value.parse().ok().or_else(|| {
        let value: f64 = value.parse().ok()?;
        (value >= 0.0).then_some(value.round() as u64)
    })
}

/// The name of an edge in reports.
fn name(edge: &Edge<'_>) -> EdgeName {
    let protocol = if edge.is_tcp() {
        Protocol::Tcp
    } else if edge.grpc_status.is_empty() {
        Protocol::Http
    } else {
        Protocol::Grpc
    };
    let name = EdgeName {
        protocol: protocol.into(),
        service: cut(edge.service),
        ..EdgeName::default()
    };
    match edge.reporter {
        Side::Source => EdgeName {
            reporter: Reporter::Source.into(),
            service_namespace: cut(edge.namespace),
            backend: cut(edge.peer),
            ..name
        },
        Side::Destination => EdgeName {
            reporter: Reporter::Destination.into(),
            peer: cut(edge.peer),
            ..name
        },
    }
}

/// A text of at most [`MAX_TEXT`] bytes.
fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_TEXT);
    text.get(..end).unwrap_or_default().to_owned()
}

fn of_request(sample: &Sample, edge: &Edge<'_>, requests: u64) -> Option<EdgeCounts> {
    let requests = u32::try_from(requests).unwrap_or(u32::MAX);
    let bound: f64 = match sample.label("le") {
        "+Inf" => f64::INFINITY,
        bound => bound.parse().ok()?,
    };
    let mut counts = EdgeCounts::default();
    // Envoy's are some of these.
    let bucket = BOUNDS_MS.iter().position(|known| bound <= *known);
    *counts
        .durations
        .get_mut(bucket.unwrap_or(BOUNDS_MS.len()))? = requests;
    let class: usize = edge.code.get(..1).and_then(|class| class.parse().ok())?;
    *counts
        .responses
        .get_mut(class)
        .filter(|_| class < CLASSES)? = requests;
    let failed = matches!(class, 0 | 5) || GRPC_FAILURES.contains(&edge.grpc_status);
    if failed {
        counts.failures = requests;
    }
    // A denied request with the content type of gRPC is answered with 200 and this status.
    if denial::denies(edge.code, edge.grpc_status) {
        counts.forbidden = requests;
    }
    Some(counts)
}

fn of_durations(_: &Sample, edge: &Edge<'_>, sum: u64) -> Option<EdgeCounts> {
    // Requests without a class of code are not counted.
    let class: usize = edge.code.get(..1).and_then(|class| class.parse().ok())?;
    (class < CLASSES).then(|| EdgeCounts {
        duration_sum_ms: sum,
        ..EdgeCounts::default()
    })
}

fn of_connection(_: &Sample, edge: &Edge<'_>, connections: u64) -> Option<EdgeCounts> {
    let connections = u32::try_from(connections).unwrap_or(u32::MAX);
    let mut flags = edge.details?.flags.split(',');
    let failed = flags.any(|flag| TCP_FAILURES.contains(&flag));
    Some(EdgeCounts {
        connections,
        failures: if failed { connections } else { 0 },
        ..EdgeCounts::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: [&str; 2] = ["source;shop;ratings", "out|shop/ratings|80"];

    fn read(reader: &mut Reader, text: &str) -> (Traffic, u64) {
        reader.begin();
        text.lines().for_each(|line| reader.take(line));
        reader.end()
    }

    /// The lines of a histogram, with the requests up to 0.5 ms, up to 1 ms, and all.
    fn histogram([to, by]: [&str; 2], code: &str, grpc: &str, counts: [u64; 3]) -> String {
        let bounds = ["0.5", "1", "+Inf"];
        let lines = bounds.iter().zip(counts).map(|(bound, count)| {
            format!("{BUCKET}edge=\"{to};{code};{grpc};{by}\",le=\"{bound}\"}} {count}\n")
        });
        lines.collect()
    }

    fn only(traffic: &Traffic) -> (&EdgeName, &EdgeCounts) {
        assert_eq!(traffic.len(), 1, "{traffic:?}");
        traffic.iter().next().unwrap()
    }

    #[test]
    fn requests_that_a_policy_denies_count_as_forbidden_also_by_grpc() {
        let denied = histogram(OUT, "200", "7", [1, 1, 3]);
        let (traffic, _) = read(&mut Reader::default(), &denied);
        let (_, counts) = only(&traffic);
        assert_eq!((counts.forbidden, counts.failures), (3, 0));
    }

    #[test]
    fn requests_of_all_codes_are_one_edge_and_only_growth_counts() {
        let mut reader = Reader::default();
        let first = histogram(OUT, "200", "", [3, 5, 5]) + &histogram(OUT, "403", "", [1, 1, 2]);
        let (traffic, lost) = read(&mut reader, &first);
        let (name, counts) = only(&traffic);
        assert_eq!(name.backend, "out|shop/ratings|80");
        assert_eq!((&*name.service, &*name.peer, lost), ("ratings", "", 0));
        assert_eq!(counts.responses, [0, 0, 5, 0, 2, 0]);
        assert_eq!((counts.forbidden, counts.failures), (2, 0));
        assert_eq!(counts.durations[..2], [4, 2]);
        assert_eq!(counts.durations[BOUNDS_MS.len()], 1);
        assert!(
            read(&mut reader, &first).0.is_empty(),
            "nothing has changed"
        );
        let later = histogram(OUT, "503", "", [0, 0, 4]) + &histogram(OUT, "200", "", [3, 6, 6]);
        let (traffic, _) = read(&mut reader, &later);
        let (_, counts) = only(&traffic);
        assert_eq!((counts.requests(), counts.failures), (5, 4));
    }

    #[test]
    fn sums_of_durations_grow_with_the_requests() {
        let mut reader = Reader::default();
        let sum = |value: &str| format!("{SUM}edge=\"{};200;;{}\"}} {value}\n", OUT[0], OUT[1]);
        let first = histogram(OUT, "200", "", [0, 0, 2]) + &sum("20.7");
        let (traffic, _) = read(&mut reader, &first);
        assert_eq!(only(&traffic).1.duration_sum_ms, 21);
        let later = histogram(OUT, "200", "", [0, 0, 3]) + &sum("1.0250000000000000e+02");
        let (traffic, _) = read(&mut reader, &later);
        assert_eq!(only(&traffic).1.duration_sum_ms, 82);
        let (traffic, _) = read(&mut reader, &sum("nan"));
        assert!(traffic.is_empty(), "{traffic:?}");
    }

    #[test]
    fn probes_of_the_kubelet_are_no_traffic_of_an_edge() {
        let of = |route: &str| {
            let details = format!(";;{route};");
            histogram(["destination;;in|ratings", &details], "200", "", [1, 2, 3])
        };
        let text = of(PROBE_ROUTE) + &of("all");
        let (traffic, lost) = read(&mut Reader::default(), &text);
        assert_eq!((only(&traffic).1.requests(), lost), (3, 0));
    }

    #[test]
    fn requests_without_a_series_are_lost_and_counted_once() {
        let mut reader = Reader::default();
        for (beyond, lost) in [(0, 0), (7, 7), (7, 0), (9, 2)] {
            let text = format!("{BEYOND}}} {beyond}\n") + &histogram(OUT, "200", "", [1, 1, 1]);
            assert_eq!(read(&mut reader, &text).1, lost, "{beyond}");
        }
    }

    #[test]
    fn a_series_that_began_again_is_counted_from_0() {
        let mut reader = Reader::default();
        read(&mut reader, &histogram(OUT, "200", "", [90, 100, 100]));
        let (traffic, _) = read(&mut reader, &histogram(OUT, "200", "", [2, 3, 4]));
        assert_eq!(only(&traffic).1.requests(), 4);
    }

    #[test]
    fn a_reading_that_broke_off_is_read_again() {
        let mut reader = Reader::default();
        let text = histogram(OUT, "200", "", [1, 2, 3]);
        reader.begin();
        text.lines().take(2).for_each(|line| reader.take(line));
        assert_eq!(only(&read(&mut reader, &text).0).1.requests(), 3);
    }

    #[test]
    fn connections_and_statuses_of_grpc_fail() {
        let mut reader = Reader::default();
        let tcp = |flags: &str| format!("edge=\"{};;;{};{flags};;\"", OUT[0], OUT[1]);
        let (well, failed) = (tcp("-"), tcp("UF,URX"));
        let text = format!(
            "{CONNECTIONS}{well}}} 3\n{CONNECTIONS}{failed}}} 2\n{RECEIVED}{well}}} 10\n{SENT}{well}}} 20\n"
        );
        let (traffic, _) = read(&mut reader, &text);
        let (name, counts) = only(&traffic);
        assert_eq!(name.protocol(), Protocol::Tcp);
        assert_eq!((counts.connections, counts.failures), (5, 2));
        assert_eq!((counts.received_bytes, counts.sent_bytes), (10, 20));
        let grpc = histogram(OUT, "200", "14", [0, 0, 2]) + &histogram(OUT, "200", "5", [0, 0, 1]);
        let (traffic, _) = read(&mut reader, &grpc);
        let (name, counts) = only(&traffic);
        assert_eq!(name.protocol(), Protocol::Grpc);
        assert_eq!((counts.requests(), counts.failures), (3, 2));
    }

    #[test]
    fn edges_beyond_the_bound_and_metrics_of_others_are_not_in_the_traffic() {
        let mut reader = Reader::default();
        let text: String = (0..MAX_EDGES_OF_SIDECAR + 3)
            .map(|n| {
                let to = format!("source;shop;s{n}");
                histogram([&to, OUT[1]], "200", "", [1, 1, 1])
            })
            .collect();
        let (traffic, lost) = read(&mut reader, &text);
        assert_eq!((traffic.len(), lost), (MAX_EDGES_OF_SIDECAR, 3));
        let strange = format!(
            "# TYPE x counter\nenvoy_server_live{{}} 1\n{BUCKET}x\n{}",
            histogram(["outbound;shop;x", OUT[1]], "200", "", [1, 1, 1])
        );
        assert_eq!(read(&mut reader, &strange), (Traffic::new(), 0));
    }
}
