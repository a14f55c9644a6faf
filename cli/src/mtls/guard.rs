//! The reasons against a flip to mutual TLS alone.

use super::report::{Effect, PlainCaller, Report};
use super::text::ago;
use crate::findings::plural;
use crate::flows::Flows;
use crate::mesh::wait::Pending;
use crate::proxy::state::ProxyState;

/// The first version of the bootstrap with which a sidecar reports its traffic.
const REPORTING_BOOTSTRAP: u32 = 4;
/// So many names of a list are printed.
const NAMES: usize = 30;

/// Returns the reasons against a flip by the plans of its namespaces. None: it refuses no caller that was seen, and all were looked at.
pub fn against(reports: &[Report], flows: &Flows) -> Vec<String> {
    let changing = |report: &&Report| {
        let mut open = report.open_ports.iter();
        open.any(|port| !port.stays) || !report.without_report.is_empty()
    };
    let changing: Vec<&Report> = reports.iter().filter(changing).collect();
    let mut reasons: Vec<String> = cut_off(reports).collect();
    if reports.is_empty() {
        reasons.push(
            "no pod of the mesh has a sidecar, so no caller can have been seen; label a namespace heddle.dev/inject=enabled and restart its pods first"
                .to_owned(),
        );
    }
    for report in &changing {
        if let [_, ..] = &*report.without_report {
            reasons.push(format!(
                "{} of {} reported no call in {} s, so their callers are not known: {}",
                plural(report.without_report.len(), "workload"),
                report.namespace,
                report.covered_seconds,
                named(&report.without_report)
            ));
        }
    }
    if changing.is_empty() {
        return reasons;
    }
    reasons.extend(flows.gaps());
    reasons
}

/// The callers that are refused after the flip, in words.
pub fn cut_off(reports: &[Report]) -> impl Iterator<Item = String> {
    let callers = reports.iter().flat_map(|report| &report.callers);
    let refused = callers.filter(|of| of.under_strict == Effect::Refused);
    refused.map(caller)
}

fn caller(of: &PlainCaller) -> String {
    let ports: Vec<String> = of.ports.iter().map(ToString::to_string).collect();
    let port = match &*ports {
        [] => String::new(),
        some => format!(" port {}", some.join(" or ")),
    };
    let service = of.service.as_ref();
    let service = service.map_or_else(String::new, |of| format!(" by service {of}"));
    let what = if of.protocol == "tcp" {
        "connection"
    } else {
        "request"
    };
    let count = plural(usize::try_from(of.count).unwrap_or(usize::MAX), what);
    format!(
        "callers in plain text of {}{port}{service}: {count}, the last {}",
        of.workload,
        ago(of.last_seconds_ago)
    )
}

/// The sidecars of these namespaces that cannot report their callers.
pub fn mute<'a>(
    states: impl Iterator<Item = &'a ProxyState>,
    reports: &[Report],
) -> Option<String> {
    let of = |state: &&ProxyState| {
        let namespace = state.proxy.split_once('/').map_or("", |(of, _)| of);
        state.bootstrap.is_some_and(|of| of < REPORTING_BOOTSTRAP)
            && reports.iter().any(|report| report.namespace == namespace)
    };
    let mute: Vec<String> = states.filter(of).map(|of| of.proxy.clone()).collect();
    (!mute.is_empty()).then(|| {
        format!(
            "{} of a bootstrap before version {REPORTING_BOOTSTRAP} cannot report callers; restart: {}",
            plural(mute.len(), "pod"),
            named(&mute)
        )
    })
}

/// Whether no sidecar of these namespaces is connected: then no report is of now.
pub fn unconnected<'a>(
    mut states: impl Iterator<Item = &'a ProxyState>,
    reports: &[Report],
) -> Option<String> {
    let unseen = !reports.is_empty() && !states.any(|state| state.connected);
    unseen.then(|| {
        "pods have sidecars, and none of them is connected to the control plane, so nothing is known of their callers now; run heddle proxy status"
            .to_owned()
    })
}

/// The replicas of the control plane that could not be asked: their sidecars may be missing.
pub fn unasked<'a>(replicas: impl Iterator<Item = (&'a str, &'a str)>) -> Option<String> {
    let names = replicas.map(|(replica, reason)| format!("{replica} ({reason})"));
    let names: Vec<String> = names.collect();
    (!names.is_empty()).then(|| {
        format!(
            "{} of the control plane could not be asked for the sidecars; repeat the command when they answer: {}",
            plural(names.len(), "replica"),
            named(&names)
        )
    })
}

/// The ports that accept plain text after the flip, too.
pub fn kept(reports: &[Report]) -> impl Iterator<Item = String> {
    let ports = reports.iter().flat_map(|report| &report.open_ports);
    ports.filter(|port| port.stays).map(|of| {
        let workload = &of.workload;
        let port = of.port;
        let port = port.map_or_else(|| "other ports".to_owned(), |port| format!("port {port}"));
        format!("{workload} {port} ({})", of.reason)
    })
}

/// The sidecars that may still send plain text, for they have not acknowledged their configuration.
pub fn unsettled(pending: &[Pending]) -> Option<String> {
    let names = pending
        .iter()
        .map(|of| format!("{} ({})", of.proxy, of.reason));
    let names: Vec<String> = names.collect();
    (!names.is_empty()).then(|| {
        format!(
            "{} not acknowledged the configuration by which they call others by mTLS: {}",
            match names.len() {
                1 => "1 sidecar or replica has".to_owned(),
                many => format!("{many} sidecars or replicas have"),
            },
            named(&names)
        )
    })
}

fn named(names: &[String]) -> String {
    let (first, others) = names.split_at(names.len().min(NAMES));
    let first = first.join(", ");
    match others.len() {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_that_cannot_report_or_are_away_or_have_not_acknowledged_are_a_reason() {
        let report = |namespace: &str| Report {
            namespace: namespace.to_owned(),
            ..Report::default()
        };
        let old = |proxy: &str, bootstrap| ProxyState {
            proxy: proxy.to_owned(),
            bootstrap,
            ..ProxyState::default()
        };
        let states = [
            old("shop/a", Some(3)),
            old("bank/b", Some(3)),
            old("shop/c", Some(4)),
            old("shop/d", None),
        ];
        let text = mute(states.iter(), &[report("shop")]).unwrap();
        assert!(
            text.starts_with("1 pod ") && text.ends_with(": shop/a"),
            "{text}"
        );
        assert_eq!(mute(states.iter(), &[report("till")]), None);
        let connected = ProxyState {
            connected: true,
            ..old("shop/e", Some(4))
        };
        let none = unconnected(states.iter(), &[report("shop")]).unwrap();
        assert!(none.contains("none of them is connected"), "{none}");
        let some = states.iter().chain([&connected]);
        assert_eq!(unconnected(some, &[report("shop")]), None);
        assert_eq!(unconnected(std::iter::empty(), &[]), None);
        let text = unasked([("heddle-0", "no answer")].into_iter()).unwrap();
        assert!(
            text.starts_with("1 replica ") && text.ends_with(": heddle-0 (no answer)"),
            "{text}"
        );
        assert_eq!(unasked(std::iter::empty()), None);
        let pending = Pending {
            proxy: "bank/b".to_owned(),
            reason: "2 resources not acknowledged".to_owned(),
        };
        let text = unsettled(&[pending]).unwrap();
        assert!(
            text.contains("1 sidecar or replica has not acknowledged"),
            "{text}"
        );
        assert!(
            text.ends_with("bank/b (2 resources not acknowledged)"),
            "{text}"
        );
        assert_eq!(unsettled(&[]), None);
    }
}
