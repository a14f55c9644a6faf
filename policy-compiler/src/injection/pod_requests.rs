//! The requests of a whole pod (`spec.resources`), within which the sidecar must fit: the API server refuses containers that request more
//! than their pod.

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};

use super::annotations::nanos;
use super::names;
use super::resources::Quantities;

/// The requests of a whole pod and of the author's containers in it, by resource, in units of 10^-9.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRequests(Vec<PodRequest>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct PodRequest {
    /// The place of the resource in [`Quantities::NAMES`].
    index: usize,
    /// The request of the pod.
    pod: u128,
    /// The sum over the containers that run at the same time as the sidecar. An init container runs alone beside those that stay.
    containers: u128,
}

impl PodRequests {
    /// Reads a spec before injection, or after: the sidecar's own containers do not count.
    pub(super) fn read(spec: &PodSpec) -> Self {
        let Some(of_pod) = &spec.resources else {
            return Self::default();
        };
        let names = Quantities::NAMES.into_iter().enumerate();
        let requests = names.filter_map(|(index, name)| {
            let containers = containers(spec, name);
            let pod = quantity(of_pod, "requests", name);
            let pod = pod.or_else(|| filled_in(of_pod, containers, name))?;
            Some(PodRequest {
                index,
                pod,
                containers: containers.unwrap_or_default(),
            })
        });
        Self(requests.collect())
    }

    /// Returns the reason for which the API server refuses the pod with the sidecar, with the fix.
    pub(super) fn misfit(&self, proxy: Quantities<'_>, init: Quantities<'_>) -> Option<String> {
        self.0.iter().find_map(|request| {
            let of = |quantities: Quantities<'_>| {
                let text = quantities.requests.get(request.index);
                text.and_then(|text| nanos(text)).unwrap_or_default()
            };
            let name = *Quantities::NAMES.get(request.index)?;
            let steady = request.containers.saturating_add(of(proxy));
            let needed = steady.max(of(init));
            if needed <= request.pod {
                return None;
            }
            let room = request.pod.saturating_sub(request.containers);
            let annotations = [
                (names::PROXY_RESOURCES, of(proxy), room),
                (names::INIT_RESOURCES, of(init), request.pod),
            ];
            let set = annotations.into_iter().filter(|(_, own, most)| own > most);
            let set = set
                .map(|(key, _, most)| format!("{key}: requests.{name}={}", text(name, most, false)));
            let set: Vec<String> = set.collect();
            let (pod, needed) = (text(name, request.pod, false), text(name, needed, true));
            let lower = match room {
                0 => String::new(),
                _ => format!(", or lower the request of the sidecar by {}", set.join(" and ")),
            };
            Some(format!(
                "spec.resources.requests.{name}: {pod} is less than {needed}, which the containers and the sidecar request together; raise it to \
                 {needed}{lower}"
            ))
        })
    }
}

/// The request that the API server fills in where the pod has a limit and no request.
fn filled_in(of_pod: &ResourceRequirements, containers: Option<u128>, name: &str) -> Option<u128> {
    let limits = of_pod.limits.as_ref().filter(|limits| !limits.is_empty());
    limits?;
    containers.or_else(|| quantity(of_pod, "limits", name))
}

/// The largest sum of requests of the author's containers that run at one time. `None`: no container has a request.
fn containers(spec: &PodSpec, name: &str) -> Option<u128> {
    let request = |container: &Container| {
        let own = container.resources.as_ref()?;
        quantity(own, "requests", name).or_else(|| quantity(own, "limits", name))
    };
    let init = spec.init_containers.iter().flatten();
    let init = init.filter(|of| ![names::INIT, names::PROXY].contains(&of.name.as_str()));
    let (mut staying, mut most) = (None, None);
    for container in init {
        let own = request(container);
        let sum = add(staying, own);
        if container.restart_policy.as_deref() == Some("Always") {
            staying = sum;
        }
        most = most.max(sum);
    }
    let all = spec.containers.iter().map(request);
    most.max(all.fold(staying, add))
}

fn add(one: Option<u128>, other: Option<u128>) -> Option<u128> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (one, other) => one.or(other),
    }
}

fn quantity(of: &ResourceRequirements, section: &str, name: &str) -> Option<u128> {
    let all = match section {
        "limits" => of.limits.as_ref(),
        _ => of.requests.as_ref(),
    };
    nanos(&all?.get(name)?.0)
}

/// A quantity in the unit in which people write the resource, rounded up or down.
fn text(name: &str, nanos: u128, up: bool) -> String {
    const CORE: u128 = 1_000_000_000;
    let in_units = |unit: u128| match up {
        true => nanos.div_ceil(unit),
        false => nanos / unit,
    };
    if name == "cpu" {
        return format!("{}m", in_units(CORE / 1000));
    }
    let mebibyte = CORE << 20;
    match nanos.is_multiple_of(mebibyte) {
        true => format!("{}Mi", nanos / mebibyte),
        false => in_units(CORE).to_string(),
    }
}
