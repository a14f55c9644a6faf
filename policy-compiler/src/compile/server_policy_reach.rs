//! The pods behind a service that do not keep its rate limits and protection from overload: they have no sidecar, or their port is left out of capture.

use std::collections::BTreeSet;

use heddle_crds::reason;

use super::lists::{named, workload};
use super::reach::Reach;
use super::service_targets::target;
use crate::finding::{Finding, ObjectRef};
use crate::world::{Port, Service, selects};

/// Reports that no pod keeps the limits of an object, which sets them in a field.
pub(crate) fn observed((object, field): (&ObjectRef, &'static str)) -> Finding {
    let message = "the Mesh observes: no limit is kept";
    let finding = Finding::info(object, field, reason::AUDIT, message);
    finding.fix("set spec.mode of the Mesh to Permissive once it may refuse requests")
}

impl Reach<'_> {
    /// Reports the pods that keep no limit of an object, which sets the limits of a port of a service, or of all its ports, in a
    /// field.
    pub(crate) fn report_limits(
        &self,
        (object, field): (&ObjectRef, &'static str),
        service: &Service,
        port: Option<Port>,
    ) -> Vec<Finding> {
        if service.selector.is_empty() {
            return Vec::new();
        }
        let all = self.without_sidecar.iter();
        let pods = all.filter(|template| selects(&service.selector, &template.labels));
        let workloads: BTreeSet<String> = pods.map(|template| workload(template)).collect();
        let mut findings = Vec::new();
        if !workloads.is_empty() {
            let message = format!(
                "pods of service {} have no sidecar, so they keep no limit: {}",
                service.name,
                named(workloads.into_iter())
            );
            let finding = Finding::warning(object, field, reason::NO_SIDECAR, message);
            findings.push(
                finding.fix("label the namespace heddle.dev/inject=enabled and restart the pods"),
            );
        }
        let uncaptured = self.uncaptured(service, port);
        if !uncaptured.is_empty() {
            let message = format!(
                "{} left out of capture by heddle.dev/exclude-inbound-ports: no limit is kept there",
                named(uncaptured.into_iter())
            );
            let finding = Finding::warning(object, field, reason::NOT_CAPTURED, message);
            findings.push(finding.fix("remove the port from the annotation of the pods"));
        }
        findings
    }

    /// The ports of pods, with their workloads, to which a port of the service leads past the sidecar.
    fn uncaptured(&self, service: &Service, port: Option<Port>) -> BTreeSet<String> {
        let meshed = self.meshed.iter().map(|(template, _)| *template);
        let templates = meshed.filter(|template| selects(&service.selector, &template.labels));
        let ports = templates.flat_map(|template| {
            let own = service.ports.iter();
            let own = own.filter(move |(number, _)| port.is_none_or(|port| port == **number));
            let own = own.filter_map(|(_, port)| target(&port.target, template));
            let out = own.filter(|port| template.uncaptured.contains(port));
            out.map(|port| format!("port {port} of {} is", workload(template)))
        });
        ports.collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::{World, compile, ingest};

    const POD: &str = "
---
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: shop, labels: {app: batch}}
spec:
  serviceAccountName: batch
  initContainers: [INIT]
  containers: [{name: app, image: x, ports: [{containerPort: 8080}, {containerPort: 9090}]}]
status: {phase: Running, podIPs: [{ip: IP}], conditions: [{type: Ready, status: 'True'}]}
";
    const SIDECAR: &str = "{name: heddle-init, env: [{name: HEDDLE_EXCLUDE_INBOUND_PORTS, value: '9090'}]}, {name: heddle-proxy, restartPolicy: Always}";
    const LIMITS: &str = "
apiVersion: v1
kind: Service
metadata: {name: batch, namespace: shop}
spec: {clusterIP: 10.96.1.97, selector: {app: batch}, ports: [{name: http, port: 80, targetPort: 9090}, {name: http-b, port: 81, targetPort: 8080}]}
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: all, namespace: shop}
spec: {target: {service: batch}, rateLimits: [{requests: 1}]}
---
apiVersion: heddle.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: one, namespace: shop}
spec: {target: {service: batch, port: 81}, rateLimits: [{requests: 1}]}
";

    fn pod(name: &str, init: &str, ip: &str) -> String {
        let pod = POD.replace("NAME", name).replace("INIT", init);
        pod.replace("IP", ip)
    }

    /// The names of the policies that are warned of, each with the code.
    fn warned(pods: &str) -> Vec<String> {
        let mut builder = World::builder();
        for read in ingest::parse_yaml("limits", &format!("{LIMITS}{pods}")).objects {
            builder.apply(read.object);
        }
        let findings = compile(&builder.world()).findings;
        let limits = findings
            .iter()
            .filter(|finding| finding.field == "spec.rateLimits");
        let mut warned: Vec<String> = limits
            .map(|finding| format!("{} {}", finding.object.name, finding.code))
            .collect();
        warned.sort();
        warned
    }

    #[test]
    fn a_pod_without_sidecar_keeps_no_limit() {
        let plain = pod("plain-0", "", "10.0.0.97");
        assert_eq!(warned(&plain), ["all NoSidecar", "one NoSidecar"]);
    }

    #[test]
    fn a_port_left_out_of_capture_keeps_no_limit() {
        let meshed = pod("batch-0", SIDECAR, "10.0.0.98");
        assert_eq!(warned(&meshed), ["all NotCaptured"]);
    }

    #[test]
    fn a_pod_with_a_sidecar_keeps_the_limits() {
        let captured = pod(
            "batch-0",
            "{name: heddle-proxy, restartPolicy: Always}",
            "10.0.0.98",
        );
        assert_eq!(warned(&captured), Vec::<String>::new());
    }
}
