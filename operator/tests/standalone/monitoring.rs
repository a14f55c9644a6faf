//! The queries of config/monitoring, and of tools that read Istio's metrics, have data in a real Prometheus that scrapes this mesh.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Write;

use promql_parser::parser;
use serde::Deserialize;

use crate::harness::Fixture;
use crate::prometheus::Prometheus;
use crate::queries::{Query, folder, observed, of_dashboards, of_rules, rules};
use crate::{bytes, callers, programmed, split};

/// Calls to the service alone fail.
const FAULT: &str = "
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: faults, namespace: shop}
spec: {target: {service: reviews-v1}, faults: [{abort: {status: 503, percent: 100}}]}
";

/// Queries of another project, with the traffic that they are about.
#[derive(Deserialize)]
struct OfTool {
    /// The file of the project that has them.
    source: String,
    queries: Vec<String>,
}

/// The interval of rates. Queries have to find two scrapes in it, on a slow machine too.
const RATE: &str = "30s";

/// Requests answered 200, 403 and 503, in plain text and by mutual TLS, and connections of bytes.
fn traffic(mesh: &Fixture) {
    mesh.requests(10);
    mesh.anonymous();
    let _ = crate::harness::request(mesh.address(55, 9080));
    if let Some(mut stream) = bytes::greeted(mesh.address(52, bytes::PORT)) {
        assert!(bytes::works(&mut stream));
        let _ = stream.flush();
    }
}

/// Changes of the mesh, so that there are compiles and acknowledgments in every interval.
fn changes(mesh: &Fixture, round: u32) {
    mesh.apply("split.yaml", &split(100 - round % 50, round % 50));
}

/// Waits until every query has a value. Prints those that have none.
fn all_have_data(mesh: &Fixture, prometheus: &Prometheus, queries: Vec<Query>) {
    let left = RefCell::new((queries, 1));
    let answered = || {
        let (queries, round) = &mut *left.borrow_mut();
        traffic(mesh);
        changes(mesh, *round);
        *round += 1;
        queries.retain(|(_, query)| {
            !prometheus
                .query(query)
                .is_ok_and(|values| !values.is_empty())
        });
        queries.is_empty()
    };
    mesh.eventually_or("all queries have data", answered, || {
        let (queries, _) = &*left.borrow();
        let answers = queries
            .iter()
            .map(|(place, query)| format!("{place}: {query}: {:?}", prometheus.query(query)));
        answers.collect::<Vec<_>>().join("\n")
    });
}

/// The queries of rules, the values that alerts compare, and the queries of dashboards.
fn own_queries() -> Vec<Query> {
    let mut queries = of_dashboards(RATE);
    for (name, query) in of_rules() {
        let parsed = parser::parse(&query).unwrap();
        let values = observed(&parsed).into_iter();
        queries.extend(values.map(|value| (name.clone(), value)));
    }
    queries
}

/// The queries of Kiali and Flagger.
fn queries_of_tools() -> Vec<Query> {
    let text = include_str!("../../../tests/monitoring/kiali_flagger.yaml")
        .replace("NAMESPACE", "shop")
        .replace("CLIENT", "frontend-1")
        .replace("SERVER", "reviews-v1-1")
        .replace("SERVICE", "reviews")
        .replace("INTERVAL", RATE);
    let all: Vec<OfTool> = serde_saphyr::from_str(&text).unwrap();
    let queries = all.into_iter().flat_map(|of| {
        let source = of.source;
        of.queries
            .into_iter()
            .map(move |query| (source.clone(), query))
    });
    queries.collect()
}

/// Waits until all targets are up.
fn is_well(mesh: &Fixture, prometheus: &Prometheus) {
    let up = RefCell::new(Vec::new());
    mesh.eventually("all targets are up", || {
        up.replace(prometheus.query("up == 1").unwrap_or_default());
        up.borrow().len() >= 3
    });
    // Of each pod, the container with the sidecar is a target, and no other.
    let up = up.into_inner();
    let pods: BTreeSet<&str> = up
        .iter()
        .filter_map(|of| of["metric"]["pod"].as_str())
        .collect();
    assert_eq!(
        pods,
        BTreeSet::from(["frontend-1", "operator-1", "reviews-v1-1"])
    );
    assert_eq!(up.len(), 3, "{up:?}");
}

pub fn queries_have_data(mesh: &Fixture) {
    let _taken = bytes::application(mesh.address(121, bytes::PORT));
    mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    let prometheus = Prometheus::start(mesh, &folder().canonicalize().unwrap().join("rules.yaml"));
    is_well(mesh, &prometheus);
    mesh.apply("faults.yaml", FAULT);
    mesh.status("TrafficPolicy", "faults", programmed(1));
    // The first requests are answered, later ones denied.
    all_have_data(mesh, &prometheus, queries_of_tools());
    mesh.apply("callers.yaml", &callers("somebody", ""));
    mesh.status("AuthPolicy", "callers", programmed(1));

    let own = own_queries();
    let expected = rules().len();
    assert!(own.len() > 40 && expected > 12, "{} {expected}", own.len());
    all_have_data(mesh, &prometheus, own);
    mesh.eventually_or(
        "every rule is evaluated",
        || {
            let (all, unhealthy) = prometheus.unhealthy_rules();
            all == expected && unhealthy.is_empty()
        },
        || format!("{:?}", prometheus.unhealthy_rules()),
    );
    // The mesh is well, but for the service that answers 503 and the caller that is denied, and those only for a short time.
    let firing = prometheus.query("ALERTS{alertstate=\"firing\"}").unwrap();
    assert!(firing.is_empty(), "{firing:?}");
}
