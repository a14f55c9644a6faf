//! The callers in plain text of a namespace, as one document.

use serde::Serialize;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// The plan for a namespace.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The namespace.
    pub namespace: String,
    /// The seconds up to now that were looked at.
    pub window_seconds: u64,
    /// The seconds up to now in which every replica has listened.
    pub covered_seconds: u64,
    /// The time that was looked at. None: not known, for the flows are from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// The ports that accept plain text.
    pub open_ports: Vec<OpenPort>,
    /// The callers without a certificate.
    pub callers: Vec<PlainCaller>,
    /// Workloads with a sidecar that have not reported a call, and of which Strict would close a port: their callers are not known.
    pub without_report: Vec<String>,
    /// Workloads without a sidecar, of all namespaces: they call in plain text.
    pub without_sidecar: Vec<Unmeshed>,
    /// Limits of the reports.
    pub notes: Vec<String>,
    /// The effect of the mode Strict.
    pub verdict: Verdict,
}

/// A time with its day, in UTC, by the clock of the caller (RFC 3339).
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// Its beginning.
    pub from: String,
    /// Its end.
    pub to: String,
}

impl Seen {
    /// Returns the seconds up to `now`.
    pub fn until(now: OffsetDateTime, seconds: u64) -> Option<Self> {
        let now = now.replace_nanosecond(0).ok()?;
        let from = now - Duration::seconds(i64::try_from(seconds).ok()?);
        Some(Self {
            from: from.format(&Rfc3339).ok()?,
            to: now.format(&Rfc3339).ok()?,
        })
    }
}

/// A port of a workload that accepts plain text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenPort {
    /// The workload.
    pub workload: String,
    /// The port. None: every port that no pod, service or policy names.
    pub port: Option<u16>,
    /// `http`, `tcp`, or `detected`.
    pub protocol: &'static str,
    /// The object that lets it accept plain text, with its mode.
    pub reason: String,
    /// Whether it accepts plain text under `Mesh` `mode: Strict`, too: by an AuthPolicy.
    pub stays: bool,
}

/// The calls without a certificate to a workload, by service and protocol.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlainCaller {
    /// The workload that was called.
    pub workload: String,
    /// The service that leads to the port. None: none does.
    pub service: Option<String>,
    /// The ports that were called: one of them, if there are several. Empty: not known.
    pub ports: Vec<u16>,
    /// The protocol.
    pub protocol: String,
    /// Requests and ended connections in the window.
    pub count: u64,
    /// The seconds since the first of them in the window.
    pub first_seconds_ago: Option<u64>,
    /// The seconds since the last of them.
    pub last_seconds_ago: Option<u64>,
    /// The effect of the mode Strict on them.
    pub under_strict: Effect,
}

/// The effect of the mode Strict on calls in plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// They are refused.
    Refused,
    /// They pass: an AuthPolicy keeps the port open.
    Stays,
    /// They are refused already: they came before the port was closed.
    RefusedAlready,
}

/// A workload without a sidecar.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unmeshed {
    /// The workload.
    pub workload: String,
    /// Its living pods.
    pub pods: usize,
    /// Their addresses, as access logs have them.
    pub addresses: Vec<String>,
}

/// The effect of the mode Strict on the namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Every server has reported calls, and no caller that was seen is refused.
    RefusesNobodySeen,
    /// Callers are refused.
    RefusesCallers,
    /// A server of the namespace has not reported a call.
    #[default]
    NothingSeen,
}
