//! The effects of a change, as one document.

use serde::Serialize;

/// The effects of a change.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The objects that the change touches.
    pub objects: Vec<Object>,
    /// The findings that the change brings.
    pub new_findings: Vec<Finding>,
    /// The findings that the change ends.
    pub resolved_findings: Vec<Finding>,
    /// The conditions that change.
    pub conditions: Vec<Condition>,
    /// Callers that have requests that only pass before the change.
    pub denied: Vec<Permission>,
    /// Callers that have requests that only pass after the change.
    pub allowed: Vec<Permission>,
    /// Requests that take another way.
    pub rerouted: Vec<Rerouted>,
    /// The configuration of the sidecars.
    pub sidecars: Sidecars,
    /// The observed flows. None: none are known, and the plan judges all callers alike.
    pub flows: Option<Observed>,
    /// Reasons for which the change may have other effects.
    pub notes: Vec<String>,
    /// The verdict.
    pub worse: bool,
}

/// An object that the change touches.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    /// `added`, `changed` or `removed`.
    pub change: &'static str,
    /// Kind, namespace and name.
    pub object: String,
}

/// A finding.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// `error`, `warning` or `info`.
    pub severity: &'static str,
    /// Which object.
    pub object: String,
    /// The field.
    pub field: String,
    /// The code.
    pub code: String,
    /// The message.
    pub message: String,
    /// The fix.
    pub fix: String,
}

/// A condition that changes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which object.
    pub object: String,
    /// The type of the condition.
    #[serde(rename = "type")]
    pub kind: String,
    /// Status and reason before; None: there was none.
    pub before: Option<String>,
    /// Status and reason after; None: there is none.
    pub after: Option<String>,
    /// The message after.
    pub message: String,
    /// Whether it was good, or was not there, and is not good.
    pub worse: bool,
}

/// A change of the decision about callers at a port of a workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Permission {
    /// The workload that is called.
    pub workload: String,
    /// Its ports.
    pub ports: Vec<u16>,
    /// Whether it is so at every port that no pod, service or policy names.
    pub other_ports: bool,
    /// A request that is decided otherwise, or `a connection`.
    pub request: String,
    /// The decision before.
    pub before: String,
    /// The decision after.
    pub after: String,
    /// The callers.
    pub callers: Vec<Caller>,
}

/// A caller.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    /// The SPIFFE id; empty: without a certificate.
    pub identity: String,
    /// The workloads with that identity.
    pub workloads: Vec<String>,
    /// Requests and connections a second that were observed; None: none were.
    pub observed_per_second: Option<f64>,
}

/// Requests that take another way.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rerouted {
    /// The service that is called.
    pub service: String,
    /// Its port.
    pub port: u16,
    /// A request, or `a connection`.
    pub request: String,
    /// The namespaces of the callers.
    pub caller_namespaces: Vec<String>,
    /// The way before.
    pub before: String,
    /// The way after.
    pub after: String,
    /// Whether requests reach an application before and none after.
    pub cut: bool,
    /// Requests and connections a second of these callers that were observed.
    pub observed_per_second: Option<f64>,
}

/// The configuration of the sidecars.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sidecars {
    /// How many there are before.
    pub before: usize,
    /// How many there are after.
    pub after: usize,
    /// How many have another configuration.
    pub changed: usize,
    /// The bytes of all before.
    pub bytes_before: usize,
    /// The bytes of all after.
    pub bytes_after: usize,
    /// The largest changes, by workload.
    pub largest: Vec<Size>,
}

/// The configuration of a sidecar of a workload.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    /// The workload.
    pub workload: String,
    /// Its sidecars.
    pub sidecars: usize,
    /// The bytes of each before.
    pub before: usize,
    /// The bytes of each after.
    pub after: usize,
    /// Resources that differ.
    pub resources: usize,
}

/// The observed flows.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Observed {
    /// The seconds up to now that their rates are of.
    pub window_seconds: u64,
    /// The seconds up to now in which every replica has listened.
    pub covered_seconds: u64,
    /// How many there are.
    pub flows: usize,
    /// Whether they are evidence of all callers. If not, the plan judges all callers alike.
    pub sufficient: bool,
}

impl Permission {
    /// Whether one of the callers has been observed.
    pub fn is_observed(&self) -> bool {
        let mut callers = self.callers.iter();
        callers.any(|caller| caller.observed_per_second.is_some())
    }

    /// Adds the ports of another one that differs in nothing else. Returns whether it is such a one.
    pub fn merge(&mut self, other: &Self) -> bool {
        let same = |one: &Caller, other: &Caller| one.identity == other.identity;
        let mut pairs = self.callers.iter().zip(&other.callers);
        let alike = (&self.workload, &self.request, &self.before, &self.after)
            == (&other.workload, &other.request, &other.before, &other.after)
            && self.callers.len() == other.callers.len()
            && pairs.all(|(one, other)| same(one, other));
        if !alike {
            return false;
        }
        self.ports.extend(&other.ports);
        self.ports.sort_unstable();
        self.other_ports |= other.other_ports;
        for (own, other) in self.callers.iter_mut().zip(&other.callers) {
            own.observed_per_second = own.observed_per_second.or(other.observed_per_second);
        }
        true
    }
}

/// A report with a text in each of its places.
#[cfg(test)]
pub fn hostile(text: &str) -> Report {
    let text = || text.to_owned();
    let finding = || Finding {
        severity: "error",
        object: text(),
        field: text(),
        code: text(),
        message: text(),
        fix: text(),
    };
    let permission = || hostile_permission(text().as_str());
    Report {
        objects: vec![Object {
            change: "added",
            object: text(),
        }],
        new_findings: vec![finding()],
        resolved_findings: vec![finding()],
        conditions: vec![Condition {
            object: text(),
            kind: text(),
            before: Some(text()),
            after: Some(text()),
            message: text(),
            worse: true,
        }],
        denied: vec![permission()],
        allowed: vec![permission()],
        rerouted: vec![Rerouted {
            service: text(),
            port: 80,
            request: text(),
            caller_namespaces: vec![text()],
            before: text(),
            after: text(),
            cut: true,
            observed_per_second: None,
        }],
        sidecars: Sidecars {
            changed: 1,
            largest: vec![Size {
                workload: text(),
                sidecars: 1,
                before: 1,
                after: 1,
                resources: 1,
            }],
            ..Sidecars::default()
        },
        flows: None,
        notes: vec![text()],
        worse: true,
    }
}

#[cfg(test)]
fn hostile_permission(text: &str) -> Permission {
    let text = || text.to_owned();
    let callers = [vec![], vec![text()], vec![text(), text()]].map(|workloads| Caller {
        identity: text(),
        workloads,
        observed_per_second: Some(1.0),
    });
    Permission {
        workload: text(),
        ports: vec![80],
        other_ports: true,
        request: text(),
        before: text(),
        after: text(),
        callers: callers.to_vec(),
    }
}
