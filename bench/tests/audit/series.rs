//! A random series of changes of a mesh, each as the calls that make it. Pure: the existing objects are known from the
//! changes before.

use heddle_bench::cluster::api::{core, group, slice};
use heddle_bench::mesh::{Mesh, PODS, namespace_of, pod_name, service_name};
use heddle_bench::objects::NODE;
use heddle_bench::random::Random;
use serde_json::{Value, json};

use super::state::{GROUP, PodState, Service, VERSIONS};

/// One call.
#[derive(Debug, Clone)]
pub enum Call {
    /// Into a collection.
    Create(String, Value),
    /// A merge patch.
    Patch(String, Value),
    /// At once.
    Delete(String),
}

/// One change.
#[derive(Debug, Clone)]
pub struct Change {
    /// The kind of change, in a word.
    pub kind: &'static str,
    /// The changed service: changes of one service go one after another.
    pub service: usize,
    /// The calls, in their order.
    pub calls: Vec<Call>,
}

/// Which kinds there are, and of how many in a hundred.
const KINDS: &[(Kind, usize)] = &[
    (Kind::Readiness, 38),
    (Kind::Pod, 14),
    (Kind::Labels, 8),
    (Kind::Service, 4),
    (Kind::Ports, 5),
    (Kind::Split, 10),
    (Kind::Policy, 9),
    (Kind::Metadata, 12),
];

/// An existing split or policy is changed once in so many times, else it goes: the endpoints that a client should hold of a
/// service without them are plain to see, and are compared.
const GOES: usize = 3;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Readiness,
    Pod,
    Labels,
    Service,
    Ports,
    Split,
    Policy,
    Metadata,
}

/// The series.
#[derive(Debug)]
pub struct Series {
    random: Random,
    services: Vec<Service>,
    number: usize,
}

impl Series {
    /// By a seed, of a mesh as it was filled.
    pub fn new(mesh: Mesh, seed: u64) -> Self {
        let services = (0..mesh.services()).map(Service::filled);
        Self {
            random: Random::new(seed),
            services: services.collect(),
            number: 0,
        }
    }

    fn kind(&mut self) -> Kind {
        let all = KINDS.iter().map(|(_, share)| share).sum();
        let mut drawn = self.random.below(all);
        for (kind, share) in KINDS {
            if drawn < *share {
                return *kind;
            }
            drawn -= share;
        }
        Kind::Readiness
    }
}

impl Iterator for Series {
    type Item = Change;

    /// It never ends.
    fn next(&mut self) -> Option<Change> {
        self.number += 1;
        let kind = self.kind();
        let number = self.random.below(self.services.len());
        let service = self.services.get_mut(number)?;
        let random = &mut self.random;
        // A service that does not exist cannot be wrong: it comes back soon.
        let kind = if !service.exists && random.below(3) == 0 {
            Kind::Service
        } else {
            kind
        };
        let (kind, calls) = match kind {
            Kind::Readiness if service.exists => {
                ("readiness of endpoints", vec![endpoints(service, random)])
            }
            Kind::Pod => pod(service, random),
            Kind::Labels => labels(service, random),
            Kind::Service => ("services created and deleted", existence(service, random)),
            Kind::Ports if service.exists => ("ports of services", ports(service, random)),
            Kind::Split => split(service, random),
            Kind::Policy => policy(service, random, self.number),
            // Of a service that is not there nothing else can change.
            Kind::Metadata | Kind::Readiness | Kind::Ports => (
                "metadata alone",
                vec![metadata(service, random, self.number)],
            ),
        };
        Some(Change {
            kind,
            service: number,
            calls,
        })
    }
}

/// The slice as a controller would write it now, with any readiness.
fn endpoints(service: &Service, random: &mut Random) -> Call {
    let endpoints = service.endpoints(random);
    Call::Patch(slice(service.number), json!({"endpoints": endpoints}))
}

/// The calls after a change of a service's pods.
fn followed(service: &Service, random: &mut Random, mut calls: Vec<Call>) -> Vec<Call> {
    if service.exists {
        let follow = endpoints(service, random);
        // Controllers are quick or slow, but a pod is there before it is an endpoint.
        calls.push(follow);
    }
    calls
}

fn pod(service: &mut Service, random: &mut Random) -> (&'static str, Vec<Call>) {
    let missing = service.pods.iter().position(|pod| !pod.exists);
    let index = match missing {
        Some(missing) if random.below(4) > 0 => missing,
        _ => random.below(PODS),
    };
    let pods = core(&namespace_of(service.number), "pods");
    let path = format!("{pods}/{}", pod_name(service.number, index));
    let Some(pod) = service.pods.get_mut(index) else {
        return ("pods created", Vec::new());
    };
    pod.exists = !pod.exists;
    if !pod.exists {
        let calls = vec![Call::Delete(path)];
        return ("pods deleted", followed(service, random, calls));
    }
    // It comes back with another address.
    pod.address = (pod.address + 1) % PodState::ADDRESSES;
    let (object, status) = service.pod(index);
    let calls = vec![
        Call::Create(pods, object),
        Call::Patch(format!("{path}/status"), status),
    ];
    ("pods created", followed(service, random, calls))
}

fn labels(service: &mut Service, random: &mut Random) -> (&'static str, Vec<Call>) {
    const KIND: &str = "labels of pods";
    let there = service.pods.iter().enumerate();
    let there: Vec<usize> = there
        .filter(|(_, pod)| pod.exists)
        .map(|(index, _)| index)
        .collect();
    let index = there.get(random.below(there.len())).copied();
    let Some((index, pod)) = index.and_then(|index| Some((index, service.pods.get_mut(index)?)))
    else {
        return (KIND, vec![metadata(service, random, 0)]);
    };
    // Now and then it no longer is of the service at all.
    if random.below(4) == 0 {
        pod.selected = !pod.selected;
    } else {
        pod.version = random.below(VERSIONS);
    }
    let labels = pod.labels(service.number);
    let pods = core(&namespace_of(service.number), "pods");
    let path = format!("{pods}/{}", pod_name(service.number, index));
    let calls = vec![Call::Patch(path, json!({"metadata": {"labels": labels}}))];
    (KIND, followed(service, random, calls))
}

fn existence(service: &mut Service, random: &mut Random) -> Vec<Call> {
    let namespace = namespace_of(service.number);
    let services = core(&namespace, "services");
    service.exists = !service.exists;
    if service.exists {
        let slices = group("discovery.k8s.io/v1", &namespace, "endpointslices");
        return vec![
            Call::Create(services, service.object()),
            Call::Create(slices, service.slice(random)),
        ];
    }
    vec![
        Call::Delete(format!("{services}/{}", service_name(service.number))),
        Call::Delete(slice(service.number)),
    ]
}

fn ports(service: &mut Service, random: &mut Random) -> Vec<Call> {
    if random.below(2) == 0 {
        service.extra = !service.extra;
    } else {
        service.protocol = service.protocol.next();
    }
    let services = core(&namespace_of(service.number), "services");
    let path = format!("{services}/{}", service_name(service.number));
    vec![
        Call::Patch(path, json!({"spec": {"ports": service.ports()}})),
        Call::Patch(
            slice(service.number),
            json!({"ports": service.slice_ports()}),
        ),
    ]
}

/// A path of this service's own object of one of our kinds, and whether it is there now.
fn ours(service: &Service, plural: &str) -> (String, String) {
    let collection = group(GROUP, &namespace_of(service.number), plural);
    let path = format!("{collection}/{}", service_name(service.number));
    (collection, path)
}

fn split(service: &mut Service, random: &mut Random) -> (&'static str, Vec<Call>) {
    let (collection, path) = ours(service, "trafficsplits");
    if service.split && random.below(GOES) > 0 {
        service.split = false;
        return ("splits deleted", vec![Call::Delete(path)]);
    }
    let faulty = random.below(5) == 0;
    let object = service.split_object(faulty, random);
    let there = std::mem::replace(&mut service.split, true);
    let kind = match (faulty, there) {
        (true, _) => "splits made faulty",
        (false, true) => "splits changed",
        (false, false) => "splits created",
    };
    (kind, vec![write(there, collection, path, object)])
}

fn policy(service: &mut Service, random: &mut Random, number: usize) -> (&'static str, Vec<Call>) {
    let (collection, path) = ours(service, "authpolicies");
    if service.policy && random.below(GOES) > 0 {
        service.policy = false;
        return ("policies deleted", vec![Call::Delete(path)]);
    }
    let faulty = random.below(5) == 0;
    let object = service.policy_object(faulty, random, number);
    let there = std::mem::replace(&mut service.policy, true);
    let kind = match (faulty, there) {
        (true, _) => "policies made faulty",
        (false, true) => "policies changed",
        (false, false) => "policies created",
    };
    (kind, vec![write(there, collection, path, object)])
}

fn write(there: bool, collection: String, path: String, object: Value) -> Call {
    if there {
        Call::Patch(path, object)
    } else {
        Call::Create(collection, object)
    }
}

fn metadata(service: &Service, random: &mut Random, number: usize) -> Call {
    let note =
        json!({"metadata": {"annotations": {"bench.heddle.dev/number": number.to_string()}}});
    let namespace = namespace_of(service.number);
    let pods = service.pods.iter().enumerate();
    let pod = pods.filter(|(_, pod)| pod.exists).map(|(index, _)| {
        let name = pod_name(service.number, index);
        format!("{}/{name}", core(&namespace, "pods"))
    });
    let own = [
        format!(
            "{}/{}",
            core(&namespace, "services"),
            service_name(service.number)
        ),
        slice(service.number),
    ];
    let own = own.into_iter().filter(|_| service.exists);
    let node = format!("/api/v1/nodes/{NODE}");
    let all: Vec<String> = own.chain(pod.take(1)).chain([node]).collect();
    let path = all
        .get(random.below(all.len()))
        .cloned()
        .unwrap_or_default();
    Call::Patch(path, note)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn the_series_is_the_same_for_a_seed_and_has_all_kinds() {
        let mesh = Mesh::new(20).unwrap();
        let text = |seed| format!("{:?}", Series::new(mesh, seed).take(50).collect::<Vec<_>>());
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
        let kinds: BTreeSet<&str> = Series::new(mesh, 1).take(3000).map(|c| c.kind).collect();
        assert_eq!(kinds.len(), 15, "{kinds:?}");
    }

    #[test]
    fn only_existing_objects_are_changed_and_only_missing_ones_created() {
        let mesh = Mesh::new(20).unwrap();
        // The objects of a filled mesh exist unless they were deleted; of our own kinds there are none.
        let mut there: BTreeMap<String, bool> = BTreeMap::new();
        for change in Series::new(mesh, 7).take(20_000) {
            assert!(!change.calls.is_empty(), "{change:?}");
            for call in change.calls {
                let before = |there: &BTreeMap<String, bool>, path: &str| {
                    there
                        .get(path)
                        .copied()
                        .unwrap_or(!path.contains("heddle.dev"))
                };
                match &call {
                    Call::Create(collection, object) => {
                        let name = object["metadata"]["name"].as_str().unwrap();
                        let path = format!("{collection}/{name}");
                        assert!(!before(&there, &path), "{path}");
                        there.insert(path, true);
                    }
                    Call::Patch(path, _) => {
                        let path = path.trim_end_matches("/status");
                        assert!(before(&there, path), "{path}");
                    }
                    Call::Delete(path) => {
                        assert!(before(&there, path), "{path}");
                        there.insert(path.clone(), false);
                    }
                }
            }
        }
    }
}
