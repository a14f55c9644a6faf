//! The compute resources of the two containers: those of the mesh, with the pod's own in their place.

use heddle_crds::ProxySettings;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::annotations::{RESOURCES, Resources, is_more};

/// Quantities of a container, each in the order of [`Quantities::NAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantities<'a> {
    /// The reservations.
    pub requests: [&'a str; 2],
    /// The upper bounds.
    pub limits: [Option<&'a str>; 2],
}

impl<'a> Quantities<'a> {
    /// The resources: processor time, then memory.
    pub const NAMES: [&'static str; 2] = RESOURCES;

    /// Returns the quantities that a mesh sets for the sidecar.
    #[must_use]
    pub fn of_proxy(mesh: &'a ProxySettings) -> Self {
        let (requests, limits) = (&mesh.resources.requests, &mesh.resources.limits);
        Self::new(
            [&requests.cpu, &requests.memory],
            [limits.cpu.as_ref(), Some(&limits.memory)],
        )
    }

    /// Returns the quantities that a mesh sets for the init container.
    #[must_use]
    pub fn of_init(mesh: &'a ProxySettings) -> Self {
        let (requests, limits) = (&mesh.init_resources.requests, &mesh.init_resources.limits);
        Self::new(
            [&requests.cpu, &requests.memory],
            [limits.cpu.as_ref(), Some(&limits.memory)],
        )
    }

    fn new(requests: [&'a Quantity; 2], limits: [Option<&'a Quantity>; 2]) -> Self {
        Self {
            requests: requests.map(|request| &*request.0),
            limits: limits.map(|limit| limit.map(|limit| &*limit.0)),
        }
    }

    /// Returns the requests that are above their limits: the name of the resource, the request, the limit.
    pub fn above_limits(self) -> impl Iterator<Item = (&'static str, &'a str, &'a str)> {
        let all = Self::NAMES.into_iter().zip(self.requests).zip(self.limits);
        all.filter_map(|((name, request), limit)| {
            let limit = limit.filter(|limit| is_more(request, limit))?;
            Some((name, request, limit))
        })
    }

    /// Returns the quantities with a pod's own in their place.
    ///
    /// # Guarantees
    /// - No request is above its limit, for the API server refuses such a pod. Of a quantity of the pod and one of the mesh, that of the mesh
    ///   gives way; of two of the mesh, the request.
    #[must_use]
    pub fn replaced_by(self, own: &'a Resources) -> Self {
        let mut effective = self;
        let quantities = effective.requests.iter_mut().zip(&mut effective.limits);
        for (name, (request, limit)) in Self::NAMES.into_iter().zip(quantities) {
            let (own_request, own_limit) = (own.get("requests", name), own.get("limits", name));
            *request = own_request.unwrap_or(*request);
            *limit = own_limit.or(*limit);
            let Some(most) = limit.filter(|most| is_more(request, most)) else {
                continue;
            };
            match (own_request, own_limit) {
                (Some(own), None) => *limit = Some(own),
                (None, Some(_) | None) => *request = most,
                // Such an annotation is refused.
                (Some(_), Some(_)) => {}
            }
        }
        effective
    }
}
