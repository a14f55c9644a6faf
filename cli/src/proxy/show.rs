//! The report in words: a table, one sidecar in full, JSON.

use anyhow::Result;
use heddle_acceptor::clean;
use serde_json::{Value, json};

use super::merge::{MeshReport, Placed};
use super::state::{ProxyState, SyncSummary as _, age};
use crate::findings::plural;
use crate::table;

const HEAD: [&str; 7] = [
    "PROXY",
    "REPLICA",
    "SCOPE",
    "RESOURCES",
    "SENT",
    "ENVOY",
    "STATE",
];
const UNKNOWN: &str = "-";
/// The longest fact about a sidecar, in characters.
const MAX_FACT: usize = 4096;

/// A row for each sidecar, and how many there are.
pub fn table(report: &MeshReport, now: u64) -> String {
    let rows: Vec<Vec<String>> = report
        .proxies
        .iter()
        .map(|placed| row(report, placed, now))
        .collect();
    let well = report
        .proxies
        .iter()
        .filter(|placed| placed.state.is_well())
        .count();
    let asked = report
        .replicas
        .iter()
        .filter(|asked| asked.outcome.is_ok())
        .count();
    format!(
        "{}\n{}, {well} in sync, as {} of the control plane {}",
        table::render(&HEAD, &rows),
        plural(rows.len(), "sidecar"),
        plural(asked, "replica"),
        if asked == 1 { "says" } else { "say" },
    )
}

fn row(report: &MeshReport, placed: &Placed, now: u64) -> Vec<String> {
    let state = &placed.state;
    vec![
        state.proxy.clone(),
        replica(placed).to_owned(),
        state
            .scope
            .map_or_else(|| UNKNOWN.to_owned(), |scope| scope.to_string()),
        state.resources.to_string(),
        sent(state.bytes),
        or_unknown(&state.version).to_owned(),
        report.summary(placed, now),
    ]
}

/// All that is known of each, one fact a line.
pub fn details(report: &MeshReport, now: u64) -> String {
    let all: Vec<String> = report
        .proxies
        .iter()
        .map(|placed| detail(report, placed, now))
        .collect();
    all.join("\n\n")
}

fn detail(report: &MeshReport, placed: &Placed, now: u64) -> String {
    let state = &placed.state;
    let since = match (state.connected, state.since) {
        (true, Some(since)) => format!("for {}", age(now, since)),
        (true, None) => "yes".to_owned(),
        (false, Some(since)) => format!("not for {}", age(now, since)),
        (false, None) => "never".to_owned(),
    };
    let scope = state
        .scope
        .map_or_else(|| UNKNOWN.to_owned(), |scope| plural(scope, "destination"));
    let facts = [
        ("identity", or_unknown(&state.identity).to_owned()),
        ("envoy", or_unknown(&state.version).to_owned()),
        ("bootstrap", bootstrap(state)),
        (
            "pod",
            if state.ready { "ready" } else { "not ready" }.to_owned(),
        ),
        ("replica", replica(placed).to_owned()),
        ("connected", since),
        ("state", report.summary(placed, now)),
        ("scope", scope),
        ("resources", state.resources.to_string()),
        (
            "sent",
            format!(
                "{} in {}",
                sent(state.bytes),
                plural_u64(state.responses, "response")
            ),
        ),
    ];
    let rejected = state
        .rejected
        .iter()
        .map(|text| ("rejected", text.as_str()));
    let facts = facts.iter().map(|(name, value)| (*name, value.as_str()));
    let facts = facts.chain(rejected).map(|(name, value)| {
        let value = clean(value, MAX_FACT);
        format!("  {name:<9}  {value}")
    });
    let proxy = std::iter::once(clean(&state.proxy, MAX_FACT));
    proxy.chain(facts).collect::<Vec<_>>().join("\n")
}

/// For programs: the sidecars as the replicas describe them, each with its replica, and whether that is all.
///
/// # Errors
/// The state of a sidecar cannot be written as JSON.
pub fn json(report: &MeshReport) -> Result<Value> {
    let replicas: Vec<Value> = report
        .replicas
        .iter()
        .map(|asked| match &asked.outcome {
            Ok(serves) => json!({ "replica": asked.name, "asked": true, "proxies": serves }),
            Err(why) => json!({ "replica": asked.name, "asked": false, "error": why }),
        })
        .collect();
    let proxies: Result<Vec<Value>, _> = report.proxies.iter().map(described).collect();
    Ok(json!({
        "complete": report.is_complete(),
        "replicas": replicas,
        "proxies": proxies?,
    }))
}

fn described(placed: &Placed) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(&placed.state)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("replica".to_owned(), json!(placed.replica));
    }
    Ok(value)
}

fn bootstrap(state: &ProxyState) -> String {
    match (state.bootstrap, state.has_older_bootstrap()) {
        (Some(version), Some(true)) => format!("version {version}, older than the current one"),
        (Some(version), Some(false) | None) => format!("version {version}"),
        (None, _) => UNKNOWN.to_owned(),
    }
}

fn replica(placed: &Placed) -> &str {
    placed.replica.as_deref().unwrap_or(UNKNOWN)
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { UNKNOWN } else { text }
}

fn sent(bytes: u64) -> String {
    format!("{} kB", bytes.div_ceil(1000))
}

fn plural_u64(count: u64, noun: &str) -> String {
    plural(usize::try_from(count).unwrap_or(usize::MAX), noun)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::merge::{Replica, merge};
    use super::*;

    fn report() -> MeshReport {
        let well = ProxyState {
            proxy: "shop/cart-1".to_owned(),
            connected: true,
            since: Some(100),
            ready: true,
            in_sync: true,
            scope: Some(5),
            resources: 40,
            bytes: 38_400,
            responses: 12,
            version: "envoy 1.40.0".to_owned(),
            identity: "spiffe://cluster.local/ns/shop/sa/cart".to_owned(),
            ..ProxyState::default()
        };
        let gone = ProxyState {
            proxy: "shop/cart-2".to_owned(),
            ..ProxyState::default()
        };
        merge(vec![
            Replica {
                name: "heddle-operator-a".to_owned(),
                answer: Ok(vec![well, gone]),
            },
            Replica {
                name: "heddle-operator-b".to_owned(),
                answer: Err("no answer in 15 s".to_owned()),
            },
        ])
    }

    #[test]
    fn a_table_has_a_row_for_each() {
        let expected = "\
PROXY        REPLICA            SCOPE  RESOURCES  SENT   ENVOY         STATE
shop/cart-1  heddle-operator-a  5      40         39 kB  envoy 1.40.0  in sync
shop/cart-2  -                  -      0          0 kB   -             not connected to a replica that was asked
2 sidecars, 1 in sync, as 1 replica of the control plane says";
        assert_eq!(table(&report(), 160), expected);
    }

    #[test]
    fn one_in_full_keeps_the_words_of_envoy() {
        let mut report = report();
        report.keep("shop/cart-1");
        for placed in &mut report.proxies {
            placed.state.rejected = vec!["Cluster c: bad\nfield".to_owned()];
        }
        let text = details(&report, 160);
        for line in [
            "shop/cart-1",
            "  connected  for 60 s",
            "  scope      5 destinations",
            "  sent       39 kB in 12 responses",
            "  rejected   Cluster c: bad field",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    proptest! {
        /// A sidecar chooses some of these texts, and an older replica may pass them on as they are.
        #[test]
        fn no_text_forges_a_line(
            proxy in any::<String>(), version in any::<String>(), identity in any::<String>(),
            rejected in prop::collection::vec(any::<String>(), 0..3), width in 0usize..70_000,
        ) {
            let rejections = rejected.len();
            let state = ProxyState {
                proxy: format!("a{proxy}"),
                version: format!("{version}{}", "v".repeat(width)),
                identity,
                rejected,
                connected: true,
                ..ProxyState::default()
            };
            let replica = Replica { name: "r".to_owned(), answer: Ok(vec![state]) };
            let report = merge(vec![replica]);
            prop_assert_eq!(table(&report, 160).split('\n').count(), 3);
            prop_assert_eq!(details(&report, 160).split('\n').count(), 11 + rejections);
            let printed = table(&report, 160) + &details(&report, 160);
            prop_assert!(printed.chars().all(|c| c == '\n' || !c.is_control()));
        }
    }

    #[test]
    fn json_says_whether_it_is_all() {
        let value = json(&report()).unwrap();
        assert_eq!(value["complete"], false);
        assert_eq!(
            value["replicas"][1],
            serde_json::json!({"replica": "heddle-operator-b", "asked": false, "error": "no answer in 15 s"})
        );
        assert_eq!(value["proxies"][0]["replica"], "heddle-operator-a");
        assert_eq!(value["proxies"][0]["inSync"], true);
        assert_eq!(value["proxies"][1]["replica"], Value::Null);
    }
}
