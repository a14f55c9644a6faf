//! Pod templates and manifests of pods, which stand in for pods that do not exist yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use heddle_crds::ProxySettings;

use crate::finding::{Finding, ObjectRef};
use crate::injection::{Injection, InjectionDecision, is_selected};
use crate::world::{Pod, PodTemplate, Port};

/// A pod as it will be, with the webhook's decision about it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StandIn {
    /// The pod without the webhook: it has a sidecar only where its author wrote one.
    pub(crate) pod: Pod,
    pub(crate) object: ObjectRef,
    /// The value of the pod's own injection label.
    pub(crate) label: Option<String>,
    /// The decision if the webhook selects the pod.
    pub(crate) injection: Injection,
    /// Warnings that hold whether the webhook selects the pod or not.
    pub(crate) spelling: Vec<String>,
}

/// The injection labels of namespaces.
pub(super) type NamespaceLabels = BTreeMap<Arc<str>, Arc<str>>;

impl StandIn {
    fn is_selected(&self, namespaces: &NamespaceLabels) -> bool {
        let namespace = &self.pod.name.namespace;
        let label = namespaces.get(namespace).map(|label| &**label);
        is_selected(namespace, label, self.label.as_deref())
    }

    /// The reason for which a pod that the webhook would inject has no room for the sidecar of a mesh with these settings.
    pub(super) fn misfit(&self, mesh: &ProxySettings) -> Option<String> {
        match &self.injection.decision {
            InjectionDecision::Inject(settings) => settings.misfit(mesh),
            InjectionDecision::Leave
            | InjectionDecision::Skip(_)
            | InjectionDecision::Refuse(_) => None,
        }
    }

    /// Returns the template after admission.
    pub(super) fn pod_template(&self, namespaces: &NamespaceLabels, fits: bool) -> PodTemplate {
        let template = (*self.pod.template).clone();
        let selected = self.is_selected(namespaces);
        match &self.injection.decision {
            InjectionDecision::Inject(settings) if selected && fits => {
                let ports = settings.exclusions.inbound_ports.iter();
                let ports = ports.filter_map(|port| Port::try_from(i32::from(*port)).ok());
                PodTemplate {
                    meshed: true,
                    uncaptured: ports.collect(),
                    ..template
                }
            }
            InjectionDecision::Inject(_)
            | InjectionDecision::Leave
            | InjectionDecision::Skip(_)
            | InjectionDecision::Refuse(_) => template,
        }
    }

    /// Returns the messages of the admission, in the webhook's own words.
    pub(super) fn findings(
        &self,
        namespaces: &NamespaceLabels,
        misfit: Option<&str>,
    ) -> Vec<Finding> {
        if !self.is_selected(namespaces) {
            return warnings(&self.object, &self.spelling);
        }
        let mut found = warnings(&self.object, &self.injection.warnings);
        let refused = |reason: &str| {
            let (field, message, fix) = split(reason);
            Finding::error(&self.object, field, "InjectionRefused", message).fix(fix)
        };
        match &self.injection.decision {
            InjectionDecision::Inject(_) => found.extend(misfit.map(refused)),
            InjectionDecision::Leave => {}
            InjectionDecision::Skip(reason) => {
                let finding = Finding::info(&self.object, "", "NoSidecar", &**reason);
                found.push(finding.fix("label the pods heddle.dev/inject: disabled"));
            }
            InjectionDecision::Refuse(reason) => found.push(refused(reason)),
        }
        found
    }
}

/// Returns one finding for each message of injection about an object.
pub(crate) fn warnings(object: &ObjectRef, messages: &[String]) -> Vec<Finding> {
    let finding = |message: &String| {
        let (field, message, fix) = split(message);
        Finding::warning(object, field, "Injection", message).fix(fix)
    };
    messages.iter().map(finding).collect()
}

/// Injection writes the field in front of its messages, and the fix behind them.
fn split(message: &str) -> (&str, &str, &str) {
    let (message, fix) = message.split_once("; ").unwrap_or((message, "correct it"));
    let field = |text: &&str| text.starts_with("metadata.") || text.starts_with("spec.");
    let parts = message.split_once(": ").filter(|(text, _)| field(text));
    let (field, message) = parts.unwrap_or(("", message));
    (field, message, fix)
}
