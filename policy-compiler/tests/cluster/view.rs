//! Views of compiled worlds in few words.

use std::collections::BTreeSet;
use std::sync::Arc;

use heddle_policy_compiler::{Compiled, Destination, NamespacedName, Scope, print};
use serde_json::Value;

/// The resources of a pod's view as JSON, by kind and name; with these destinations in its scope.
pub fn view(compiled: &Compiled, proxy: &str, active: &[&str]) -> Vec<(String, Value)> {
    view_of(compiled, ("shop", proxy), active)
}

/// The same for a pod of any namespace.
pub fn view_of(
    compiled: &Compiled,
    (namespace, proxy): (&str, &str),
    active: &[&str],
) -> Vec<(String, Value)> {
    let active = active.iter().map(|text| text.parse().unwrap()).collect();
    let pod = NamespacedName::new(namespace, proxy);
    seen(compiled, &pod, &active, &BTreeSet::new())
}

/// The cluster with which a proxy's on-demand request for an address is answered.
pub fn on_demand(compiled: &Compiled, proxy: &str, at: &str) -> String {
    let name = Compiled::on_demand_name(at.parse().unwrap(), "1");
    let wanted = BTreeSet::from([Arc::clone(&name)]);
    let pod = NamespacedName::new("shop", proxy);
    let all = seen(compiled, &pod, &BTreeSet::new(), &wanted);
    resource(&all, &format!("Cluster {name}")).to_string()
}

fn seen(
    compiled: &Compiled,
    pod: &NamespacedName,
    active: &BTreeSet<Destination>,
    wanted: &BTreeSet<Arc<str>>,
) -> Vec<(String, Value)> {
    let (none, names) = (BTreeSet::new(), BTreeSet::new());
    let scope = Scope {
        active,
        draining: &none,
        granted: wanted,
        retired: &names,
        denied: &names,
        tapped: false,
    };
    let view = compiled.view(pod, &scope).unwrap();
    let resources = view.parts.iter().flat_map(|part| &part.resources);
    resources
        .map(|r| {
            (
                format!("{:?} {}", r.key.kind, r.key.name),
                print::to_json(r),
            )
        })
        .collect()
}

/// One resource; null if it is not there.
pub fn resource(view: &[(String, Value)], name: &str) -> Value {
    let found = view.iter().find(|(key, _)| key == name);
    found.map(|(_, json)| json.clone()).unwrap_or_default()
}

/// The endpoints of a cluster: `address:port`, and ` plain` where no mTLS is spoken.
pub fn endpoints(view: &[(String, Value)], cluster: &str) -> Vec<String> {
    let assignment = resource(view, &format!("Endpoints {cluster}"));
    let mut found = Vec::new();
    for locality in assignment["endpoints"].as_array().into_iter().flatten() {
        for endpoint in locality["lb_endpoints"].as_array().into_iter().flatten() {
            let at = &endpoint["endpoint"]["address"]["socket_address"];
            let plain =
                &endpoint["metadata"]["filter_metadata"]["envoy.transport_socket_match"]["heddle"];
            let plain = plain.as_str().map(|_| " plain").unwrap_or_default();
            let ip = at["address"].as_str().unwrap();
            found.push(format!("{ip}:{}{plain}", at["port_value"]));
        }
    }
    found
}
