//! The connections of the port of readiness and hooks, which is open to all callers of the pod.

use std::fmt::Write as _;

use heddle_acceptor::Counts;

/// Appends the counts in Prometheus' text format, with the names of the control plane's own servers.
pub(super) fn write(counts: &Counts, text: &mut String) {
    const OPEN: &str = "heddle_listener_connections";
    const ENDED: &str = "heddle_listener_connections_ended_early_total";
    const SERVER: &str = "server=\"readiness\"";
    // Writing to a text cannot fail.
    let _ = writeln!(
        text,
        "# TYPE {OPEN} gauge\n{OPEN}{{{SERVER}}} {}",
        counts.open
    );
    let _ = writeln!(text, "# TYPE {ENDED} counter");
    for (reason, count) in counts.ended_early() {
        let _ = writeln!(text, "{ENDED}{{{SERVER},reason=\"{reason}\"}} {count}");
    }
}
