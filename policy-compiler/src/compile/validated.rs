//! The validated policies, by kind and namespace, and by the target that they are attached to.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;

use crate::finding::ObjectRef;
use crate::kind::{ObjectKind, with_policies};
use crate::kinds::policies::external_service::ExternalHosts;
use crate::kinds::policies::traffic_policy::TargetPolicies;
use crate::kinds::policy::{EarlierKinds, PolicyKind};
use crate::kinds::service_rules::{PortRules, RuleKind, ServiceRules};
use crate::status::ObjectStatus;
use crate::traffic::{Otherwise, RouteEntry, by_server_name};
use crate::validation::ValidationReport;
use crate::validation::inputs::Target;
use crate::world::{NamespacedName, Port};

/// The policies of one kind in one namespace.
#[derive(Debug)]
struct InNamespace<A> {
    attachments: BTreeMap<Target, Arc<A>>,
    report: ValidationReport,
}

/// The attachments of a target, by the namespace of the policies.
type ByNamespace<A> = BTreeMap<Arc<str>, Arc<A>>;

/// The validated policies of one kind.
#[derive(Debug)]
pub(crate) struct OfKind<A> {
    namespaces: OrdMap<Arc<str>, Arc<InNamespace<A>>>,
    targets: OrdMap<Target, Arc<ByNamespace<A>>>,
}

impl<A> Clone for OfKind<A> {
    fn clone(&self) -> Self {
        Self {
            namespaces: self.namespaces.clone(),
            targets: self.targets.clone(),
        }
    }
}

impl<A> Default for OfKind<A> {
    fn default() -> Self {
        Self {
            namespaces: OrdMap::new(),
            targets: OrdMap::new(),
        }
    }
}

/// An attachment that differs.
pub(super) struct Difference<A> {
    pub(super) target: Target,
    pub(super) old: Option<Arc<A>>,
    pub(super) new: Option<Arc<A>>,
}

impl<A: PartialEq> OfKind<A> {
    /// The attachments of a target, in the order of the namespaces of their policies.
    pub(crate) fn attached<'a>(
        &'a self,
        target: &Target,
    ) -> impl Iterator<Item = &'a A> + use<'a, A> {
        let all = self.targets.get(target);
        all.into_iter()
            .flat_map(|all| all.values().map(|attachment| &**attachment))
    }

    /// The services of a namespace that have attachments, each with one of them.
    pub(crate) fn of_services<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a NamespacedName, &'a A)> {
        let first = Target::Service(NamespacedName::new(namespace, ""));
        let targets = self.targets.range(first..).map_while(move |(target, all)| {
            let Target::Service(service) = target else {
                return None;
            };
            (*service.namespace == *namespace).then_some((service, all))
        });
        targets.flat_map(|(service, all)| all.values().map(move |one| (service, &**one)))
    }

    /// The attachments of the policies of a namespace, by target.
    pub(super) fn of_policies(&self, namespace: &str) -> impl Iterator<Item = (&Target, &A)> {
        let own = self.namespaces.get(namespace).into_iter();
        own.flat_map(|own| own.attachments.iter().map(|(target, of)| (target, &**of)))
    }

    /// The attachment of the policies of a namespace to a target.
    pub(crate) fn of_namespace(&self, target: &Target, namespace: &str) -> Option<&A> {
        let attached = self.targets.get(target)?.get(namespace)?;
        Some(attached)
    }

    /// The namespaces of the policies that are attached to a target.
    fn namespaces_of<'a>(
        &'a self,
        target: &Target,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a A)> + use<'a, A> {
        let all = self.targets.get(target).into_iter();
        all.flat_map(|all| all.iter().map(|(namespace, of)| (namespace, &**of)))
    }

    /// The result of the validation of a namespace.
    pub(super) fn report(&self, namespace: &str) -> Option<&ValidationReport> {
        Some(&self.namespaces.get(namespace)?.report)
    }

    /// Puts the policies of a namespace in the place of the old ones. Returns the attachments that differ.
    pub(super) fn set(
        &mut self,
        namespace: &Arc<str>,
        attachments: BTreeMap<Target, A>,
        report: ValidationReport,
    ) -> Vec<Difference<A>> {
        let old = self.namespaces.get(namespace).cloned();
        let old_of = |target: &Target| old.as_ref()?.attachments.get(target).cloned();
        let mut differences = Vec::new();
        let mut kept = BTreeMap::new();
        for (target, attachment) in attachments {
            let old = old_of(&target);
            let attachment = match old {
                Some(old) if *old == attachment => old,
                old => {
                    let new = Arc::new(attachment);
                    differences.push(Difference {
                        target: target.clone(),
                        old,
                        new: Some(Arc::clone(&new)),
                    });
                    new
                }
            };
            kept.insert(target, attachment);
        }
        let old_attachments = old.iter().flat_map(|old| &old.attachments);
        for (target, old) in old_attachments.filter(|(target, _)| !kept.contains_key(target)) {
            differences.push(Difference {
                target: target.clone(),
                old: Some(Arc::clone(old)),
                new: None,
            });
        }
        for difference in &differences {
            self.attach(&difference.target, namespace, difference.new.as_ref());
        }
        let same = |old: &InNamespace<A>| differences.is_empty() && old.report == report;
        if report == ValidationReport::default() && kept.is_empty() {
            self.namespaces.remove(namespace);
        } else if !old.as_deref().is_some_and(same) {
            let new = InNamespace {
                attachments: kept,
                report,
            };
            self.namespaces.insert(Arc::clone(namespace), Arc::new(new));
        }
        differences
    }

    fn attach(&mut self, target: &Target, namespace: &Arc<str>, attachment: Option<&Arc<A>>) {
        let all = self.targets.entry(target.clone()).or_default();
        let by_namespace = Arc::make_mut(all);
        match attachment {
            Some(attachment) => {
                _ = by_namespace.insert(Arc::clone(namespace), Arc::clone(attachment));
            }
            None => _ = by_namespace.remove(namespace),
        }
        if by_namespace.is_empty() {
            self.targets.remove(target);
        }
    }
}

impl Validated {
    /// The rules in force of a port of a service, for the callers of a namespace with routes of its own, or for all others.
    pub(super) fn rules<'a>(
        &'a self,
        service: &NamespacedName,
        port: Port,
        callers: Option<&Arc<str>>,
    ) -> impl Iterator<Item = &'a RouteEntry> + use<'a> {
        let target = Target::Service(service.clone());
        let routes = self.routes(&target, callers.unwrap_or(&service.namespace));
        // A split has no rules where a route has some, and none for a namespace with routes of its own.
        let splits = callers.is_none().then(move || {
            let splits = self.with_rules(RuleKind::Split);
            splits.flat_map(move |splits| splits.attached(&target))
        });
        let attached = routes.chain(splits.into_iter().flatten());
        let of_port = attached.filter_map(move |rules| rules.get(&port));
        of_port.flat_map(PortRules::entries)
    }

    /// The answer to requests that no rule of a port takes.
    pub(super) fn otherwise(
        &self,
        service: &NamespacedName,
        port: Port,
        callers: Option<&Arc<str>>,
    ) -> Otherwise {
        let target = Target::Service(service.clone());
        let mut routes = self.routes(&target, callers.unwrap_or(&service.namespace));
        match routes.any(|rules| rules.contains_key(&port)) {
            true => Otherwise::NotFound,
            false => Otherwise::WholeService,
        }
    }

    /// The traffic policies of the namespace of a service that are attached to it.
    pub(super) fn traffic_policies_of(&self, service: &NamespacedName) -> Option<&TargetPolicies> {
        let target = Target::Service(service.clone());
        self.traffic_policies
            .of_namespace(&target, &service.namespace)
    }

    /// The traffic policies of another namespace for its own calls of a port of a service.
    pub(super) fn consumer_policies(
        &self,
        service: &NamespacedName,
        port: Port,
        namespace: &str,
    ) -> Option<&TargetPolicies> {
        let target = Target::Service(service.clone());
        let of = self.traffic_policies.of_namespace(&target, namespace);
        of.filter(|of| *service.namespace != *namespace && of.has_port(port))
    }

    /// The other namespaces with traffic policies for their own calls of a port of a service.
    pub(super) fn policy_consumers(
        &self,
        service: &NamespacedName,
        port: Port,
    ) -> BTreeSet<&Arc<str>> {
        let target = Target::Service(service.clone());
        let all = self.traffic_policies.namespaces_of(&target);
        let others =
            all.filter(|(namespace, of)| **namespace != service.namespace && of.has_port(port));
        others.map(|(namespace, _)| namespace).collect()
    }

    /// The namespaces with routes of their own for a port of a service of another namespace.
    pub(super) fn consumers(&self, service: &NamespacedName, port: Port) -> BTreeSet<&Arc<str>> {
        let target = Target::Service(service.clone());
        let routes = self.with_rules(RuleKind::Route);
        let attached = routes.flat_map(|routes| routes.namespaces_of(&target));
        let others = attached.filter(|(namespace, rules)| {
            **namespace != service.namespace && rules.contains_key(&port)
        });
        others.map(|(namespace, _)| namespace).collect()
    }

    /// Returns a namespace again, if it has routes of its own for a port of a service of another namespace.
    pub(super) fn consumer<'n>(
        &self,
        service: &NamespacedName,
        port: Port,
        namespace: &'n Arc<str>,
    ) -> Option<&'n Arc<str>> {
        let target = Target::Service(service.clone());
        let mut routes = self.routes(&target, namespace);
        let is_consumer =
            *namespace != service.namespace && routes.any(|of| of.contains_key(&port));
        is_consumer.then_some(namespace)
    }

    /// The callers that have rules of a port apart: all, and the namespaces with routes of their own.
    pub(super) fn callers(&self, service: &NamespacedName, port: Port) -> Vec<Option<&Arc<str>>> {
        let consumers = self.consumers(service, port).into_iter().map(Some);
        [None].into_iter().chain(consumers).collect()
    }

    /// The rules for connections of some callers to a port that does not declare HTTP, by precedence: one for all, or those for server names.
    pub(super) fn rules_of_bytes(
        &self,
        service: &NamespacedName,
        port: Port,
        callers: Option<&Arc<str>>,
    ) -> Vec<&RouteEntry> {
        let named = by_server_name(self.rules(service, port, callers));
        if !named.is_empty() {
            return named;
        }
        let mut rules = self.rules(service, port, callers);
        let all = rules.find(|entry| entry.matcher.is_any());
        all.into_iter().collect()
    }

    /// The hosts outside the mesh for the workloads of a namespace, in order of precedence: its own, those that other namespaces open
    /// to it, those for all. For workloads of namespaces that no object names (`None`), those for all.
    pub(super) fn external_hosts<'a>(
        &'a self,
        namespace: Option<&Arc<str>>,
    ) -> impl Iterator<Item = &'a ExternalHosts> + use<'a> {
        let all = self.external_services.attached(&Target::Callers(None));
        let target = namespace.map(|of| Target::Callers(Some(Arc::clone(of))));
        let of = target.iter();
        let of = of.flat_map(|target| self.external_services.namespaces_of(target));
        let (own, others): (Vec<_>, Vec<_>) = of.partition(|(of, _)| Some(*of) == namespace);
        let first = own.into_iter().chain(others).map(|(_, hosts)| hosts);
        let first: Vec<&ExternalHosts> = first.collect();
        first.into_iter().chain(all)
    }

    /// The rules that the routes of a namespace attach to a service. A port has those of one kind.
    fn routes<'a>(
        &'a self,
        service: &Target,
        namespace: &str,
    ) -> impl Iterator<Item = &'a ServiceRules> + use<'a> {
        let routes = self.with_rules(RuleKind::Route);
        let attached = routes.filter_map(|routes| routes.of_namespace(service, namespace));
        // Most services have none: then this allocates nothing.
        attached.collect::<Vec<_>>().into_iter()
    }

    /// The stores of the kinds of policies with these rules, in the order of the list.
    fn with_rules<'a>(
        &'a self,
        rules: RuleKind,
    ) -> impl Iterator<Item = &'a OfKind<ServiceRules>> + use<'a> {
        ObjectKind::with(rules).filter_map(|kind| self.rules_of(kind))
    }
}

impl EarlierKinds for Validated {
    fn routes(&self, kind: ObjectKind, service: &Target, namespace: &str) -> Option<&ServiceRules> {
        self.rules_of(kind)?.of_namespace(service, namespace)
    }

    fn named_budgets(&self, service: &Target) -> Vec<(Option<Port>, &ObjectRef)> {
        let Target::Service(name) = service else {
            return Vec::new();
        };
        let own = self.traffic_policies_of(name).into_iter();
        let all = self.traffic_policies.namespaces_of(service);
        let others = all.filter(|(namespace, _)| **namespace != name.namespace);
        let policies = own.chain(others.map(|(_, policies)| policies));
        policies.flat_map(TargetPolicies::named_budgets).collect()
    }
}

/// The store of a kind of policy.
pub(super) trait Stored: PolicyKind {
    fn of(all: &Validated) -> &OfKind<Self::Attachment>;
    fn of_mut(all: &mut Validated) -> &mut OfKind<Self::Attachment>;
}

macro_rules! stores {
    ($(
        $(#[$doc:meta])*
        $kind:ident: $role:expr, $scope:ident, $resource:expr
            => $field:ident: $spec:ty, [$($input:literal),*];
    )*) => {
        /// The validated policies of every kind.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Validated {
            $($(#[$doc])* pub(crate) $field: OfKind<<$spec as PolicyKind>::Attachment>,)*
        }

        $(impl Stored for $spec {
            fn of(all: &Validated) -> &OfKind<Self::Attachment> {
                &all.$field
            }

            fn of_mut(all: &mut Validated) -> &mut OfKind<Self::Attachment> {
                &mut all.$field
            }
        })*

        impl Validated {
            /// The store of a kind of policies that attach rules to services.
            fn rules_of(&self, kind: ObjectKind) -> Option<&OfKind<ServiceRules>> {
                $(if kind == ObjectKind::$kind {
                    // `Rules` is only for attachments of this type.
                    <$spec as PolicyKind>::RULES?;
                    return (&self.$field as &dyn Any).downcast_ref();
                })*
                None
            }

            /// The statuses of a namespace's policies, for the kinds on which pods give feedback.
            pub(super) fn before_feedback(
                &self,
                namespace: &str,
            ) -> BTreeMap<ObjectRef, ObjectStatus> {
                let mut statuses = BTreeMap::new();
                $(if <$spec>::FEEDBACK && let Some(report) = self.$field.report(namespace) {
                    statuses.extend(report.statuses.clone());
                })*
                statuses
            }
        }
    };
}
with_policies!(stores);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_with_rules_has_a_store_of_rules() {
        let validated = Validated::default();
        let stored = |kind: &ObjectKind| validated.rules_of(*kind).is_some();
        let stored: Vec<ObjectKind> = ObjectKind::ALL.iter().copied().filter(stored).collect();
        assert_eq!(stored, ObjectKind::with_rules().collect::<Vec<_>>());
        let kinds = [RuleKind::Route, RuleKind::Split].map(ObjectKind::with);
        let (routes, splits) = kinds.into();
        assert!(
            routes.chain(splits).eq(stored),
            "a port asks routes before splits"
        );
    }

    fn service(namespace: &str) -> Target {
        Target::Service(NamespacedName::new(namespace, "a"))
    }

    /// Returns the namespaces of the services with another attachment.
    fn set(all: &mut OfKind<u8>, namespace: &str, attachments: &[(Target, u8)]) -> Vec<String> {
        let attachments = attachments.iter().cloned().collect();
        let differences = all.set(&namespace.into(), attachments, ValidationReport::default());
        let services = differences.iter().map(|difference| &difference.target);
        let namespaces = services.map(|target| match target {
            Target::Service(name) | Target::External(name) => name.namespace.to_string(),
            Target::Pods(namespace) => namespace.to_string(),
            Target::Callers(namespace) => namespace.as_deref().unwrap_or_default().to_owned(),
            Target::Route(route) => route.to_string(),
        });
        namespaces.collect()
    }

    #[test]
    fn a_target_has_the_attachments_of_policies_of_every_namespace() {
        let (shop, till) = (service("shop"), service("till"));
        let mut all = OfKind::default();
        let (of_shop, of_till) = ([(shop.clone(), 3)], [(till.clone(), 2)]);
        let both = [(shop.clone(), 1), (till.clone(), 2)];
        assert_eq!(set(&mut all, "till", &both), ["shop", "till"]);
        assert_eq!(set(&mut all, "shop", &of_shop), ["shop"]);
        assert_eq!(all.attached(&shop).collect::<Vec<_>>(), [&3, &1]);
        assert_eq!(all.attached(&till).collect::<Vec<_>>(), [&2]);
        assert_eq!(set(&mut all, "till", &of_till), ["shop"]);
        assert_eq!(all.attached(&shop).collect::<Vec<_>>(), [&3]);
        assert!(set(&mut all, "till", &of_till).is_empty());
        assert_eq!(set(&mut all, "till", &[]), ["till"]);
        assert_eq!(set(&mut all, "shop", &[]), ["shop"]);
        assert!(all.targets.is_empty() && all.namespaces.is_empty());
    }
}
