//! Kinds of other projects: the list of those that the control plane reads, and their specs. A field or value of a spec that this version
//! does not know is found, and never ignored.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A kind that another project defines. Its definition may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignKind {
    /// The name, which no other kind has.
    pub name: &'static str,
    /// The name as written in `kind:`.
    pub kind: &'static str,
    /// The API group.
    pub group: &'static str,
    /// The version that is read.
    pub version: &'static str,
    /// The versions that are read where a cluster does not serve that one, the newest first.
    pub older: &'static [&'static str],
    /// The plural, as in URLs and RBAC rules.
    pub plural: &'static str,
    /// The list of the status in which each controller has entries of its own. None: there is none.
    pub entries: Option<StatusEntries>,
}

/// A list of a status in which each controller has entries of its own: one for each object that it finds the spec attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusEntries {
    /// The field of the status.
    pub list: &'static str,
    /// The field of an entry that names the object.
    pub reference: &'static str,
    /// The most entries, of all controllers together.
    pub most: usize,
}

impl StatusEntries {
    /// Those of routes.
    pub const PARENTS: Self = Self {
        list: "parents",
        reference: "parentRef",
        most: 32,
    };
    /// Those of policies.
    pub const ANCESTORS: Self = Self {
        list: "ancestors",
        reference: "ancestorRef",
        most: 16,
    };
}

impl ForeignKind {
    /// `GRPCRoute` of Gateway API.
    pub const GRPC_ROUTE: Self = Self {
        name: "GRPCRoute",
        kind: "GRPCRoute",
        group: "gateway.networking.k8s.io",
        version: "v1",
        older: &[],
        plural: "grpcroutes",
        entries: Some(StatusEntries::PARENTS),
    };

    /// `HTTPRoute` of Gateway API. Every bundle serves the older version beside the newer one, with the same fields.
    pub const HTTP_ROUTE: Self = Self {
        name: "HTTPRoute",
        kind: "HTTPRoute",
        group: "gateway.networking.k8s.io",
        version: "v1",
        older: &["v1beta1"],
        plural: "httproutes",
        entries: Some(StatusEntries::PARENTS),
    };

    /// `TCPRoute` of Gateway API. The experimental channel serves the older version, too.
    pub const TCP_ROUTE: Self = Self {
        name: "TCPRoute",
        kind: "TCPRoute",
        group: "gateway.networking.k8s.io",
        version: "v1",
        older: &["v1alpha2"],
        plural: "tcproutes",
        entries: Some(StatusEntries::PARENTS),
    };

    /// `TLSRoute` of Gateway API.
    pub const TLS_ROUTE: Self = Self {
        name: "TLSRoute",
        kind: "TLSRoute",
        group: "gateway.networking.k8s.io",
        version: "v1",
        older: &["v1alpha3", "v1alpha2"],
        plural: "tlsroutes",
        entries: Some(StatusEntries::PARENTS),
    };

    /// `TrafficSplit` of the Service Mesh Interface. Its objects have no status.
    pub const SMI_TRAFFIC_SPLIT: Self = Self {
        name: "SmiTrafficSplit",
        kind: "TrafficSplit",
        group: "split.smi-spec.io",
        version: "v1alpha4",
        older: &["v1alpha3", "v1alpha2", "v1alpha1"],
        plural: "trafficsplits",
        entries: None,
    };

    /// `XBackendTrafficPolicy` of Gateway API, of its experimental channel.
    pub const X_BACKEND_TRAFFIC_POLICY: Self = Self {
        name: "XBackendTrafficPolicy",
        kind: "XBackendTrafficPolicy",
        group: "gateway.networking.x-k8s.io",
        version: "v1alpha1",
        older: &[],
        plural: "xbackendtrafficpolicies",
        entries: Some(StatusEntries::ANCESTORS),
    };

    /// Every kind of another project.
    pub const ALL: &[Self] = &[
        Self::GRPC_ROUTE,
        Self::HTTP_ROUTE,
        Self::TLS_ROUTE,
        Self::TCP_ROUTE,
        Self::SMI_TRAFFIC_SPLIT,
        Self::X_BACKEND_TRAFFIC_POLICY,
    ];
}

/// The spec of a [`ForeignKind::GRPC_ROUTE`].
pub type GrpcRouteSpec = ForeignSpec<gateway_api::experimental::grpcroutes::GrpcRouteSpec>;

/// The spec of an [`ForeignKind::HTTP_ROUTE`].
pub type HttpRouteSpec = ForeignSpec<gateway_api::experimental::httproutes::HttpRouteSpec>;

/// The spec of a [`ForeignKind::TCP_ROUTE`]. The types have it in the version before, which has the same fields.
pub type TcpRouteSpec = ForeignSpec<gateway_api::experimental::tcproutes::TcpRouteSpec>;

/// The spec of a [`ForeignKind::TLS_ROUTE`].
pub type TlsRouteSpec = ForeignSpec<gateway_api::experimental::tlsroutes::TlsRouteSpec>;

/// The spec of a [`ForeignKind::SMI_TRAFFIC_SPLIT`].
pub type SmiTrafficSplitSpec = ForeignSpec<crate::smi::SmiSplit>;

/// The spec of an [`ForeignKind::X_BACKEND_TRAFFIC_POLICY`].
pub type XBackendTrafficPolicySpec =
    ForeignSpec<gateway_api::experimental::xbackendtrafficpolicies::XBackendTrafficPolicySpec>;

/// A part of a spec that this version does not support.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The field, below `spec`; empty for the spec as a whole.
    pub field: String,
    /// Why.
    pub reason: String,
}

/// The spec of a kind of another project.
///
/// # Guarantees
/// - Every value deserializes, and serializes as it came: the definition in the cluster may be of another version.
/// - [`ForeignSpec::typed`] returns a value only if it has all that the spec has.
pub struct ForeignSpec<T>(Arc<Parts<T>>);

struct Parts<T> {
    raw: Value,
    typed: Result<T, Vec<Unsupported>>,
}

impl<T> ForeignSpec<T> {
    /// The spec through its type.
    ///
    /// # Errors
    /// The parts that the type does not have.
    pub fn typed(&self) -> Result<&T, &[Unsupported]> {
        self.0.typed.as_ref().map_err(Vec::as_slice)
    }

    /// Returns the elements of a list of the spec that fit a type, with their indexes. They are read apart from all else.
    pub fn elements<E: DeserializeOwned>(&self, list: &str) -> Vec<(usize, E)> {
        let list = self.0.raw.get(list).and_then(Value::as_array);
        let elements = list.into_iter().flatten().enumerate();
        elements
            .filter_map(|(index, element)| Some((index, E::deserialize(element).ok()?)))
            .collect()
    }
}

impl<T: DeserializeOwned + Serialize> ForeignSpec<T> {
    /// Returns the spec without some elements of one of its lists.
    #[must_use]
    pub fn without_elements(&self, list: &str, indexes: &BTreeSet<usize>) -> Self {
        let mut raw = self.0.raw.clone();
        if let Some(Value::Array(all)) = raw.get_mut(list) {
            let mut index = 0..;
            all.retain(|_| index.next().is_none_or(|index| !indexes.contains(&index)));
        }
        Self::of(raw)
    }

    fn of(raw: Value) -> Self {
        let typed = typed(&raw);
        Self(Arc::new(Parts { raw, typed }))
    }
}

impl<T> Clone for ForeignSpec<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> PartialEq for ForeignSpec<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.raw == other.0.raw
    }
}

impl<T> fmt::Debug for ForeignSpec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.raw.fmt(f)
    }
}

impl<T> Serialize for ForeignSpec<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.raw.serialize(serializer)
    }
}

impl<'de, T: DeserializeOwned + Serialize> Deserialize<'de> for ForeignSpec<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::of(Value::deserialize(deserializer)?))
    }
}

fn typed<T: DeserializeOwned + Serialize>(raw: &Value) -> Result<T, Vec<Unsupported>> {
    let typed: T = serde_path_to_error::deserialize(raw).map_err(|error| {
        let field = error.path().to_string();
        vec![Unsupported {
            field: if field == "." { String::new() } else { field },
            reason: error.into_inner().to_string(),
        }]
    })?;
    let known = serde_json::to_value(&typed).unwrap_or_default();
    let mut unsupported = Vec::new();
    compare(String::new(), raw, &known, &mut unsupported);
    if unsupported.is_empty() {
        Ok(typed)
    } else {
        Err(unsupported)
    }
}

/// Finds the parts of a value that its type has lost.
fn compare(field: String, raw: &Value, known: &Value, unsupported: &mut Vec<Unsupported>) {
    let reason = match (raw, known) {
        (Value::Object(raw), Value::Object(known)) => {
            let dot = if field.is_empty() { "" } else { "." };
            for (key, value) in raw.iter().filter(|(_, value)| !value.is_null()) {
                let field = format!("{field}{dot}{key}");
                compare(
                    field,
                    value,
                    known.get(key).unwrap_or(&Value::Null),
                    unsupported,
                );
            }
            return;
        }
        (Value::Array(raw), Value::Array(known)) if raw.len() == known.len() => {
            for (index, (raw, known)) in raw.iter().zip(known).enumerate() {
                compare(format!("{field}[{index}]"), raw, known, unsupported);
            }
            return;
        }
        _ if raw == known => return,
        (_, Value::Null) => "this version does not know the field".to_owned(),
        _ => format!("this version does not know the value {raw}"),
    };
    unsupported.push(Unsupported { field, reason });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(spec: &Value) -> Result<(), Vec<String>> {
        let spec = HttpRouteSpec::deserialize(spec).unwrap();
        let typed = spec.typed().map(drop);
        typed.map_err(|all| all.iter().map(|u| u.field.clone()).collect())
    }

    #[test]
    fn every_part_that_the_type_does_not_have_is_found() {
        let rule = json!({"matches": [{"path": {"type": "Exact", "value": "/a"}}], "backendRefs": [{"name": "a", "port": 80, "weight": 1}]});
        let spec = |key: &str, value: Value| {
            let mut rule = rule.clone();
            rule[key] = value;
            json!({"rules": [rule]})
        };
        assert_eq!(read(&spec("name", json!("first"))), Ok(()));
        assert_eq!(read(&spec("name", Value::Null)), Ok(()));
        for (spec, field) in [
            (spec("later", json!({"attempts": 2})), "rules[0].later"),
            (spec("retry", json!({"later": 2})), "rules[0].retry.later"),
            (
                spec("matches", json!([{"method": "FETCH"}])),
                "rules[0].matches[0].method",
            ),
            (
                spec("backendRefs", json!([{"name": "a", "later": 1}])),
                "rules[0].backendRefs[0].later",
            ),
            (json!({"later": 1}), "later"),
            (json!({"rules": 1}), "rules"),
            (json!(1), ""),
        ] {
            assert_eq!(read(&spec), Err(vec![field.to_owned()]), "{spec}");
        }
    }

    #[test]
    fn a_spec_is_written_as_it_came_and_lists_are_read_apart() {
        let raw = json!({"parentRefs": [{"name": "a"}, {"kind": "Service"}], "later": [1]});
        let spec = HttpRouteSpec::deserialize(&raw).unwrap();
        assert_eq!(serde_json::to_value(&spec).unwrap(), raw);
        let parents = spec
            .elements::<gateway_api::experimental::httproutes::HttpRouteParentRefs>("parentRefs");
        let names: Vec<_> = parents.iter().map(|(at, p)| (*at, &*p.name)).collect();
        assert_eq!(names, [(0, "a")]);
        let without = spec.without_elements("parentRefs", &BTreeSet::from([0]));
        let left = json!({"parentRefs": [{"kind": "Service"}], "later": [1]});
        assert_eq!(serde_json::to_value(&without).unwrap(), left);
    }
}
