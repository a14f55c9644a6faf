//! Hosts outside the mesh that applications call by name.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;

use crate::finding::ObjectRef;
use crate::world::Port;

/// How an application speaks to an external host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ExternalProtocol {
    /// HTTP without TLS: `Host` names the host.
    Http,
    /// TLS that passes as it is: the SNI names the host.
    Tls,
}

/// A host at one port, as an object declares it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExternalHost {
    /// The name that callers use, and that DNS is asked for.
    pub(crate) host: Arc<str>,
    pub(crate) port: Port,
    pub(crate) protocol: ExternalProtocol,
    /// The `ExternalService` that declares it.
    pub(crate) object: ObjectRef,
}

impl ExternalHost {
    /// `dst|<host>:<port>|<namespace>/<name>`: a sidecar asks for the cluster on demand, when the host is called.
    pub(crate) fn cluster_name(&self) -> Arc<str> {
        let ObjectRef {
            namespace, name, ..
        } = &self.object;
        let Self { host, port, .. } = self;
        format!("dst|{host}:{port}|{namespace}/{name}").into()
    }
}

/// Addresses that callers may call at one port, by connections with an SNI or `Host` that no object names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExternalAddresses {
    pub(crate) port: Port,
    pub(crate) block: IpNet,
    /// The `ExternalService` that declares it.
    pub(crate) object: ObjectRef,
}

/// All hosts that callers reach by name at one port. Each name has one meaning there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExternalPort {
    pub(crate) port: Port,
    /// Those that are called by HTTP, in the order of names.
    pub(crate) http: Vec<ExternalHost>,
    /// Those that are called by TLS, in the order of names.
    pub(crate) tls: Vec<ExternalHost>,
}

impl ExternalPort {
    pub(crate) fn origins(&self) -> BTreeSet<ObjectRef> {
        let hosts = self.http.iter().chain(&self.tls);
        hosts.map(|host| host.object.clone()).collect()
    }
}
