//! A delta response, as far as a simulated proxy has to understand it, read in place.

use anyhow::{Context, Result};

use super::wire::{self, Value, fields, text};

/// Type URL of clusters.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// Type URL of endpoints.
pub const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Type URL of listeners.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// Type URL of routes.
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// Extensions: filters that listeners name.
pub const EXTENSION: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";

/// `Cluster.DiscoveryType.EDS`.
const EDS: u64 = 3;

/// A `DeltaDiscoveryResponse`.
#[derive(Debug, Default)]
pub struct Response<'a> {
    /// Which type it is about.
    pub type_url: &'a str,
    /// To be repeated in the ACK.
    pub nonce: &'a str,
    /// New and changed ones.
    pub resources: Vec<Resource<'a>>,
    /// Names that are gone, or were never there.
    pub removed: Vec<&'a str>,
    /// Bytes of the whole message.
    pub size: usize,
}

/// One resource of it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Resource<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// The message inside the `Any`.
    pub body: &'a [u8],
    /// Bytes of all of it.
    pub size: usize,
}

impl<'a> Response<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn read(message: &'a [u8]) -> Result<Self> {
        let mut response = Self {
            size: message.len(),
            ..Self::default()
        };
        for field in fields(message) {
            match field.context("a response")? {
                (2, Value::Bytes(bytes)) => response.resources.push(Resource::read(bytes)?),
                (4, Value::Bytes(bytes)) => response.type_url = text(bytes)?,
                (5, Value::Bytes(bytes)) => response.nonce = text(bytes)?,
                (6, Value::Bytes(bytes)) => response.removed.push(text(bytes)?),
                _ => {}
            }
        }
        Ok(response)
    }
}

impl<'a> Resource<'a> {
    fn read(message: &'a [u8]) -> Result<Self> {
        let mut resource = Self {
            size: message.len(),
            ..Self::default()
        };
        for field in fields(message) {
            match field.context("a resource")? {
                (1, Value::Bytes(bytes)) => resource.version = text(bytes)?,
                (2, Value::Bytes(any)) => {
                    resource.body = wire::last(any, 2)?.unwrap_or_default();
                }
                (3, Value::Bytes(bytes)) => resource.name = text(bytes)?,
                _ => {}
            }
        }
        Ok(resource)
    }
}

/// The name by which a cluster's endpoints are asked for, if it has any to ask for.
///
/// # Errors
/// When it is malformed.
pub fn endpoints_of(cluster: &[u8]) -> Result<Option<&str>> {
    if wire::number(cluster, 2)? != EDS {
        return Ok(None);
    }
    let service = match wire::last(cluster, 3)? {
        Some(config) => wire::last(config, 2)?,
        None => None,
    };
    let name = service.filter(|name| !name.is_empty());
    let name = match name {
        Some(name) => Some(name),
        None => wire::last(cluster, 1)?,
    };
    name.map(text).transpose()
}

/// Calls with the type and name of each route configuration and extension that a listener asks for.
///
/// # Errors
/// When it is malformed.
pub fn named_by<'a>(
    listener: &'a [u8],
    call: &mut impl FnMut(&'static str, &'a str),
) -> Result<()> {
    for field in fields(listener) {
        // Filter chains, and the default one.
        if let (3 | 25, Value::Bytes(chain)) = field? {
            wire::each(chain, 3, |filter| named_by_filter(filter, call))?;
        }
    }
    Ok(())
}

fn named_by_filter<'a>(
    filter: &'a [u8],
    call: &mut impl FnMut(&'static str, &'a str),
) -> Result<()> {
    // `config_discovery`: the filter has the name of the extension.
    if wire::last(filter, 5)?.is_some() {
        call(EXTENSION, text(wire::last(filter, 1)?.unwrap_or_default())?);
    }
    let Some(any) = wire::last(filter, 4)? else {
        return Ok(());
    };
    let url = wire::last(any, 1)?.unwrap_or_default();
    if !url.ends_with(b".HttpConnectionManager") {
        return Ok(());
    }
    let manager = wire::last(any, 2)?.unwrap_or_default();
    if let Some(rds) = wire::last(manager, 3)?
        && let Some(name) = wire::last(rds, 2)?
    {
        call(ROUTE, text(name)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::config::cluster::v3::cluster::{
        ClusterDiscoveryType, DiscoveryType, EdsClusterConfig,
    };
    use prost::Message;

    use super::super::proxy::samples;
    use super::*;

    #[test]
    fn reads_what_envoys_own_types_write() {
        let sent = samples::response(
            LISTENER,
            "7",
            vec![samples::listener("a", "r")],
            vec!["gone".to_owned()],
        );
        let bytes = sent.encode_to_vec();
        let read = Response::read(&bytes).unwrap();
        assert_eq!(
            (read.type_url, read.nonce, read.size),
            (LISTENER, "7", bytes.len())
        );
        assert_eq!(read.removed, ["gone"]);
        let resource = read.resources[0];
        assert_eq!((resource.name, resource.version), ("a", "1"));
        assert_eq!(resource.size, sent.resources[0].encoded_len());
        let mut routes = Vec::new();
        named_by(resource.body, &mut |of, name| routes.push((of, name))).unwrap();
        assert_eq!(routes, [(ROUTE, "r")]);
    }

    #[test]
    fn only_clusters_of_that_kind_have_endpoints_to_ask_for() {
        let cluster = |kind: DiscoveryType, service: &str| {
            Cluster {
                name: "c".to_owned(),
                cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
                eds_cluster_config: Some(EdsClusterConfig {
                    service_name: service.to_owned(),
                    ..EdsClusterConfig::default()
                }),
                ..Cluster::default()
            }
            .encode_to_vec()
        };
        let of = |kind, service| {
            endpoints_of(&cluster(kind, service))
                .unwrap()
                .map(str::to_owned)
        };
        assert_eq!(of(DiscoveryType::Eds, "s").as_deref(), Some("s"));
        assert_eq!(of(DiscoveryType::Eds, "").as_deref(), Some("c"));
        assert_eq!(of(DiscoveryType::Static, "s"), None);
        assert!(endpoints_of(&[0xff]).is_err());
    }
}
