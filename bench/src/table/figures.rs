//! The figures of the table: the meaning of each, istiod's value on two such cores, and the target.

use std::collections::BTreeMap;

use crate::stats::Sample;

/// One figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    /// All proxies connect at once.
    ConnectAll,
    /// The control plane's CPU for each of them.
    ConnectCpu,
    /// Bytes to each of them.
    ConnectBytes,
    /// Resources that each of them holds.
    ConnectResources,
    /// Certificates for all of them.
    EnrolAll,
    /// The control plane's CPU for each certificate.
    EnrolCpu,
    /// One endpoint changes: median.
    EndpointP50,
    /// 99th percentile.
    EndpointP99,
    /// The slowest.
    EndpointMax,
    /// Median, from when the write was sent.
    EndpointSentP50,
    /// 99th percentile, from when the write was sent.
    EndpointSentP99,
    /// The control plane's CPU for each change.
    EndpointCpu,
    /// Bytes to each proxy for each change.
    EndpointBytes,
    /// The load program's CPU for each response.
    EndpointClient,
    /// One endpoint changes, one proxy: median.
    SingleP50,
    /// 99th percentile.
    SingleP99,
    /// A split changes: median.
    SplitP50,
    /// 99th percentile.
    SplitP99,
    /// The control plane's CPU for each change.
    SplitCpu,
    /// A policy changes: median.
    PolicyP50,
    /// 99th percentile.
    PolicyP99,
    /// Bytes for changes that change nothing.
    MetadataBytes,
    /// Units recompiled for them.
    MetadataUnits,
    /// Killed and restarted: until all are in sync.
    RestartAll,
    /// Until the control plane itself was ready.
    RestartReady,
    /// Resources resent though unchanged.
    RestartUnchanged,
    /// Their bytes.
    RestartUnchangedBytes,
    /// Many changes: median.
    StormP50,
    /// 99th percentile.
    StormP99,
    /// 99th percentile of the first quarter.
    StormFirst,
    /// 99th percentile of the last quarter.
    StormLast,
    /// Arrivals that were owed at the worst moment.
    StormBacklog,
    /// From the last write until nothing was owed.
    StormDrain,
    /// The control plane's share of one core.
    StormCpu,
    /// The control plane's memory in sync.
    MemorySynced,
    /// The most it held.
    MemoryPeak,
    /// A second replica joins: until the proxies are evenly spread.
    SpreadEven,
    /// The most that connected in any one second.
    SpreadStorm,
    /// How often any connected.
    SpreadBegun,
    /// Resources resent though unchanged.
    SpreadUnchanged,
    /// 5,000 services: memory.
    LargeMemory,
    /// A split changes: median.
    LargeSplitP50,
    /// 99th percentile.
    LargeSplitP99,
    /// 10,000 services: memory.
    HugeMemory,
    /// The most it held.
    HugePeak,
    /// All proxies connect at once.
    HugeConnectAll,
    /// One endpoint of a service that a few use changes: median.
    HugeEndpointP50,
    /// 99th percentile.
    HugeEndpointP99,
    /// The same for a service that all use: 99th percentile.
    HugeCommonP99,
    /// From the start until ready.
    HugeReady,
    /// The first compile.
    ColdCompile,
    /// The compile of one endpoint's change.
    ChangeCompile,
}

/// How a figure is printed and judged.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// The figure's meaning.
    pub what: &'static str,
    /// In which unit.
    pub unit: &'static str,
    /// istiod's value, if that was measured.
    pub istiod: &'static str,
    /// The target: at most so much.
    pub target: Option<f64>,
    /// Decimals to print.
    pub decimals: usize,
}

const fn line(
    what: &'static str,
    unit: &'static str,
    istiod: &'static str,
    target: Option<f64>,
    decimals: usize,
) -> Line {
    Line {
        what,
        unit,
        istiod,
        target,
        decimals,
    }
}

/// Of the first mesh, in the order of the table.
pub const FIRST: &[(Figure, Line)] = &[
    (
        Figure::EndpointP50,
        line("endpoint change, p50", "ms", "201", Some(10.0), 1),
    ),
    (
        Figure::EndpointP99,
        line("endpoint change, p99", "ms", "282", Some(25.0), 1),
    ),
    (
        Figure::EndpointMax,
        line("endpoint change, slowest", "ms", "290", None, 1),
    ),
    (
        Figure::EndpointSentP50,
        line("the same from the write's sending, p50", "ms", "", None, 1),
    ),
    (
        Figure::EndpointSentP99,
        line("the same from the write's sending, p99", "ms", "", None, 1),
    ),
    (
        Figure::EndpointCpu,
        line("endpoint change: CPU", "ms", "", None, 1),
    ),
    (
        Figure::EndpointBytes,
        line("endpoint change: sent to each", "bytes", "", None, 0),
    ),
    (
        Figure::EndpointClient,
        line("load program: CPU for each response", "µs", "", None, 1),
    ),
    (
        Figure::SingleP50,
        line("endpoint change, one proxy, p50", "ms", "101", Some(3.0), 1),
    ),
    (
        Figure::SingleP99,
        line("endpoint change, one proxy, p99", "ms", "102", Some(8.0), 1),
    ),
    (
        Figure::SplitP50,
        line("split change, p50", "ms", "2,240", Some(15.0), 1),
    ),
    (
        Figure::SplitP99,
        line("split change, p99", "ms", "4,203", Some(50.0), 1),
    ),
    (
        Figure::SplitCpu,
        line("split change: CPU", "ms", "6,400", None, 1),
    ),
    (
        Figure::PolicyP50,
        line(
            "policy change at its workload, p50",
            "ms",
            "",
            Some(15.0),
            1,
        ),
    ),
    (
        Figure::PolicyP99,
        line(
            "policy change at its workload, p99",
            "ms",
            "",
            Some(50.0),
            1,
        ),
    ),
    (
        Figure::ConnectAll,
        line("connect at once: all in sync", "s", "91", Some(3.0), 2),
    ),
    (
        Figure::ConnectCpu,
        line("connect at once: CPU each", "ms", "135", Some(2.0), 2),
    ),
    (
        Figure::ConnectBytes,
        line(
            "sent to each at its first sync",
            "KiB",
            "3,210",
            Some(40.0),
            1,
        ),
    ),
    (
        Figure::ConnectResources,
        line("resources of each", "", "", None, 0),
    ),
    (
        Figure::EnrolAll,
        line("enrolment of all (CSR, TokenReview)", "s", "", None, 2),
    ),
    (
        Figure::EnrolCpu,
        line("enrolment: CPU each", "ms", "", None, 2),
    ),
    (
        Figure::RestartAll,
        line("killed and restarted: all in sync", "s", "99", Some(3.3), 2),
    ),
    (
        Figure::RestartReady,
        line("killed and restarted: ready itself", "s", "2.8", None, 2),
    ),
    (
        Figure::RestartUnchanged,
        line("resent though unchanged", "resources", "all", Some(0.0), 0),
    ),
    (
        Figure::RestartUnchangedBytes,
        line("resent though unchanged", "bytes", "all", Some(0.0), 0),
    ),
    (
        Figure::MemorySynced,
        line("memory in sync (RssAnon)", "MiB", "1,610", Some(80.0), 1),
    ),
    (
        Figure::MemoryPeak,
        line("memory, peak (VmHWM)", "MiB", "2,106", Some(120.0), 1),
    ),
    (
        Figure::StormP50,
        line("many changes, p50", "ms", "", None, 1),
    ),
    (
        Figure::StormP99,
        line("many changes, p99", "ms", "", Some(100.0), 1),
    ),
    (
        Figure::StormFirst,
        line("many changes, p99 of the first quarter", "ms", "", None, 1),
    ),
    (
        Figure::StormLast,
        line("many changes, p99 of the last quarter", "ms", "", None, 1),
    ),
    (
        Figure::StormBacklog,
        line(
            "many changes: arrivals owed at the worst moment",
            "",
            "",
            None,
            0,
        ),
    ),
    (
        Figure::StormDrain,
        line(
            "many changes: nothing owed after the last",
            "ms",
            "",
            None,
            0,
        ),
    ),
    (
        Figure::StormCpu,
        line("many changes: CPU, of one core", "%", "", None, 0),
    ),
    (
        Figure::MetadataBytes,
        line(
            "sent for changes of metadata only",
            "bytes",
            "0",
            Some(0.0),
            0,
        ),
    ),
    (
        Figure::MetadataUnits,
        line("units recompiled for them", "", "", Some(0.0), 0),
    ),
];

/// Of two replicas on the first mesh.
pub const SPREAD: &[(Figure, Line)] = &[
    (
        Figure::SpreadEven,
        line(
            "a second replica joins: within 10 % of even",
            "s",
            "",
            None,
            1,
        ),
    ),
    (
        Figure::SpreadStorm,
        line("connections in the busiest second", "", "", None, 0),
    ),
    (
        Figure::SpreadBegun,
        line("connections until the end", "", "", None, 0),
    ),
    (
        Figure::SpreadUnchanged,
        line("resent though unchanged", "resources", "", Some(0.0), 0),
    ),
];

/// Of the large mesh.
pub const LARGE: &[(Figure, Line)] = &[
    (
        Figure::LargeMemory,
        line("memory in sync (RssAnon)", "MiB", "3,323", Some(150.0), 1),
    ),
    (
        Figure::LargeSplitP50,
        line("split change, p50", "ms", "3,650", Some(15.0), 1),
    ),
    (
        Figure::LargeSplitP99,
        line("split change, p99", "ms", "6,685", Some(50.0), 1),
    ),
];

/// Of the very large mesh.
pub const HUGE: &[(Figure, Line)] = &[
    (
        Figure::HugeMemory,
        line("memory in sync (RssAnon)", "MiB", "", Some(600.0), 1),
    ),
    (
        Figure::HugePeak,
        line("memory, peak (VmHWM)", "MiB", "", None, 1),
    ),
    (
        Figure::HugeReady,
        line("from its start until ready", "s", "", None, 2),
    ),
    (
        Figure::HugeConnectAll,
        line("connect at once: all in sync", "s", "", None, 2),
    ),
    (
        Figure::HugeEndpointP50,
        line("endpoint change, p50", "ms", "", None, 1),
    ),
    (
        Figure::HugeEndpointP99,
        line("endpoint change, p99", "ms", "", Some(50.0), 1),
    ),
    (
        Figure::HugeCommonP99,
        line(
            "endpoint change of a service that all use, p99",
            "ms",
            "",
            None,
            1,
        ),
    ),
    (
        Figure::ColdCompile,
        line("first compile", "s", "", Some(1.0), 3),
    ),
    (
        Figure::ChangeCompile,
        line("compile of one endpoint's change", "ms", "", Some(1.0), 3),
    ),
];

/// The measured values: of each figure one value for each run.
#[derive(Debug, Clone, Default)]
pub struct Ledger(BTreeMap<Figure, Vec<f64>>);

impl Ledger {
    /// Notes a value.
    pub fn note(&mut self, figure: Figure, value: f64) {
        self.0.entry(figure).or_default().push(value);
    }

    /// The values of all runs.
    pub fn sample(&self, figure: Figure) -> Option<Sample> {
        let values = self.0.get(&figure)?;
        Some(Sample::new(values.iter().copied()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_all_runs_are_kept() {
        let mut ledger = Ledger::default();
        for value in [3.0, 1.0, 2.0] {
            ledger.note(Figure::ConnectAll, value);
        }
        let sample = ledger.sample(Figure::ConnectAll).unwrap();
        assert_eq!(
            (sample.min(), sample.median(), sample.max()),
            (1.0, 2.0, 3.0)
        );
        assert!(ledger.sample(Figure::SplitP50).is_none());
    }
}
