//! `ExternalService`: hosts outside the mesh that applications call by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use heddle_crds::{ExternalProtocol as Declared, ExternalServiceSpec, reason};
use ipnet::IpNet;

use crate::finding::ObjectRef;
use crate::kinds::ValidationError;
use crate::kinds::authorities::unusable;
use crate::kinds::policy::{Attachments, Candidate, ObjectReport, PolicyKind, Selector};
use crate::kinds::service_rules::Rules;
use crate::traffic::{
    ExternalAddresses, ExternalHost, ExternalProtocol, ExternalTls, is_private, undialed,
};
use crate::validation::inputs::Target;
use crate::world::{NamespacedName, Port};

/// The bound on the hosts of a namespace, each at each of its ports.
const MAX_HOSTS: usize = 1000;
/// The bound on the ranges that `privateAddresses` leave closed. A block of one address of IPv6 makes some 120, one of IPv4 some 50.
const MAX_RANGES: usize = 1000;

/// The hosts of the objects of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExternalHosts {
    /// Those that are called by name, by port and name.
    pub(crate) named: BTreeMap<(Port, Arc<str>), ExternalHost>,
    /// Those that are called by address.
    pub(crate) addresses: BTreeSet<ExternalAddresses>,
}

impl ExternalHosts {
    /// The hosts of one object.
    fn new(object: &ObjectRef, spec: &ExternalServiceSpec) -> Self {
        let mut own = Self::default();
        let private = spec.private_addresses.iter();
        let private: Arc<[IpNet]> = private.filter_map(|text| text.parse().ok()).collect();
        let none: Arc<[IpNet]> = Arc::default();
        for declared in &spec.ports {
            let port = Port::from(declared.port);
            let protocol = match declared.protocol {
                Declared::Http => ExternalProtocol::Http,
                Declared::Tls => ExternalProtocol::Tls,
                Declared::Tcp => {
                    let blocks = spec.addresses.iter().filter_map(|text| text.parse().ok());
                    own.addresses.extend(blocks.map(|block| ExternalAddresses {
                        port,
                        block,
                        object: object.clone(),
                    }));
                    continue;
                }
            };
            let tls = declared.tls.as_ref().map(|tls| ExternalTls {
                port: Port::from(tls.port),
                authorities: tls.ca_certificates.as_deref().map(Arc::from),
            });
            for host in spec.hosts.iter().map(|host| Arc::from(host.as_str())) {
                let external = ExternalHost {
                    host: Arc::clone(&host),
                    port,
                    protocol,
                    tls: tls.clone(),
                    private: match host.starts_with('*') {
                        true => Arc::clone(&private),
                        false => Arc::clone(&none),
                    },
                    object: object.clone(),
                    policy: None,
                };
                own.named.insert((port, host), external);
            }
        }
        own
    }

    fn len(&self) -> usize {
        self.named.len() + self.addresses.len()
    }
}

impl PolicyKind for ExternalServiceSpec {
    type Attachment = ExternalHosts;

    const RULES: Option<Rules<Self::Attachment>> = None;

    const IN_CLUSTERS: bool = false;

    const IN_BYPASS: Option<&'static str> = None;

    const NO_CONFLICT: Option<&'static str> =
        Some("no other ExternalService of the namespace has one of its hosts at the same port");

    fn check(policy: &Candidate<'_, Self>, spec: &Self) -> Vec<ValidationError> {
        let hosts = spec.hosts.iter().enumerate();
        let hosts = hosts.filter_map(|(index, host)| in_cluster(policy, index, host));
        let ports = spec.ports.iter().enumerate();
        let reserved = ports.filter(|(_, port)| heddle_ports::is_reserved(port.port.get()));
        let ports = reserved.map(|(index, port)| {
            ValidationError::invalid(
                format!("spec.ports[{index}].port"),
                format!("{} is a port of the sidecar itself", port.port),
                "name the port at which the hosts listen",
            )
        });
        let addresses = spec.addresses.iter().enumerate();
        let unreadable = addresses.filter(|(_, text)| text.parse::<ipnet::IpNet>().is_err());
        let addresses = unreadable.map(|(index, text)| {
            ValidationError::invalid(
                format!("spec.addresses[{index}]"),
                format!("{text:?} is not a block of addresses"),
                "write for example 192.0.2.7/32",
            )
        });
        let ports_of_tls = spec.ports.iter().enumerate();
        let authorities = ports_of_tls.filter_map(|(index, port)| {
            let (message, fix) = unusable(port.tls.as_ref()?.ca_certificates.as_deref()?)?;
            let field = format!("spec.ports[{index}].tls.caCertificates");
            Some(ValidationError::invalid(field, message, fix))
        });
        let private = spec.private_addresses.iter().enumerate();
        let public = private.filter(|(_, text)| !text.parse().is_ok_and(is_private));
        let private = public.map(|(index, text)| {
            ValidationError::invalid(
                format!("spec.privateAddresses[{index}]"),
                format!("{text:?} is not a block of private addresses"),
                "write a block within 10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16, 198.18.0.0/15 or fc00::/7",
            )
        });
        let all = hosts.chain(ports).chain(addresses).chain(private);
        let all = all.chain(authorities).chain(undialable(spec));
        all.chain(too_scattered(spec)).collect()
    }

    fn attach(
        policy: &Candidate<'_, Self>,
        spec: &Self,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        let object = &policy.declared.object;
        let own = Target::Callers(Some(Arc::clone(policy.namespace())));
        let hosts = ExternalHosts::new(object, spec);
        let taken = attachments.get(&own);
        let mut taken = hosts.named.keys().filter_map(|key| taken?.named.get(key));
        if let Some(winner) = taken.next() {
            let subject = format!("{} at port {}", winner.host, winner.port);
            report.conflict(object, &winner.object, "spec.hosts", &subject);
            return;
        }
        if attachments.get(&own).map_or(0, ExternalHosts::len) + hosts.len() > MAX_HOSTS {
            let namespace = policy.namespace();
            let message = format!("namespace {namespace} has more than {MAX_HOSTS} hosts");
            let fix = "name fewer hosts and ports, or use other namespaces with visibleTo";
            report.beyond(object, "spec.hosts", message, fix);
            return;
        }
        for (index, name) in spec
            .visible_to
            .iter()
            .enumerate()
            .filter(|(_, name)| **name != "*")
        {
            if let Some(fix) = policy.lookup.missing_namespace(name) {
                let message = format!(
                    "namespace {name} does not exist, so nobody of it is told of the hosts"
                );
                report.warn(
                    object,
                    format!("spec.visibleTo[{index}]"),
                    reason::UNKNOWN_CALLER,
                    message,
                    fix,
                );
            }
        }
        let all = spec.visible_to.iter().map(|namespace| match &**namespace {
            "*" => Target::Callers(None),
            name => Target::Callers(Some(name.into())),
        });
        for target in all.chain([own]) {
            let attached = attachments.entry(target).or_default();
            attached.named.extend(hosts.named.clone());
            attached.addresses.extend(hosts.addresses.clone());
        }
    }

    fn differing_pods(_: Option<&Self::Attachment>, _: Option<&Self::Attachment>) -> Vec<Selector> {
        Vec::new()
    }
}

/// The fault of a name that the cluster itself resolves: by that name the sidecar would call a service of the mesh without mTLS.
fn in_cluster(
    policy: &Candidate<'_, ExternalServiceSpec>,
    index: usize,
    host: &str,
) -> Option<ValidationError> {
    let declared = host;
    // Below a wildcard are the names of the pods of a service.
    let host = host.strip_prefix("*.").unwrap_or(host);
    let domain = &*policy.settings.cluster_domain;
    let bare = host.strip_suffix(&*format!(".{domain}")).unwrap_or(host);
    let of_cluster = bare != host || host == domain || bare.ends_with(".svc");
    let named = bare.strip_suffix(".svc").unwrap_or(bare).split_once('.');
    let named = named.filter(|(_, namespace)| !namespace.contains('.'));
    let service = named.is_some_and(|(name, namespace)| {
        let name = NamespacedName::new(namespace, name);
        policy.lookup.service(&name).is_some() || policy.lookup.is_external(&name)
    });
    (of_cluster || service).then(|| {
        ValidationError::invalid(
            format!("spec.hosts[{index}]"),
            format!("{declared:?} is a name of the cluster, not of a host outside"),
            "remove it: services of the cluster need no ExternalService",
        )
    })
}

/// The fault of blocks that cut the addresses which are not dialed into too many ranges: the sidecar compares each answer of DNS with all of
/// them.
fn too_scattered(spec: &ExternalServiceSpec) -> Option<ValidationError> {
    let blocks = spec.private_addresses.iter();
    let blocks: Vec<IpNet> = blocks.filter_map(|text| text.parse().ok()).collect();
    let ranges = undialed(&blocks).len();
    (ranges > MAX_RANGES).then(|| {
        ValidationError::invalid(
            "spec.privateAddresses",
            format!(
                "the blocks leave {ranges} ranges of addresses between them, more than {MAX_RANGES}"
            ),
            "open fewer or larger blocks",
        )
    })
}

/// The ports of wildcards at which `Host` would have another port than the one that TLS of the sidecar dials. The name of a host in full stands
/// in its place; that of a wildcard is as the application sends it, with the port that it calls unless that is 80.
fn undialable(spec: &ExternalServiceSpec) -> impl Iterator<Item = ValidationError> {
    let wildcard = spec.hosts.iter().find(|host| host.starts_with('*'));
    let ports = wildcard.map(|_| spec.ports.iter().enumerate());
    ports.into_iter().flatten().filter_map(|(index, port)| {
        let tls = port.tls.as_ref()?;
        let usual = port.port.get() == 80 && tls.port.get() == 443;
        (!usual && port.port != tls.port).then(|| {
            ValidationError::invalid(
                format!("spec.ports[{index}].tls.port"),
                format!(
                    "{} is not the port that Host names below a wildcard",
                    tls.port
                ),
                "call port 80 for 443, or the same port; or name the hosts in full",
            )
        })
    })
}
