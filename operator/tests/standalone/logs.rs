//! Access logs: an object switches them by the runtime layer, and the listeners stay.

use crate::harness::Fixture;
use crate::programmed;

const PODS: [&str; 2] = ["frontend-1", "reviews-v1-1"];

fn telemetry(selector: &str, percent: u8) -> String {
    format!(
        "
apiVersion: heddle.dev/v1alpha1
kind: Telemetry
metadata: {{name: logs, namespace: shop}}
spec: {{{selector} accessLogs: {{percent: {percent}}}}}
"
    )
}

pub fn are_switched_without_a_listener_change(mesh: &Fixture) {
    let in_sync = || mesh.until_in_sync(&["shop/frontend-1", "shop/reviews-v1-1"]);
    let counts = || PODS.map(|pod| mesh.access_log(pod).len());
    // Only the v1 of the service has a sidecar.
    let requests = |count: usize| [count, mesh.requests(count).of("v1")];
    in_sync();
    requests(5);
    let listeners = PODS.map(|pod| mesh.listener_changes(pod));

    mesh.apply("logs.yaml", &telemetry("", 100));
    let status = mesh.status("Telemetry", "logs", programmed(1));
    assert_eq!(status.proxies, "2/2");
    let [client, server] = requests(10);
    mesh.eventually("both sidecars log", || counts() == [client, server]);
    let of_client = &mesh.access_log("frontend-1")[0];
    assert_eq!(of_client["destination_service"], "reviews");
    assert_eq!(of_client["status"], 200);

    let selector = "selector: {matchLabels: {app: reviews}},";
    mesh.apply("logs.yaml", &telemetry(selector, 100));
    let status = mesh.status("Telemetry", "logs", programmed(2));
    assert_eq!(status.proxies, "1/1");
    in_sync();
    let server = server + requests(10)[1];
    mesh.eventually("the selected sidecar logs", || counts()[1] == server);

    mesh.remove("logs.yaml", "Telemetry", "logs");
    in_sync();
    requests(10);
    // Lines come in the order of requests: with the next one, those of the ten would be there.
    mesh.apply("logs.yaml", &telemetry("", 100));
    mesh.status("Telemetry", "logs", programmed(1));
    let [more, of_v1] = requests(10);
    let expected = [client + more, server + of_v1];
    mesh.eventually("both sidecars log again", || counts() == expected);
    assert_eq!(PODS.map(|pod| mesh.listener_changes(pod)), listeners);
}
