//! The hosts outside the mesh that a call names.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::Compiled;
use super::called::Called;
use super::explanation::{Call, NamedBy, Stopped, Unexplained};
use crate::traffic::{ExternalHost, ExternalProtocol};
use crate::world::Port;

/// So many objects are listed that name a host for other calls.
const NAMED: usize = 5;

impl Compiled {
    /// The host outside that a call names in its first bytes, if workloads of the namespace may call it there.
    pub(super) fn external_host(&self, call: &Call, namespace: &Arc<str>) -> Option<&ExternalHost> {
        let (name, protocol) = named(call)?;
        let port = Port::try_from(i32::from(call.port)).ok()?;
        let egress = self.egress(namespace)?;
        egress.named(port, protocol, &name, &self.settings.cluster_domain)
    }

    /// The destination of a call to a name that no service has: a host outside, that an object names or none does. `error` is set if it is a
    /// name of the cluster which is not there.
    pub(super) fn called_outside(
        &self,
        call: &Call,
        namespace: &Arc<str>,
        error: Unexplained,
    ) -> Result<Called<'_>, Unexplained> {
        if let Some(host) = self.external_host(call, namespace) {
            return Ok(Called::External(host, call.host.clone()));
        }
        let lower = call.host.to_ascii_lowercase();
        let bare = lower.strip_suffix('.').unwrap_or(&lower);
        let domain = format!(".{}", self.settings.cluster_domain);
        let in_cluster = bare.ends_with(&domain) || bare.ends_with(".svc");
        let by = self.named_by(bare, namespace);
        if in_cluster || (bare.split('.').count() < 3 && by.is_empty()) {
            return Err(error);
        }
        Ok(Called::Named(call.host.clone(), call.port, by))
    }

    /// The objects that name a host for other ports, protocols or callers.
    fn named_by(&self, name: &str, namespace: &Arc<str>) -> BTreeSet<NamedBy> {
        let own = self.egress(namespace);
        let all = self.egress.values();
        let egress = own.into_iter().chain(all);
        let hosts = egress
            .flat_map(|egress| egress.all())
            .filter(|of| of.names(name));
        let mut by: BTreeSet<NamedBy> = BTreeSet::new();
        for host in hosts {
            let visible = own.is_some_and(|own| own.host(&host.cluster_name()).is_some());
            by.insert(NamedBy {
                object: host.object.clone(),
                port: host.port,
                tls: host.protocol == ExternalProtocol::Tls,
                visible,
            });
        }
        by.into_iter().take(NAMED).collect()
    }

    /// The reason why the caller's sidecar refuses a call to a host that no object names for it.
    pub(super) fn refuses_name(&self, namespace: &Arc<str>, port: u16) -> Option<Stopped> {
        // An address of the name may be opened.
        let opened = self.egress(namespace).is_some_and(|of| of.opens_port(port));
        let passes = self.settings.passes_unknown(namespace) || opened;
        (!passes).then_some(Stopped::UnknownRefused)
    }
}

/// The name in the first bytes of a call, without its own port.
fn named(call: &Call) -> Option<(String, ExternalProtocol)> {
    let (text, protocol) = match call.tls {
        true => (call.host.clone(), ExternalProtocol::Tls),
        false => (call.host_header(), ExternalProtocol::Http),
    };
    let name = text.strip_suffix(&format!(":{}", call.port));
    let name = name.unwrap_or(&text).to_ascii_lowercase();
    let port = name.contains(':');
    (!port).then_some((name, protocol))
}
