//! `ExternalService`: hosts outside the mesh that applications call by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_crds::{ExternalProtocol as Declared, ExternalServiceSpec};

use crate::kinds::ValidationError;
use crate::kinds::policy::{Attachments, Candidate, ObjectReport, PolicyKind, Selector};
use crate::traffic::{ExternalHost, ExternalProtocol};
use crate::validation::inputs::Target;
use crate::world::{NamespacedName, Port};

/// The bound on the hosts of a namespace, each at each of its ports.
const MAX_HOSTS: usize = 1000;

/// The hosts of the objects of a namespace, by port and name.
pub(crate) type ExternalHosts = BTreeMap<(Port, Arc<str>), ExternalHost>;

impl PolicyKind for ExternalServiceSpec {
    type Attachment = ExternalHosts;

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
        hosts.chain(ports).collect()
    }

    fn attach(
        policy: &Candidate<'_, Self>,
        spec: &Self,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        let object = &policy.declared.object;
        let own = Target::Callers(Some(Arc::clone(policy.namespace())));
        let mut hosts = ExternalHosts::new();
        for host in &spec.hosts {
            for port in &spec.ports {
                let (host, number) = (Arc::from(host.as_str()), Port::from(port.port));
                let external = ExternalHost {
                    host: Arc::clone(&host),
                    port: number,
                    protocol: match port.protocol {
                        Declared::Http => ExternalProtocol::Http,
                        Declared::Tls => ExternalProtocol::Tls,
                    },
                    object: object.clone(),
                };
                hosts.insert((number, host), external);
            }
        }
        let taken = attachments.get(&own);
        let mut taken = hosts.keys().filter_map(|key| taken?.get(key));
        if let Some(winner) = taken.next() {
            let subject = format!("{} at port {}", winner.host, winner.port);
            report.conflict(object, &winner.object, "spec.hosts", &subject);
            return;
        }
        if attachments.get(&own).map_or(0, BTreeMap::len) + hosts.len() > MAX_HOSTS {
            let namespace = policy.namespace();
            let message = format!("namespace {namespace} has more than {MAX_HOSTS} hosts");
            let fix = "name fewer hosts and ports, or use other namespaces with visibleTo";
            report.beyond(object, "spec.hosts", message, fix);
            return;
        }
        let all = spec.visible_to.iter().map(|namespace| match &**namespace {
            "*" => Target::Callers(None),
            name => Target::Callers(Some(name.into())),
        });
        for target in all.chain([own]) {
            let attached = attachments.entry(target).or_default();
            attached.extend(hosts.clone());
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
    let bare = host
        .strip_suffix(&*format!(".{}", policy.settings.cluster_domain))
        .unwrap_or(host);
    let of_cluster = bare != host || bare.ends_with(".svc");
    let named = bare.strip_suffix(".svc").unwrap_or(bare).split_once('.');
    let named = named.filter(|(_, namespace)| !namespace.contains('.'));
    let service = named.is_some_and(|(name, namespace)| {
        let name = NamespacedName::new(namespace, name);
        policy.lookup.service(&name).is_some() || policy.lookup.is_external(&name)
    });
    (of_cluster || service).then(|| {
        ValidationError::invalid(
            format!("spec.hosts[{index}]"),
            format!("{host:?} is a name of the cluster, not of a host outside"),
            "remove it: services of the cluster need no ExternalService",
        )
    })
}
