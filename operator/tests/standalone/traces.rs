//! Traces: an object changes their share by the runtime layer, and the listeners stay.

use std::collections::BTreeSet;

use crate::collector::Collector;
use crate::harness::Fixture;
use crate::programmed;

const PODS: [&str; 2] = ["frontend-1", "reviews-v1-1"];
const MESH: &str = "
apiVersion: heddle.dev/v1alpha1
kind: Mesh
metadata: {name: default}
spec: {telemetry: {collector: {address: {host: NET.200, port: 4317}}, tracing: {percent: 0}}}
";

fn telemetry(percent: u8) -> String {
    format!(
        "
apiVersion: heddle.dev/v1alpha1
kind: Telemetry
metadata: {{name: traces, namespace: shop}}
spec: {{tracing: {{percent: {percent}}}}}
"
    )
}

pub fn change_their_share_without_a_listener_change(mesh: &Fixture) {
    let collector = Collector::start(&mesh.address(200, 4317).to_string()).unwrap();
    let in_sync = || mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    in_sync();
    let before = PODS.map(|pod| mesh.listener_changes(pod));
    mesh.apply("mesh.yaml", MESH);
    // The tracer is a part of listeners.
    mesh.eventually("both sidecars have a tracer", || {
        let now = PODS.map(|pod| mesh.listener_changes(pod));
        now.iter().zip(&before).all(|(now, before)| now != before)
    });
    in_sync();
    let listeners = PODS.map(|pod| mesh.listener_changes(pod));
    let mut expected = [0, 0];
    let spans = || {
        let spans = collector.spans();
        let of = |service: &str| spans.iter().filter(|of| of.service == service).count();
        PODS.map(of)
    };
    mesh.requests(10);

    for (generation, percent) in [(1, 100), (2, 0), (3, 100)] {
        mesh.apply("traces.yaml", &telemetry(percent));
        let status = mesh.status("Telemetry", "traces", programmed(generation));
        assert_eq!(status.proxies, "2/2");
        // Only the v1 of the service has a sidecar.
        let server = mesh.requests(10).of("v1");
        if percent == 100 {
            expected = [expected[0] + 10, expected[1] + server];
            // Spans come in the order of requests: those of before would be there.
            mesh.eventually("the spans of both sidecars", || spans() == expected);
        }
    }
    assert_eq!(PODS.map(|pod| mesh.listener_changes(pod)), listeners);
    let names: BTreeSet<String> = collector
        .spans()
        .into_iter()
        .map(|of| of.span.name)
        .collect();
    assert_eq!(names, BTreeSet::from(["reviews.shop:9080".to_owned()]));
}
