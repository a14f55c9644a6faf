//! The pods behind the service that a policy names, also when the service is gone: a missing name never widens access.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_crds::{AuthPolicySpec, ConditionType, LastGood, reason};

use crate::finding::{Finding, ObjectRef};
use crate::kinds::ValidationError;
use crate::status::ObjectStatus;
use crate::validation::Recorder;
use crate::world::{
    Declared, Labels, NamespacedName, is_label_key, is_label_value, selects, to_labels,
};

/// Which workloads of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selector {
    All,
    Labels(Labels),
    /// A service without a selector.
    Nothing,
}

impl Selector {
    /// Whether it selects pods with these labels.
    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Labels(selector) => selects(selector, labels),
            Self::Nothing => false,
        }
    }
}

/// Why a service selects no pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Missing,
    ExternalName,
    NoSelector,
}

/// The labels by which a service last selected pods, from `status.lastGood`.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    service: String,
    labels: Labels,
}

impl Memory {
    pub(super) fn of(last: Option<&LastGood>) -> Option<Self> {
        let last = last?;
        let service = last.spec.pointer("/target/service")?.as_str()?.to_owned();
        let selected = last.selected.as_ref().filter(|labels| !labels.is_empty())?;
        let labels = to_labels(selected);
        Some(Self { service, labels })
    }
}

/// The pods that `spec.target` means.
#[derive(Clone, Debug)]
pub(super) struct Target {
    name: NamespacedName,
    fault: Option<Fault>,
    /// Whether the selector is the one that the service last had.
    remembered: bool,
    selector: Selector,
}

impl Target {
    /// Resolves a service of the policy's namespace. Without a memory, a service that does not exist or is of another type means every pod
    /// of the namespace; one without a selector means none, for its author has put the pods elsewhere.
    pub(super) fn resolve(
        lookup: &Recorder<'_>,
        namespace: &Arc<str>,
        service: &str,
        memory: Option<&Memory>,
    ) -> Self {
        let name = NamespacedName {
            namespace: Arc::clone(namespace),
            name: service.into(),
        };
        let memory = memory.filter(|memory| memory.service == service);
        let fault = match lookup.service(&name) {
            Some(there) if !there.selector.is_empty() => {
                return Self {
                    name,
                    fault: None,
                    remembered: false,
                    selector: Selector::Labels(there.selector.clone()),
                };
            }
            Some(_) => Fault::NoSelector,
            None if lookup.is_external(&name) => Fault::ExternalName,
            None => Fault::Missing,
        };
        let selector = match (memory, fault) {
            (Some(memory), _) => Selector::Labels(memory.labels.clone()),
            (None, Fault::NoSelector) => Selector::Nothing,
            (None, Fault::Missing | Fault::ExternalName) => Selector::All,
        };
        Self {
            name,
            fault: Some(fault),
            remembered: memory.is_some(),
            selector,
        }
    }

    /// Why the spec cannot be in force: nothing selects its pods.
    pub(super) fn problem(&self) -> Option<ValidationError> {
        let fault = self.fault.filter(|_| !self.remembered)?;
        let (reason, message, fix) = self.in_words(fault);
        match fault {
            Fault::Missing | Fault::ExternalName => Some(ValidationError::unresolved(
                reason,
                "spec.target.service",
                message,
                fix,
            )),
            Fault::NoSelector => None,
        }
    }

    /// Reports a target that selects no pods by itself, where the spec is in force nevertheless.
    pub(super) fn report(
        &self,
        object: &ObjectRef,
        status: &mut ObjectStatus,
        findings: &mut Vec<Finding>,
    ) {
        let Some(fault) = self.fault else { return };
        let (reason, message, fix) = self.in_words(fault);
        let field = "spec.target.service";
        if let (true, Selector::Labels(labels)) = (self.remembered, &self.selector) {
            let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let pairs = pairs.join(",");
            let message =
                format!("{message}; the pods that it last selected stay protected ({pairs})");
            status.set(ConditionType::ResolvedRefs, false, reason, message.clone());
            findings.push(Finding::error(object, field, reason, message).fix(fix));
        } else {
            let message = format!("{message}, so the policy selects no pod");
            let enforced = status.condition(ConditionType::Enforced);
            if enforced.is_none_or(|condition| condition.reason != reason::AUDIT) {
                status.set(ConditionType::Enforced, false, reason, message.clone());
            }
            findings.push(Finding::warning(object, field, reason, message).fix(fix));
        }
    }

    fn in_words(&self, fault: Fault) -> (&'static str, String, &'static str) {
        let name = &self.name;
        match fault {
            Fault::Missing => (
                reason::SERVICE_NOT_FOUND,
                format!("service {name} does not exist"),
                "create it, or correct the name",
            ),
            Fault::ExternalName => (
                reason::UNSUPPORTED_SERVICE,
                format!("service {name} is of type ExternalName, which selects no pods"),
                "name a service with a selector, or use spec.selector",
            ),
            Fault::NoSelector => (
                reason::NOTHING_SELECTED,
                format!("service {name} has no selector"),
                "use spec.selector",
            ),
        }
    }
}

/// As much of the selector as can be read; else the whole namespace. Labels that no pod can have are not readable.
pub(super) fn raw_selector(
    lookup: &Recorder<'_>,
    declared: &Declared<AuthPolicySpec>,
    memory: Option<&Memory>,
) -> Selector {
    let spec = &declared.raw_spec;
    let labels = spec
        .pointer("/selector/matchLabels")
        .cloned()
        .and_then(|v| serde_json::from_value::<BTreeMap<String, String>>(v).ok());
    let service = spec.pointer("/target/service").and_then(|s| s.as_str());
    let readable = |labels: &BTreeMap<String, String>| {
        let mut all = labels.iter();
        !labels.is_empty() && all.all(|(key, value)| is_label_key(key) && is_label_value(value))
    };
    match (labels.filter(readable), service) {
        (Some(labels), None) => Selector::Labels(to_labels(&labels)),
        (None, Some(service)) => {
            Target::resolve(lookup, &declared.object.namespace, service, memory).selector
        }
        (Some(_), Some(_)) | (None, None) => Selector::All,
    }
}

/// The pods that a readable spec means.
pub(super) enum Selection {
    Own(Selector),
    Target(Target),
    /// Both, of which only one may be there.
    Both,
}

impl Selection {
    pub(super) fn of(
        lookup: &Recorder<'_>,
        namespace: &Arc<str>,
        spec: &AuthPolicySpec,
        memory: Option<&Memory>,
    ) -> Self {
        match (&spec.selector, &spec.target) {
            (Some(_), Some(_)) => Self::Both,
            (Some(selector), None) => {
                Self::Own(Selector::Labels(to_labels(&selector.match_labels)))
            }
            (None, Some(target)) => {
                let target = Target::resolve(lookup, namespace, &target.service, memory);
                Self::Target(target)
            }
            (None, None) => Self::Own(Selector::All),
        }
    }

    pub(super) fn selector(self) -> Selector {
        match self {
            Self::Own(selector) => selector,
            Self::Target(target) => target.selector,
            Self::Both => Selector::All,
        }
    }

    /// Reports a missing target, and keeps the selected labels in the status for a time when the target is missing.
    pub(super) fn report(
        &self,
        object: &ObjectRef,
        status: &mut ObjectStatus,
        findings: &mut Vec<Finding>,
    ) {
        let Self::Target(target) = self else { return };
        target.report(object, status, findings);
        if let (Selector::Labels(labels), Some(in_force)) = (&target.selector, &mut status.in_force)
        {
            let pair = |(key, value): (&Arc<str>, &Arc<str>)| (key.to_string(), value.to_string());
            in_force.selected = Some(labels.iter().map(pair).collect());
        }
    }
}
