//! The objects of the measured mesh, as the YAML files of a directory source.
//!
//! As in the reference measurement of istiod: namespaces of 10 services, each with one HTTP port and 10 ready pods with
//! sidecars, a service account for each service.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Pods, and so endpoints, of each service.
pub const PODS: usize = 10;
const SERVICES_OF_A_NAMESPACE: usize = 10;
const PER_OCTET: usize = 250;
/// Of the deployments' one replica set each.
const HASH: &str = "5d4f8c7b9";
/// The service port of all services.
pub const PORT: u16 = 80;

/// A mesh of so many services.
#[derive(Debug, Clone)]
pub struct World {
    dir: PathBuf,
    services: usize,
}

/// A pod that a simulated proxy stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its service account.
    pub service_account: String,
}

impl World {
    /// Writes all files.
    ///
    /// # Errors
    /// When the directory can't be written.
    pub fn write(dir: &Path, services: usize) -> Result<Self> {
        let world = Self {
            dir: dir.to_owned(),
            services,
        };
        world.put("mesh.yaml", MESH)?;
        for namespace in 0..services.div_ceil(SERVICES_OF_A_NAMESPACE) {
            world.put(
                &format!("namespace-{namespace}.yaml"),
                &namespace_yaml(namespace),
            )?;
        }
        for service in 0..services {
            world.put(
                &format!("service-{service:03}.yaml"),
                &service_yaml(service),
            )?;
            world.put(
                &format!("endpoints-{service:03}.yaml"),
                &endpoints_yaml(service, PODS),
            )?;
        }
        world.put("split.yaml", &split_yaml(100, 0))?;
        Ok(world)
    }

    /// Pods in the order in which simulated proxies take them: one of each service, then the next of each.
    pub fn pods(&self) -> impl Iterator<Item = Pod> + use<> {
        let services = self.services;
        (0..PODS).flat_map(move |index| {
            (0..services).map(move |service| Pod {
                namespace: namespace_of(service),
                name: pod_name(service, index),
                service_account: service_name(service),
            })
        })
    }

    /// The addresses of all services, `ip:port`.
    pub fn destinations(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.services).map(|service| format!("{}:{PORT}", cluster_ip(service)))
    }

    /// The endpoints of the first service anew, so many of its pods ready.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn stage_ready(&self, ready: usize) -> Result<Staged> {
        self.stage("endpoints-000.yaml", &endpoints_yaml(0, ready))
    }

    /// The split of the first service anew.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn stage_weights(&self, first: u32, second: u32) -> Result<Staged> {
        self.stage("split.yaml", &split_yaml(first, second))
    }

    /// How the first service's endpoints and routes are called in any mesh's resource names.
    pub fn first_resource() -> String {
        format!("{}/{}|", namespace_of(0), service_name(0))
    }

    fn put(&self, name: &str, text: &str) -> Result<()> {
        self.stage(name, text)?.commit()
    }

    fn stage(&self, name: &str, text: &str) -> Result<Staged> {
        // Hidden and of another suffix, so that no source reads it.
        let new = self.dir.join(format!(".{name}.new"));
        std::fs::write(&new, text).with_context(|| new.display().to_string())?;
        Ok(Staged {
            new,
            path: self.dir.join(name),
        })
    }
}

/// A file that is written and not in place yet.
#[derive(Debug)]
#[must_use]
pub struct Staged {
    new: PathBuf,
    path: PathBuf,
}

impl Staged {
    /// Renames it into its place: readers see the old file or the new one, never a part.
    ///
    /// # Errors
    /// When it can't be renamed.
    pub fn commit(self) -> Result<()> {
        std::fs::rename(&self.new, &self.path).with_context(|| self.path.display().to_string())
    }
}

const MESH: &str = "\
apiVersion: heddle.dev/v1alpha1
kind: Mesh
metadata: {name: default}
spec: {trustDomain: cluster.local, mode: Strict, defaultAction: Allow}
";

fn namespace_of(service: usize) -> String {
    format!("ns-{}", service / SERVICES_OF_A_NAMESPACE)
}

fn service_name(service: usize) -> String {
    format!("svc-{service:03}")
}

fn pod_name(service: usize, index: usize) -> String {
    format!("svc-{service:03}-{index}")
}

fn cluster_ip(service: usize) -> String {
    format!("10.96.{}.{}", service / PER_OCTET, service % PER_OCTET + 1)
}

fn pod_ip(service: usize, index: usize) -> String {
    format!(
        "10.{}.{}.{}",
        service / PER_OCTET + 1,
        service % PER_OCTET,
        index + 1
    )
}

fn namespace_yaml(namespace: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: ns-{namespace}, labels: {{heddle.dev/inject: enabled}}}}\n"
    )
}

fn service_yaml(service: usize) -> String {
    let (namespace, name, ip) = (
        namespace_of(service),
        service_name(service),
        cluster_ip(service),
    );
    let mut out = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         clusterIP: {ip}\n  clusterIPs: [{ip}]\n  selector: {{app: {name}}}\n  \
         ports: [{{name: http, port: {PORT}, targetPort: 8080, appProtocol: http}}]\n"
    );
    for index in 0..PODS {
        let (pod, ip) = (pod_name(service, index), pod_ip(service, index));
        // Writing to a String can't fail.
        let _ = write!(
            out,
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {pod}\n  namespace: {namespace}\n  \
             labels: {{app: {name}, pod-template-hash: {HASH}, heddle.dev/inject: enabled}}\n  \
             ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet, name: {name}-{HASH}, uid: {name}, controller: true}}]\n\
             spec:\n  serviceAccountName: {name}\n  initContainers: [{{name: heddle-proxy, image: proxy, restartPolicy: Always}}]\n  \
             containers: [{{name: app, image: app, ports: [{{name: http, containerPort: 8080}}]}}]\n\
             status:\n  phase: Running\n  podIP: {ip}\n  podIPs: [{{ip: {ip}}}]\n  \
             conditions: [{{type: Ready, status: \"True\"}}]\n"
        );
    }
    out
}

fn endpoints_yaml(service: usize, ready: usize) -> String {
    let (namespace, name) = (namespace_of(service), service_name(service));
    let mut out = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  namespace: {namespace}\n  \
         labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: 8080, protocol: TCP, appProtocol: http}}]\nendpoints:\n"
    );
    for index in 0..PODS {
        let (pod, ip, ready) = (
            pod_name(service, index),
            pod_ip(service, index),
            index < ready,
        );
        let _ = write!(
            out,
            "  - addresses: [{ip}]\n    conditions: {{ready: {ready}, serving: {ready}, terminating: false}}\n    \
             targetRef: {{kind: Pod, namespace: {namespace}, name: {pod}}}\n"
        );
    }
    out
}

/// Calls of the first service go to the second and third.
fn split_yaml(first: u32, second: u32) -> String {
    let (namespace, name) = (namespace_of(0), service_name(0));
    format!(
        "apiVersion: heddle.dev/v1alpha1\nkind: TrafficSplit\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         service: {name}\n  backends:\n    - {{service: {}, weight: {first}}}\n    - {{service: {}, weight: {second}}}\n",
        service_name(1),
        service_name(2)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_go_round_the_services() {
        let dir = tempfile::tempdir().unwrap();
        let world = World::write(dir.path(), 12).unwrap();
        let pods: Vec<Pod> = world.pods().collect();
        assert_eq!(pods.len(), 120);
        assert_eq!(
            (pods[0].name.as_str(), pods[13].name.as_str()),
            ("svc-000-0", "svc-001-1")
        );
        assert_eq!(pods[11].namespace, "ns-1");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1 + 2 + 24 + 1
        );
        world.stage_ready(9).unwrap().commit().unwrap();
        let text = std::fs::read_to_string(dir.path().join("endpoints-000.yaml")).unwrap();
        assert_eq!(
            (
                text.matches("ready: true").count(),
                text.matches("ready: false").count()
            ),
            (9, 1)
        );
    }
}
