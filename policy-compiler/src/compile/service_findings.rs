//! Findings about services: calls that the mesh refuses and Kubernetes alone would not refuse.

use super::Compiled;
use super::endpoints::Misnamed;
use crate::envoy::tracing::REQUEST_ID;
use crate::finding::Finding;
use crate::traffic::RouteEntry;
use crate::world::{ExternalAddresses, NamespacedName, Near};

impl Compiled {
    /// The findings of one service, as compiled last.
    pub(super) fn service_findings(&self, name: &NamespacedName) -> Vec<Finding> {
        let service = super::service_ref(name);
        let mut findings = Vec::new();
        if !self.settings.passes_unknown(&name.namespace) && self.world.external.contains_key(name)
        {
            let message = "spec.outbound of the Mesh is Deny, and an ExternalName has no addresses that the mesh knows: connections to its host are refused";
            findings.push(
                Finding::warning(&service, "spec.externalName", "ExternalNameRefused", message)
                    .fix("name the addresses in an EndpointSlice of a service without a selector, or exclude them from capture by heddle.dev/exclude-outbound-cidrs"),
            );
        }
        findings.extend(self.near_finding(name));
        findings.extend(self.external_finding(name));
        findings.extend(self.plain_finding(name));
        findings.extend(self.misnamed_finding(name));
        findings.extend(self.request_id_finding(name));
        findings
    }

    fn near_finding(&self, name: &NamespacedName) -> Option<Finding> {
        let service = super::service_ref(name);
        let finding = |field, message| Finding::info(&service, field, "TopologyNotRead", message);
        match self.world.services.get(name)?.near? {
            Near::Zone => None,
            Near::Node => {
                let message =
                    "the mesh prefers endpoints of the caller's zone, not those of its node";
                let finding = finding("spec.trafficDistribution", message);
                Some(
                    finding.fix(
                        "use spec.internalTrafficPolicy: Local where calls must stay on the node",
                    ),
                )
            }
            Near::Unread(field) => {
                let message = "the mesh does not read it: callers with a sidecar reach endpoints of every node and zone";
                let finding = finding(field, message);
                Some(finding.fix("set spec.trafficDistribution: PreferSameZone (PreferClose before Kubernetes 1.34) for endpoints of the caller's zone"))
            }
        }
    }

    fn external_finding(&self, name: &NamespacedName) -> Option<Finding> {
        let external = self.world.services.get(name)?.external?;
        if self.settings.passes_unknown(&name.namespace) {
            return None;
        }
        let service = super::service_ref(name);
        let code = "ExternalAddressRefused";
        let message = "spec.outbound of the Mesh is Deny, and the mesh does not read these addresses: callers with a sidecar are refused there";
        let finding = match external {
            ExternalAddresses::ExternalIps => {
                Finding::warning(&service, "spec.externalIPs", code, message)
            }
            // Each service of this type has some, and most are never called from inside.
            ExternalAddresses::LoadBalancer => {
                Finding::info(&service, "status.loadBalancer.ingress", code, message)
            }
        };
        Some(finding.fix("call the service by its name or its cluster address, or exclude the addresses from capture by heddle.dev/exclude-outbound-cidrs"))
    }

    fn misnamed_finding(&self, name: &NamespacedName) -> Option<Finding> {
        let wholes = self.wholes.get(name)?;
        let Misnamed { ip, pod } = wholes.values().find_map(|w| w.misnamed.as_deref())?;
        let message = format!(
            "an EndpointSlice names pod {pod} at {ip}, which has other addresses or shares this one with a pod that has a sidecar: the endpoint gets no traffic"
        );
        let service = super::service_ref(name);
        let finding = Finding::warning(&service, "spec", "EndpointNamesAnotherPod", message);
        Some(finding.fix("correct targetRef or the address in the EndpointSlice"))
    }

    /// While it chooses a route, a sidecar that traces has another id in the request.
    fn request_id_finding(&self, name: &NamespacedName) -> Option<Finding> {
        self.settings.collector.as_ref()?;
        let hosts = self.route_tables(name).flat_map(|(_, table)| &table.hosts);
        let by_id = |entry: &&RouteEntry| {
            let mut headers = entry.matcher.headers.iter();
            headers.any(|header| &*header.name == REQUEST_ID)
        };
        let entry = hosts.flat_map(|host| &host.entries).find(by_id)?;
        let message = format!(
            "a rule for service {name} matches header {REQUEST_ID}: sidecars that trace have an id of their own there while they choose a route"
        );
        let object = entry.rule.origins.first()?;
        let finding = Finding::warning(object, "spec", "RequestIdNotMatched", message);
        Some(finding.fix("match another header, or remove spec.telemetry.collector of the Mesh"))
    }

    fn plain_finding(&self, name: &NamespacedName) -> Option<Finding> {
        if self.settings.sends_plain(name) {
            return None;
        }
        let wholes = self.wholes.get(name)?;
        let plain = wholes.iter().filter(|(_, whole)| whole.unmeshed);
        let mut ports: Vec<String> = plain.map(|((port, _), _)| port.to_string()).collect();
        ports.dedup();
        if ports.is_empty() {
            return None;
        }
        let ports = ports.join(", ");
        let message = format!(
            "endpoints of port {ports} have no sidecar and get no traffic, for the Mesh is Strict and denies unknown destinations"
        );
        let service = super::service_ref(name);
        let finding = Finding::warning(&service, "spec.ports", "PlainTextRefused", message);
        Some(finding.fix(
            "give the pods a sidecar, or name the service in spec.plainDestinations of the Mesh",
        ))
    }
}
