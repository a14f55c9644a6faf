//! The measured mesh: services, pods, and their names and addresses. Pure.
//!
//! As in the reference measurement of istiod: namespaces of 10 services, each with one HTTP port and 10 ready pods with
//! sidecars, a service account for each service.

use anyhow::{Result, bail};
use time::OffsetDateTime;

/// Pods, and so endpoints, of each service.
pub const PODS: usize = 10;
/// The service port of all services.
pub const PORT: u16 = 80;
/// Where the applications listen.
pub const APP_PORT: u16 = 8080;
/// Endpoints of this service change; every proxy uses it.
pub const CHANGING: usize = 0;
/// The split and policy of this service change; every proxy uses it.
pub const ROUTED: usize = 1;
/// Where the split sends the calls to [`ROUTED`].
pub const BACKENDS: [usize; 2] = [2, 3];

const SERVICES_OF_A_NAMESPACE: usize = 10;
const PER_OCTET: usize = 250;
/// So many second octets are free below that of the services.
const MAX_SERVICES: usize = 95 * PER_OCTET;
/// Those that every proxy uses.
const COMMON: usize = 2;

/// A mesh of so many services.
#[derive(Debug, Clone, Copy)]
pub struct Mesh {
    services: usize,
}

/// A pod that a simulated proxy stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its service account.
    pub service_account: String,
}

/// A pod of the measured mesh, and the service that it is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// The service's number.
    pub service: usize,
    /// The pod.
    pub pod: Pod,
}

impl Mesh {
    /// A mesh of so many services.
    ///
    /// # Errors
    /// When there are too few for the measurement, or more than addresses.
    pub fn new(services: usize) -> Result<Self> {
        if !(10..=MAX_SERVICES).contains(&services) {
            bail!("a mesh here has 10 to {MAX_SERVICES} services, not {services}");
        }
        Ok(Self { services })
    }

    /// How many services.
    pub fn services(self) -> usize {
        self.services
    }

    /// How many namespaces.
    pub fn namespaces(self) -> usize {
        self.services.div_ceil(SERVICES_OF_A_NAMESPACE)
    }

    /// Pods in the order in which simulated proxies take them: those of the service with a changing policy, then one of
    /// each other service, then the next of each.
    pub fn pods(self) -> impl Iterator<Item = Backend> {
        let first = (0..PODS).map(|index| backend(ROUTED, index));
        let rest = (0..PODS).flat_map(move |index| {
            (0..self.services)
                .filter(|service| *service != ROUTED)
                .map(move |service| backend(service, index))
        });
        first.chain(rest)
    }

    /// The services that the pods of a service use: the two that change, and others, spread evenly over the mesh. All pods
    /// of a workload use the same, as in reality: the others start with the destinations that one has learned.
    pub fn used_by(self, workload: usize, count: usize) -> Vec<usize> {
        let own = count.saturating_sub(COMMON);
        let others = self.services - COMMON;
        let spread = (0..own).map(|index| COMMON + (workload * own + index) % others);
        (0..COMMON.min(count)).chain(spread).collect()
    }

    /// The on-demand names of these services, with the hour as Envoy's `%START_TIME(%Y%m%d%H)%` prints it.
    pub fn names(self, services: &[usize], hour: &str) -> Vec<String> {
        services
            .iter()
            .map(|service| format!("dst|{}:{PORT}|{hour}", cluster_ip(*service)))
            .collect()
    }
}

fn backend(service: usize, index: usize) -> Backend {
    let pod = Pod {
        namespace: namespace_of(service),
        name: pod_name(service, index),
        service_account: service_name(service),
    };
    Backend { service, pod }
}

/// The UTC hour, as it stands in on-demand names.
pub fn this_hour() -> String {
    let now = OffsetDateTime::now_utc();
    format!(
        "{:04}{:02}{:02}{:02}",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour()
    )
}

/// The part of resource names that only one service has.
pub fn resource_part(service: usize) -> String {
    format!("{}/{}|", namespace_of(service), service_name(service))
}

/// The service that a resource's name is about.
pub fn service_of_resource(name: &str) -> Option<usize> {
    let (_, rest) = name.split_once("/svc-")?;
    let (number, _) = rest.split_once('|')?;
    number.parse().ok()
}

/// The name of a namespace.
pub fn namespace(number: usize) -> String {
    format!("ns-{number}")
}

/// The namespace of a service.
pub fn namespace_of(service: usize) -> String {
    namespace(service / SERVICES_OF_A_NAMESPACE)
}

/// The name of a service.
pub fn service_name(service: usize) -> String {
    format!("svc-{service:03}")
}

/// The name of a pod.
pub fn pod_name(service: usize, index: usize) -> String {
    format!("svc-{service:03}-{index}")
}

/// The address of a service.
pub fn cluster_ip(service: usize) -> String {
    // 10.96.0.1 is the API server's own service.
    format!("10.97.{}.{}", service / PER_OCTET, service % PER_OCTET + 1)
}

/// The address of a pod.
pub fn pod_ip(service: usize, index: usize) -> String {
    format!(
        "10.{}.{}.{}",
        service / PER_OCTET + 1,
        service % PER_OCTET,
        index + 1
    )
}

/// Which of its service's pods has an address.
pub fn pod_index(ip: &str) -> Option<usize> {
    let (_, last) = ip.rsplit_once('.')?;
    last.parse::<usize>()
        .ok()?
        .checked_sub(1)
        .filter(|index| *index < PODS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_pod_comes_once_and_those_of_the_policy_first() {
        let pods: Vec<Backend> = Mesh::new(12).unwrap().pods().collect();
        assert_eq!(pods.len(), 120);
        assert_eq!(pods.iter().collect::<BTreeSet<_>>().len(), 120);
        assert!(pods[..10].iter().all(|of| of.service == ROUTED));
        assert!(
            pods[..10]
                .iter()
                .all(|of| of.pod.service_account == "svc-001")
        );
        assert_eq!(
            (pods[10].pod.name.as_str(), pods[11].pod.name.as_str()),
            ("svc-000-0", "svc-002-0")
        );
        assert_eq!(
            (pods[20].service, pods[20].pod.namespace.as_str()),
            (11, "ns-1")
        );
    }

    #[test]
    fn proxies_use_the_common_services_and_spread_over_the_rest() {
        let mesh = Mesh::new(100).unwrap();
        assert_eq!(mesh.used_by(0, 5), [0, 1, 2, 3, 4]);
        assert_eq!(mesh.used_by(1, 5), [0, 1, 5, 6, 7]);
        assert_eq!(mesh.used_by(0, 1), [0]);
        let all: BTreeSet<usize> = (0..50)
            .flat_map(|workload| mesh.used_by(workload, 5))
            .collect();
        assert_eq!(all.len(), 100);
        assert_eq!(
            mesh.names(&[0, 260], "2026010203"),
            [
                "dst|10.97.0.1:80|2026010203",
                "dst|10.97.1.11:80|2026010203"
            ]
        );
    }

    #[test]
    fn addresses_are_all_different() {
        let services = 10_000;
        let ips = (0..services).map(cluster_ip);
        let pods = (0..services).flat_map(|s| (0..PODS).map(move |i| pod_ip(s, i)));
        assert_eq!(
            ips.chain(pods).collect::<BTreeSet<_>>().len(),
            services * (PODS + 1)
        );
        assert!(Mesh::new(MAX_SERVICES + 1).is_err() && Mesh::new(3).is_err());
    }

    #[test]
    fn resources_name_their_service() {
        let name = format!("out|{}80", resource_part(1234));
        assert_eq!(name, "out|ns-123/svc-1234|80");
        assert_eq!(service_of_resource(&name), Some(1234));
        assert_eq!(service_of_resource("in|8080"), None);
        assert_eq!(pod_index(&pod_ip(1234, 7)), Some(7));
        assert_eq!(
            (pod_index("10.0.0.0"), pod_index("10.0.0.11")),
            (None, None)
        );
    }
}
