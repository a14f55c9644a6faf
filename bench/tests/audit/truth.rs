//! The endpoints that proxies should hold of the services that they use, by the API server's own lists alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result};
use heddle_bench::cluster::Api;
use heddle_bench::mesh::{Pod, namespace_of, service_name};
use serde_json::Value;

use super::held::Endpoints;
use super::state::GROUP;

/// Namespace and name.
type Name = (String, String);

/// The API server's objects.
#[derive(Debug, Default)]
pub struct Truth {
    /// Of each service that exists, of each of its ports, where it is served.
    services: BTreeMap<Name, BTreeMap<u64, BTreeSet<IpAddr>>>,
    pods: BTreeSet<Name>,
    /// Services with a split of any kind: the endpoints that a client should hold of these are not plain to see.
    split: BTreeSet<Name>,
    /// Services with a policy, which may leave a client nothing to call.
    ruled: BTreeSet<Name>,
}

/// The result of a comparison.
#[derive(Debug, Default)]
pub struct Compared {
    /// Resources that were compared.
    pub resources: usize,
    /// The differences found.
    pub differences: Vec<String>,
}

impl Truth {
    /// As it is now.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn read(api: &Api) -> Result<Self> {
        let list = async |path: &str| -> Result<Vec<Value>> {
            let mut list = api.get(path).await?;
            let items = list.get_mut("items").map(Value::take);
            match items.context("a list without items")? {
                Value::Array(items) => Ok(items),
                _ => Ok(Vec::new()),
            }
        };
        let slices = list("/apis/discovery.k8s.io/v1/endpointslices").await?;
        let mut truth = Self::default();
        for service in list("/api/v1/services").await? {
            let served = served(&service, &slices);
            truth.services.insert(name_of(&service), served);
        }
        let pods = list("/api/v1/pods").await?;
        truth.pods = pods.iter().map(name_of).collect();
        // Each is of the service of its own name.
        let splits = list(&format!("/apis/{GROUP}/trafficsplits")).await?;
        truth.split = splits.iter().map(name_of).collect();
        let policies = list(&format!("/apis/{GROUP}/authpolicies")).await?;
        truth.ruled = policies.iter().map(name_of).collect();
        Ok(truth)
    }

    /// Whether the pod is there at all.
    pub fn has(&self, pod: &Pod) -> bool {
        self.pods
            .contains(&(pod.namespace.clone(), pod.name.clone()))
    }

    /// Compares the endpoints of a proxy with those that it should have: of each service that it holds the very endpoints, and
    /// of those that it uses each that is there.
    pub fn compare(&self, who: &str, uses: &[usize], held: &Endpoints, compared: &mut Compared) {
        for (resource, addresses) in held {
            let Some((name, port)) = whole_service(resource) else {
                continue;
            };
            if self.split.contains(&name) {
                continue;
            }
            compared.resources += 1;
            let served = self.services.get(&name).and_then(|ports| ports.get(&port));
            if served.map_or(!addresses.is_empty(), |served| served != addresses) {
                compared.differences.push(format!(
                    "{who} holds {resource} with {addresses:?}, and it is {served:?}"
                ));
            }
        }
        for service in uses {
            let name = (namespace_of(*service), service_name(*service));
            if self.split.contains(&name) || self.ruled.contains(&name) {
                continue;
            }
            for port in self
                .services
                .get(&name)
                .into_iter()
                .flat_map(|ports| ports.keys().take(1))
            {
                let resource = format!("out|{}/{}|{port}", name.0, name.1);
                if !held.contains_key(&resource) {
                    compared.differences.push(format!("{who} lacks {resource}"));
                }
            }
        }
    }
}

fn name_of(object: &Value) -> Name {
    let text = |path| object.pointer(path).and_then(Value::as_str);
    let text = |path| text(path).unwrap_or_default().to_owned();
    (text("/metadata/namespace"), text("/metadata/name"))
}

/// `out|<namespace>/<service>|<port>`: a longer name is that of a part of a service.
fn whole_service(resource: &str) -> Option<(Name, u64)> {
    let (service, port) = resource.strip_prefix("out|")?.split_once('|')?;
    let (namespace, name) = service.split_once('/')?;
    Some(((namespace.to_owned(), name.to_owned()), port.parse().ok()?))
}

/// Where each port of a service is served.
fn served(service: &Value, slices: &[Value]) -> BTreeMap<u64, BTreeSet<IpAddr>> {
    let (namespace, name) = name_of(service);
    let of_it = slices.iter().filter(|slice| {
        let label = slice.pointer("/metadata/labels/kubernetes.io~1service-name");
        name_of(slice).0 == namespace && label.and_then(Value::as_str) == Some(&name)
    });
    let of_it: Vec<&Value> = of_it.collect();
    let ports = service.pointer("/spec/ports").and_then(Value::as_array);
    let numbered = ports.into_iter().flatten().filter_map(|port| {
        let number = port.get("port")?.as_u64()?;
        let named = of_it.iter().filter(|slice| {
            let ports = slice.get("ports").and_then(Value::as_array);
            let mut ports = ports.into_iter().flatten();
            ports.any(|of| of.get("name") == port.get("name"))
        });
        let named: Vec<&Value> = named.copied().collect();
        let ready = addresses(&named, |is| is("ready"));
        let ending = || addresses(&named, |is| is("serving") && is("terminating"));
        let served = if ready.is_empty() { ending() } else { ready };
        Some((number, served))
    });
    numbered.collect()
}

fn addresses(
    slices: &[&Value],
    wanted: impl Fn(&dyn Fn(&str) -> bool) -> bool,
) -> BTreeSet<IpAddr> {
    let endpoints = slices
        .iter()
        .filter_map(|slice| slice.get("endpoints")?.as_array());
    let wanted = endpoints.flatten().filter(|endpoint| {
        wanted(&|condition| {
            let value = endpoint
                .get("conditions")
                .and_then(|all| all.get(condition));
            value.and_then(Value::as_bool).unwrap_or(false)
        })
    });
    let texts = wanted.filter_map(|endpoint| endpoint.get("addresses")?.as_array());
    let texts = texts.flatten().filter_map(Value::as_str);
    texts.filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn truth() -> Truth {
        let port = json!([{"name": "main", "port": 80}]);
        let service =
            json!({"metadata": {"namespace": "ns-0", "name": "svc-000"}, "spec": {"ports": port}});
        let endpoint = |ip: &str, ready: bool, ending: bool| json!({"addresses": [ip], "conditions": {"ready": ready, "serving": ready || ending, "terminating": ending}});
        let slice = json!({
            "metadata": {"namespace": "ns-0", "name": "s", "labels": {"kubernetes.io/service-name": "svc-000"}},
            "ports": port,
            "endpoints": [endpoint("10.0.0.1", true, false), endpoint("10.0.0.2", false, true)],
        });
        let served = served(&service, &[slice]);
        Truth {
            services: BTreeMap::from([(name_of(&service), served)]),
            ..Truth::default()
        }
    }

    fn differences(held: &[(&str, &[&str])]) -> usize {
        let held = held.iter().map(|(name, addresses)| {
            let addresses = addresses.iter().map(|ip| ip.parse().unwrap());
            ((*name).to_owned(), addresses.collect())
        });
        let mut compared = Compared::default();
        truth().compare("p", &[0, 1], &held.collect(), &mut compared);
        compared.differences.len()
    }

    #[test]
    fn other_endpoints_and_lacking_ones_are_differences() {
        let name = "out|ns-0/svc-000|80";
        assert_eq!(differences(&[(name, &["10.0.0.1"])]), 0);
        assert_eq!(differences(&[(name, &["10.0.0.1", "10.0.0.2"])]), 1);
        assert_eq!(differences(&[(name, &[])]), 1);
        assert_eq!(differences(&[]), 1);
        let more = "out|ns-0/svc-007|80";
        assert_eq!(differences(&[(name, &["10.0.0.1"]), (more, &[])]), 0);
        assert_eq!(
            differences(&[(name, &["10.0.0.1"]), (more, &["10.0.0.9"])]),
            1
        );
    }
}
