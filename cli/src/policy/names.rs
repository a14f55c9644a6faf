//! The names of callers in a `never`, compared with the mesh: a name without a caller would hold every assertion.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use heddle_policy_compiler::NamespacedName;
use heddle_policy_compiler::world::SpiffeId;

use super::assertions::{From, name};
use super::mesh::{Mesh, namespace_of};

/// Compares all names with the mesh.
///
/// # Errors
/// A name is unknown, or means no caller that servers can tell from others.
pub fn check(mesh: &Mesh<'_>, from: &From) -> Result<()> {
    known(mesh, "from", from)?;
    let Some(except) = &from.except else {
        return Ok(());
    };
    known(mesh, "from.except", except)?;
    for text in &except.workloads {
        let workload = name("from.except.workloads", text)?;
        let mut meshed = mesh.workloads.values();
        ensure!(
            meshed.any(|workloads| workloads.contains(&workload)),
            "from.except.workloads: {workload} has no sidecar, and servers cannot tell its calls from others in plain text; \
             leave it out, or except plainText"
        );
    }
    Ok(())
}

fn known(mesh: &Mesh<'_>, field: &str, from: &From) -> Result<()> {
    let pods = || mesh.world.pods().values().filter(|pod| pod.alive);
    for text in &from.workloads {
        let workload = name(&format!("{field}.workloads"), text)?;
        ensure!(
            pods().any(|pod| pod.template.workload() == workload),
            "{field}.workloads: {workload} is not a known workload; correct it (a pod is not named, but its workload)"
        );
    }
    let ports: Vec<_> = mesh.compiled.served_ports().collect();
    let rules = || ports.iter().flat_map(|port| &port.authz.rules);
    for namespace in &from.namespaces {
        let of_rule = |text: &str| namespace_of(text) == Some(namespace);
        let is_known = pods().any(|pod| *pod.template.namespace == **namespace)
            || mesh
                .world
                .services()
                .keys()
                .any(|of| *of.namespace == **namespace)
            || rules().any(|rule| {
                let from = &rule.from;
                from.identity_prefixes.iter().any(|prefix| of_rule(prefix))
                    || from.identities.iter().any(|id| of_rule(id.as_str()))
            });
        ensure!(
            is_known,
            "{field}.namespaces: {namespace} has no pod and no service, and no policy names it; correct it"
        );
    }
    let own = format!("spiffe://{}/", mesh.trust_domain());
    for identity in from.identities(mesh.trust_domain())? {
        // Other trust domains are not in the objects.
        let is_known = !identity.as_str().starts_with(&own)
            || pods().any(|pod| {
                let template = &pod.template;
                let (namespace, account) = (&template.namespace, &template.service_account);
                SpiffeId::new(mesh.trust_domain(), namespace, account) == identity
            })
            || rules().any(|rule| rule.from.identities.contains(&identity));
        ensure!(
            is_known,
            "{field}.identities: no pod has {}, and no policy names it; correct it",
            identity.as_str()
        );
    }
    Ok(())
}

/// The listed workloads that have an identity.
///
/// # Errors
/// A workload is not `NAMESPACE/NAME`.
pub fn listed(
    mesh: &Mesh<'_>,
    from: &From,
    identity: &SpiffeId,
) -> Result<BTreeSet<NamespacedName>> {
    let mut listed = BTreeSet::new();
    let workloads = mesh.workloads.get(identity);
    for text in &from.workloads {
        let name = name("from.workloads", text)?;
        if workloads.is_some_and(|workloads| workloads.contains(&name)) {
            listed.insert(name);
        }
    }
    Ok(listed)
}

/// Whether an excepted identity is that of excepted workloads only.
///
/// # Errors
/// Another workload has it, so that servers cannot tell the two apart.
pub fn ensure_whole(mesh: &Mesh<'_>, except: &From, identity: &SpiffeId) -> Result<()> {
    let namespace = namespace_of(identity.as_str()).unwrap_or_default();
    if except.namespaces.iter().any(|of| of == namespace)
        || except.identities(mesh.trust_domain())?.contains(identity)
    {
        return Ok(());
    }
    let listed = listed(mesh, except, identity)?;
    let mut all = mesh.workloads.get(identity).into_iter().flatten();
    if let (Some(one), Some(other)) = (listed.first(), all.find(|of| !listed.contains(*of))) {
        anyhow::bail!(
            "from.except.workloads: {one} shares its identity {} with {other}; name both, or give them service accounts of their own",
            identity.as_str()
        );
    }
    Ok(())
}
