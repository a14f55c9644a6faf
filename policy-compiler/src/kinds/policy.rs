//! The interface of a kind of policy, and the validation of the policies of a namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use heddle_crds::{ConditionType, reason};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::service_rules::{RuleKind, Rules, ServiceRules};
pub(crate) use super::target::Selector;
use super::{ValidatedSpec, ValidationError, validate_spec};
use crate::finding::{Finding, ObjectRef};
use crate::kind::{ObjectKind, with_policies};
use crate::settings::Settings;
use crate::status::ObjectStatus;
use crate::traffic::RuleId;
use crate::validation::inputs::Target;
use crate::validation::{Recorder, ValidationReport};
use crate::world::{Declared, DeclaredSpec, History, NamespacedName, Port};

/// A kind of policy, implemented by the type of its spec.
///
/// # Guarantees
/// - The policies of a namespace are validated together, in the order of their names, or of their age.
/// - They are validated again when one of them, or an input read through [`Candidate::lookup`], differs.
/// - The readers of a [`Target`] run again when the attachment to that target differs.
pub(crate) trait PolicyKind: DeclaredSpec + Clone + Serialize + DeserializeOwned {
    /// The meaning of the policies of one namespace for one target.
    type Attachment: Debug + PartialEq;

    /// The rules that the kind attaches to services. None: it attaches no rules.
    const RULES: Option<Rules<Self::Attachment>>;

    /// Whether the attachments to a service change its clusters, wherever they are used.
    const IN_CLUSTERS: bool;

    /// The message of the condition `Conflicted` of a policy without a conflict; none for a kind without that condition.
    const NO_CONFLICT: Option<&'static str>;

    /// Whether the oldest policy wins a conflict, as Gateway API has it; else that with the smallest name.
    const OLDEST_FIRST: bool = false;

    /// Whether pods, or the policies of other namespaces, give feedback on policies of this kind, so that statuses are set after these are
    /// compiled.
    const FEEDBACK: bool = false;

    /// The effect of a bypass of the policy's namespace, for a finding. None: it has none.
    const IN_BYPASS: Option<&'static str> = Some(
        "its sidecars do not apply this object; those of other namespaces that call its services do",
    );

    /// Whether only callers of the policy's own namespace meet the policy, for it is about services of other namespaces.
    fn is_for_own_callers(_policy: &Candidate<'_, Self>, _spec: &Self) -> bool {
        false
    }

    /// Returns the reasons why a spec cannot be in force. The last good spec is checked too.
    fn check(policy: &Candidate<'_, Self>, spec: &Self) -> Vec<ValidationError>;

    /// Whether the errors of a spec are those of some rules only, so that a status names them apart from a spec that is invalid as a whole.
    /// By default they never are.
    fn is_partially_invalid(
        _policy: &Candidate<'_, Self>,
        _spec: &Self,
        _errors: &[ValidationError],
    ) -> bool {
        false
    }

    /// Attaches a policy with a usable spec, unless a policy before it has its place.
    fn attach(
        policy: &Candidate<'_, Self>,
        spec: &Self,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    );

    /// Attaches a policy without a usable spec. By default it has no effect.
    fn attach_unusable(
        _policy: &Candidate<'_, Self>,
        _trouble: &str,
        _attachments: &mut Attachments<Self>,
        _report: &mut ObjectReport<'_>,
    ) {
    }

    /// Reports the findings about a policy that show only beside the other ones of its namespace. By default there are none.
    fn compare(_attachments: &Attachments<Self>, _report: &mut ValidationReport) {}

    /// Whether the attachment to a service differs for the pods of the service.
    fn differs_for_servers(
        _old: Option<&Self::Attachment>,
        _new: Option<&Self::Attachment>,
    ) -> bool {
        false
    }

    /// Returns the pods of a [`Target::Pods`] for which the attachment differs.
    fn differing_pods(
        _old: Option<&Self::Attachment>,
        _new: Option<&Self::Attachment>,
    ) -> Vec<Selector> {
        vec![Selector::All]
    }
}

impl ObjectKind {
    /// The kinds of policies that attach rules to services, in the order of the list.
    pub(crate) fn with_rules() -> impl Iterator<Item = Self> {
        let all = Self::ALL.iter().copied();
        all.filter(|kind| kind.rules().is_some())
    }

    /// Those with rules of this kind.
    pub(crate) fn with(rules: RuleKind) -> impl Iterator<Item = Self> {
        Self::with_rules().filter(move |kind| kind.rules() == Some(rules))
    }
}

/// The attachments of the kinds of earlier rows that a policy may read. Reads are recorded by [`Candidate`].
pub(crate) trait EarlierKinds {
    /// The rules that the routes or splits of a kind and namespace attach to a service; none for another kind.
    fn routes(&self, kind: ObjectKind, service: &Target, namespace: &str) -> Option<&ServiceRules>;

    /// The `TrafficPolicy` objects of a service that name a budget of retries, with the one port that they name: those of its namespace, then
    /// those of other namespaces for their own callers.
    fn named_budgets(&self, service: &Target) -> Vec<(Option<Port>, &ObjectRef)>;
}

/// A policy under validation, with the inputs of its validation.
pub(crate) struct Candidate<'a, S> {
    pub(crate) declared: &'a Declared<S>,
    pub(crate) lookup: &'a Recorder<'a>,
    pub(crate) settings: &'a Settings,
    earlier: &'a dyn EarlierKinds,
}

impl<'a, S> Candidate<'a, S> {
    /// The last good spec and the rejection of the policy.
    pub(crate) fn history(&self) -> History<'a> {
        self.lookup.history(&self.declared.object)
    }

    /// The `TrafficPolicy` objects of a service that name a budget of retries, with the one port that they name: those of its namespace, then
    /// those of other namespaces for their own callers, unless the mesh bypasses them.
    pub(crate) fn named_budgets(
        &self,
        service: &NamespacedName,
    ) -> Vec<(Option<Port>, &'a ObjectRef)> {
        self.lookup
            .record_attached(ObjectKind::TrafficPolicy, service);
        let mut all = self
            .earlier
            .named_budgets(&Target::Service(service.clone()));
        all.retain(|(_, object)| {
            let own = object.namespace == service.namespace;
            own || !self.settings.bypasses(&object.namespace)
        });
        all
    }

    /// The ports of a service at which a route or split of an earlier kind and of the policy's namespace has rules in force: any, or those with
    /// this name.
    pub(crate) fn ports_of_route(
        &self,
        route: &ObjectRef,
        service: &NamespacedName,
        rule: Option<&str>,
    ) -> BTreeSet<Port> {
        let is_named =
            |id: &RuleId| rule.is_none_or(|rule| id.rule_name().is_some_and(|of| **of == *rule));
        let ports = self.rules_of_route(route, service);
        let named = ports.filter(|(_, id)| is_named(id));
        named.map(|(port, _)| port).collect()
    }

    /// The names of the rules in force at a service of a route of an earlier kind and of the policy's namespace.
    pub(crate) fn rule_names_of_route(
        &self,
        route: &ObjectRef,
        service: &NamespacedName,
    ) -> BTreeSet<Arc<str>> {
        let rules = self.rules_of_route(route, service);
        rules
            .filter_map(|(_, id)| id.rule_name().cloned())
            .collect()
    }

    /// The rules in force at a service of a route or split of an earlier kind and of the policy's namespace, with their ports.
    fn rules_of_route<'r>(
        &self,
        route: &'r ObjectRef,
        service: &NamespacedName,
    ) -> impl Iterator<Item = (Port, &'a RuleId)> + use<'a, 'r, S> {
        self.lookup.record_attached(route.kind, service);
        let target = Target::Service(service.clone());
        let attached = self.earlier.routes(route.kind, &target, self.namespace());
        let rules = attached.into_iter().flatten().flat_map(|(port, rules)| {
            let entries = rules.entries().iter();
            entries.map(|entry| (*port, &entry.rule.id))
        });
        rules.filter(move |(_, id)| id.object() == Some(route))
    }

    /// The namespace of the policy.
    pub(crate) fn namespace(&self) -> &Arc<str> {
        &self.declared.object.namespace
    }

    /// A service of the policy's namespace.
    pub(crate) fn service(&self, name: &str) -> NamespacedName {
        NamespacedName {
            namespace: Arc::clone(self.namespace()),
            name: name.into(),
        }
    }
}

impl<'a, S: DeclaredSpec> Candidate<'a, S> {
    /// The route or split of an earlier kind and of the policy's namespace that has a port of a service: that of the first rule.
    pub(crate) fn route(&self, service: &NamespacedName, port: Port) -> Option<&'a ObjectRef> {
        let target = Target::Service(service.clone());
        let earlier = ObjectKind::with_rules().take_while(|kind| *kind < S::KIND);
        let mut attached = earlier.filter_map(|kind| {
            self.lookup.record_attached(kind, service);
            self.earlier.routes(kind, &target, self.namespace())
        });
        attached.find_map(|rules| {
            let mut entries = rules.get(&port)?.entries().iter();
            entries.find_map(|entry| entry.rule.origins.first())
        })
    }
}

/// The attachments of the policies of a namespace that are validated already. Targets may be in other namespaces.
pub(crate) type Attachments<S> = BTreeMap<Target, <S as PolicyKind>::Attachment>;

/// The status of a policy, and the findings of its namespace.
pub(crate) struct ObjectReport<'a> {
    pub(crate) status: &'a mut ObjectStatus,
    pub(crate) findings: &'a mut Vec<Finding>,
}

impl ObjectReport<'_> {
    /// Reports that another policy of the kind has the place of this one, which does not come into force.
    pub(crate) fn conflict(
        &mut self,
        object: &ObjectRef,
        winner: &ObjectRef,
        field: &str,
        subject: &str,
    ) {
        self.yields(object, winner, field, subject, "its name is smaller");
    }

    /// The same, for another reason.
    pub(crate) fn yields(
        &mut self,
        object: &ObjectRef,
        winner: &ObjectRef,
        field: &str,
        subject: &str,
        because: &str,
    ) {
        let message = format!("{winner} wins {subject}, for {because}");
        let (condition, reason) = (ConditionType::Conflicted, reason::CONFLICT);
        self.status.set(condition, true, reason, message.clone());
        self.status.in_force = None;
        let finding = Finding::error(object, field, reason, message);
        self.findings.push(finding.fix("remove one of the two"));
    }

    /// Reports references that lead nowhere. The rest of the policy is in force. `consequence`: the end of the message.
    pub(crate) fn unresolved(
        &mut self,
        object: &ObjectRef,
        errors: &[ValidationError],
        consequence: &str,
    ) {
        let Some(first) = errors.first() else { return };
        let text: Vec<String> = errors.iter().map(ValidationError::sentence).collect();
        let (condition, text) = (ConditionType::ResolvedRefs, text.join("; "));
        self.status
            .set(condition, false, first.reason, text + consequence);
        let findings = errors.iter().map(|error| error.finding(object));
        self.findings.extend(findings);
    }

    /// Reports a probable mistake in a policy that is in force.
    pub(crate) fn warn(
        &mut self,
        object: &ObjectRef,
        field: String,
        reason: &'static str,
        message: String,
        fix: String,
    ) {
        let finding = Finding::warning(object, field, reason, message);
        self.findings.push(finding.fix(fix));
    }

    /// Reports that a target takes no further policy, and that this one does not come into force.
    pub(crate) fn beyond(
        &mut self,
        object: &ObjectRef,
        field: &str,
        message: String,
        fix: &'static str,
    ) {
        let (condition, reason) = (ConditionType::Accepted, reason::TOO_MANY_RULES);
        self.status
            .set(condition, false, reason, format!("{message}: {fix}"));
        self.status.in_force = None;
        let finding = Finding::error(object, field, reason, message);
        self.findings.push(finding.fix(fix));
    }
}

/// Validates the policies of a namespace.
pub(crate) fn validate<S: PolicyKind>(
    lookup: &Recorder<'_>,
    settings: &Settings,
    earlier: &dyn EarlierKinds,
    namespace: &str,
) -> (Attachments<S>, ValidationReport) {
    let mut report = ValidationReport::default();
    let mut attachments = Attachments::<S>::new();
    // In the order of names, so that the smallest name wins a conflict in any order of arrival.
    let mut all: Vec<&Declared<S>> = lookup.declared::<S>(namespace).collect();
    if S::OLDEST_FIRST {
        all.sort_by_key(|declared| declared.created);
    }
    for declared in all {
        let policy = Candidate {
            declared,
            lookup,
            settings,
            earlier,
        };
        let ValidatedSpec {
            spec,
            mut status,
            reason,
        } = validate_spec(
            declared,
            lookup.history(&declared.object),
            |spec| S::check(&policy, spec),
            |spec, errors| S::is_partially_invalid(&policy, spec, errors),
            &mut report.findings,
        );
        if let Some(message) = S::NO_CONFLICT {
            let conflicted = ConditionType::Conflicted;
            status.set(conflicted, false, reason::NO_CONFLICT, message);
        }
        let object_report = &mut ObjectReport {
            status: &mut status,
            findings: &mut report.findings,
        };
        match (&spec, &reason) {
            (Some(spec), _) => S::attach(&policy, spec, &mut attachments, object_report),
            (None, Some(reason)) => {
                S::attach_unusable(&policy, reason, &mut attachments, object_report);
            }
            (None, None) => {}
        }
        report.findings.extend(in_bypass(&policy, spec.as_ref()));
        report.statuses.insert(declared.object.clone(), status);
    }
    S::compare(&attachments, &mut report);
    (attachments, report)
}

/// The effect of a bypass of the namespace of a policy for services of other namespaces.
const WITHOUT_EFFECT: &str = "this object is for calls of its own sidecars alone, and they do not apply it: it has no effect";

/// The finding about a policy of a bypassed namespace. `spec`: the one in force.
fn in_bypass<S: PolicyKind>(policy: &Candidate<'_, S>, spec: Option<&S>) -> Option<Finding> {
    let (object, namespace) = (&policy.declared.object, policy.namespace());
    let effect = S::IN_BYPASS.filter(|_| policy.settings.bypasses(namespace))?;
    let spec = spec.or(policy.declared.spec.as_ref().ok());
    let effect = match spec.is_some_and(|spec| S::is_for_own_callers(policy, spec)) {
        true => WITHOUT_EFFECT,
        false => effect,
    };
    let message = format!("the Mesh bypasses namespace {namespace}: {effect}");
    let finding = Finding::warning(object, "metadata.namespace", reason::BYPASSED, message);
    Some(finding.fix(format!("end it by `heddle mesh bypass {namespace} --off`")))
}

macro_rules! properties {
    ($(
        $(#[$doc:meta])*
        $kind:ident: $role:expr, $scope:ident, $resource:expr
            => $field:ident: $spec:ty, [$($input:literal),*];
    )*) => {
        impl ObjectKind {
            /// The rules that policies of the kind attach to services.
            pub(crate) const fn rules(self) -> Option<RuleKind> {
                $(if matches!(self, Self::$kind) {
                    return match &<$spec as PolicyKind>::RULES {
                        Some(rules) => Some(rules.kind()),
                        None => None,
                    };
                })*
                None
            }

            /// Whether policies of the kind change the clusters of a service that they are attached to.
            pub(crate) const fn is_in_clusters(self) -> bool {
                $(if matches!(self, Self::$kind) {
                    return <$spec as PolicyKind>::IN_CLUSTERS;
                })*
                false
            }

            /// Whether the sidecars of a namespace do not apply objects of the kind while the mesh bypasses it.
            #[must_use]
            pub const fn yields_to_bypass(self) -> bool {
                $(if matches!(self, Self::$kind) {
                    return <$spec as PolicyKind>::IN_BYPASS.is_some();
                })*
                false
            }
        }
    };
}
with_policies!(properties);
