//! Objects of namespace `shop` as YAML documents, for a client's sidecar on loopback and the services that it calls.

/// A service without a selector: a port of this name and number, which its endpoints have too.
pub fn service(
    name: &str,
    index: usize,
    (port, number): (&str, u16),
    endpoints: &[&str],
) -> String {
    let ports = format!("ports: [{{name: {port}, port: {number}}}]");
    let endpoints = endpoints.join("]}, {addresses: [");
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{clusterIP: 10.96.0.{index}, {ports}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
{ports}
endpoints: [{{addresses: [{endpoints}]}}]
"
    )
}

/// A policy for the calls to a service, with its other fields in flow style.
pub fn traffic_policy(service: &str, fields: &str) -> String {
    format!(
        "---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: {service}, namespace: shop}}
spec: {{target: {{service: {service}}}, {fields}}}
"
    )
}

/// The pod `client`. Its sidecar has `<net>.3` and `<net>.4`, and listens for calls where `upstreams` (`shop/<service>:<port>=<address>`)
/// say.
pub fn client(net: &str, upstreams: &[String]) -> String {
    let upstreams = upstreams.join(", ");
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: shop, annotations: {{heddle.dev/standalone-app: {net}.4, heddle.dev/standalone-upstreams: \"{upstreams}\"}}}}
spec: {{serviceAccountName: client, containers: [{{name: app}}]}}
status: {{podIPs: [{{ip: {net}.3}}]}}
"
    )
}
