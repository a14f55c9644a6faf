//! Conditions of a status: types, reasons and messages.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The types of conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConditionType {
    /// The spec is valid in itself.
    Accepted,
    /// Routes: some rules of the spec are invalid. The last good spec is in force, and `Accepted` is about its generation.
    PartiallyInvalid,
    /// All that the spec names exists.
    ResolvedRefs,
    /// Another object claims the same and wins.
    Conflicted,
    /// The policy decides requests everywhere it selects.
    Enforced,
    /// Routes: backends of some rules have no ready endpoint, and their weights are not in force.
    WeightsHeld,
    /// Every sidecar that should run this generation does.
    Programmed,
}

impl ConditionType {
    /// Every type, in the order in which status lists them.
    pub const ALL: &[Self] = &[
        Self::Accepted,
        Self::PartiallyInvalid,
        Self::ResolvedRefs,
        Self::Conflicted,
        Self::Enforced,
        Self::WeightsHeld,
        Self::Programmed,
    ];

    /// The `type` of the condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::PartiallyInvalid => "PartiallyInvalid",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Conflicted => "Conflicted",
            Self::Enforced => "Enforced",
            Self::WeightsHeld => "WeightsHeld",
            Self::Programmed => "Programmed",
        }
    }

    /// The meaning of `True`.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Accepted => "The spec is valid in itself.",
            Self::PartiallyInvalid => {
                "Some rules are invalid, so the generation that `Accepted` observes stays in force."
            }
            Self::ResolvedRefs => "All that the spec names exists.",
            Self::Conflicted => "Another object claims the same and wins; the message names it.",
            Self::Enforced => {
                "The policy decides requests everywhere it selects. False with reason Audit is what was asked for."
            }
            Self::WeightsHeld => {
                "Backends have no ready endpoint, so that their shares go to the other backends of their rules; the message names both."
            }
            Self::Programmed => {
                "Every sidecar that should run this generation does (NoSubscribers: none needs to)."
            }
        }
    }

    /// Whether `True` is the good news.
    #[must_use]
    pub const fn positive(self) -> bool {
        match self {
            Self::Accepted | Self::ResolvedRefs | Self::Enforced | Self::Programmed => true,
            Self::PartiallyInvalid | Self::Conflicted | Self::WeightsHeld => false,
        }
    }
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The `status` of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Not known yet.
    Unknown,
}

impl ConditionStatus {
    /// The word in the condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reasons that readers of a status may rely on. A validation may have further ones.
pub mod reason {
    /// Accepted: the spec is valid.
    pub const ACCEPTED: &str = "Accepted";
    /// Accepted: the spec is not valid; the message names field and fix.
    pub const INVALID: &str = "Invalid";
    /// Accepted: the target has as many rules or regular expressions as it can have.
    pub const TOO_MANY_RULES: &str = "TooManyRules";
    /// Accepted: another Mesh, the one named `default`, counts.
    pub const NOT_THE_MESH: &str = "NotTheMesh";
    /// Accepted: another trust domain than that of the mesh's root is named.
    pub const TRUST_DOMAIN_FIXED: &str = "TrustDomainFixed";
    /// `ResolvedRefs`: all that the spec names exists.
    pub const RESOLVED_REFS: &str = "ResolvedRefs";
    /// `ResolvedRefs`: `spec.service` or `spec.target.service` does not exist.
    pub const SERVICE_NOT_FOUND: &str = "ServiceNotFound";
    /// `ResolvedRefs`: a backend does not exist.
    pub const BACKEND_NOT_FOUND: &str = "BackendNotFound";
    /// `ResolvedRefs` of a `TrafficSplit`, and `WeightsHeld` of a route: a backend with weight has no ready endpoint; the message names it.
    pub const BACKEND_NOT_READY: &str = "BackendNotReady";
    /// `ResolvedRefs`: the Mesh names no collector, or one that is not there.
    pub const COLLECTOR_NOT_FOUND: &str = "CollectorNotFound";
    /// `ResolvedRefs`: the Mesh names no rate limit service, or one that is not there.
    pub const RATE_LIMIT_SERVER_NOT_FOUND: &str = "RateLimitServerNotFound";
    /// A finding: the Mesh names a server outside the cluster that sidecars call in plain text.
    pub const CALLED_IN_PLAIN_TEXT: &str = "CalledInPlainText";
    /// `ResolvedRefs`: `spec.target.route` does not exist.
    pub const ROUTE_NOT_FOUND: &str = "RouteNotFound";
    /// `ResolvedRefs`: the route has no rule of that name.
    pub const RULE_NOT_FOUND: &str = "RuleNotFound";
    /// `ResolvedRefs`: the service has no such port.
    pub const PORT_NOT_FOUND: &str = "PortNotFound";
    /// Conflicted: no other object claims the same, or this object wins.
    pub const NO_CONFLICT: &str = "NoConflict";
    /// Conflicted: the object that the message names wins.
    pub const CONFLICT: &str = "Conflict";
    /// Conflicted: another object wins a part of the claim of this one, by a rule of precedence.
    pub const OVERRIDDEN: &str = "Overridden";
    /// Enforced: the decisions of the policy are applied.
    pub const ENFORCED: &str = "Enforced";
    /// Enforced: `spec.mode` is Audit, or the Mesh observes.
    pub const AUDIT: &str = "Audit";
    /// Enforced: the Mesh bypasses the namespace, and its sidecars enforce nothing. Also the code of findings about that.
    pub const BYPASSED: &str = "Bypassed";
    /// Enforced: a rule with HTTP fields selects a port that carries no HTTP.
    pub const NOT_HTTP: &str = "NotHttp";
    /// Enforced: a port that the policy is about is left out of capture, or is of UDP or SCTP. Also the code of findings about that.
    pub const NOT_CAPTURED: &str = "NotCaptured";
    /// A finding: two services declare different protocols for one port of a pod.
    pub const PROTOCOL_CONFLICT: &str = "ProtocolConflict";
    /// Enforced: the spec is unusable and never was good, so all requests to the selected pods are denied.
    pub const DENIED: &str = "Denied";
    /// Enforced: ready sidecars reject the compiled policy and keep their earlier configuration; the message counts them.
    pub const NOT_ENFORCED_EVERYWHERE: &str = "NotEnforcedEverywhere";
    /// A finding: policies name too many ports that nothing declares, so that these are judged together.
    pub const PORTS_NOT_TOLD_APART: &str = "PortsNotToldApart";
    /// A port has too many Deny paths for expressions: paths that are not plain are denied, or all paths.
    pub const PATHS_NOT_SPELLED: &str = "PathsNotSpelled";
    /// Enforced: the headers of all rules of a port take too much memory: of those beyond the bound, Deny rules match more and Allow rules nothing.
    pub const HEADERS_NOT_MATCHED: &str = "HeadersNotMatched";
    /// Enforced: no pod has the labels that the policy selects by, or the service that it names selects none.
    pub const NOTHING_SELECTED: &str = "NothingSelected";
    /// A finding about files: they hold no workload that the object could mean, so that it was not compared with pods.
    pub const NOT_CHECKED: &str = "NotChecked";
    /// Enforced: pods that the policy selects have no sidecar, and nothing else enforces it.
    pub const NO_SIDECAR: &str = "NoSidecar";
    /// Enforced: a rule names something that no request has; the message names it, with the reason.
    pub const NEVER_MATCHES: &str = "NeverMatches";
    /// Findings: a rule names a caller that no pod is, and that almost equals one; or a caller without a sidecar.
    pub const UNKNOWN_CALLER: &str = "UnknownCaller";
    /// Enforced: a rule decides about no request, because another one decides about all of its requests; the message names both.
    pub const UNREACHABLE: &str = "Unreachable";
    /// Findings: a Deny rule names identities, and callers in plain text have none.
    pub const PLAIN_TEXT: &str = "PlainText";
    /// Findings: ports that no Allow rule names stay open.
    pub const OPEN_PORTS: &str = "OpenPorts";
    /// `ResolvedRefs`: the service exists, and its type has no pods of its own.
    pub const UNSUPPORTED_SERVICE: &str = "UnsupportedService";
    /// Findings: a field that this version does not know; it is ignored.
    pub const UNKNOWN_FIELD: &str = "UnknownField";
    /// The spec is unusable; the last good one is in force.
    pub const LAST_GOOD: &str = "LastGood";
    /// Accepted: the spec has a field or value that this version does not support.
    pub const UNSUPPORTED_VALUE: &str = "UnsupportedValue";
    /// Accepted: there is no such parent.
    pub const NO_MATCHING_PARENT: &str = "NoMatchingParent";
    /// Accepted: the target of the policy is not there.
    pub const TARGET_NOT_FOUND: &str = "TargetNotFound";
    /// Accepted: another kind of route has the port of the parent, or an older policy the target.
    pub const CONFLICTED: &str = "Conflicted";
    /// Accepted: filters that exclude each other.
    pub const INCOMPATIBLE_FILTERS: &str = "IncompatibleFilters";
    /// `ResolvedRefs`: the kind of a backend is not supported.
    pub const INVALID_KIND: &str = "InvalidKind";
    /// `ResolvedRefs`: the port of a backend does not carry HTTP.
    pub const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";
    /// Findings: a field without effect, by the rules of its API.
    pub const NO_EFFECT: &str = "NoEffect";
    /// Programmed: every sidecar that should run this generation does.
    pub const PROGRAMMED: &str = "Programmed";
    /// Programmed: some sidecars do not yet.
    pub const PENDING: &str = "Pending";
    /// Programmed: no sidecar needs this object.
    pub const NO_SUBSCRIBERS: &str = "NoSubscribers";
    /// Programmed: a sidecar rejected it; the message holds Envoy's own text.
    pub const REJECTED_BY_PROXY: &str = "RejectedByProxy";
}

/// The last accepted spec of an object. The status has the spec itself only while it is in force in place of the present one, or where the
/// control plane's own store does not have it; otherwise it has the generation.
///
/// The spec is kept as it was written, not as a typed value: a status outlives the control plane that wrote it, and a
/// field that a later version dropped must not make the whole object unreadable.
///
/// On the wire it is one line of JSON in a string: `kubectl describe` would print a whole spec over dozens of lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(into = "WrittenLastGood", try_from = "WrittenLastGood")]
pub struct LastGood {
    /// The generation of that spec.
    pub generation: i64,
    /// The spec of that generation.
    pub spec: serde_json::Value,
    /// `AuthPolicy`: the labels by which `spec.target` selected pods, so that the policy outlives its service.
    pub selected: Option<BTreeMap<String, String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenLastGood {
    generation: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    json: Option<String>,
    /// As earlier versions wrote it.
    #[serde(default, skip_serializing)]
    spec: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    selected: Option<BTreeMap<String, String>>,
}

impl From<LastGood> for WrittenLastGood {
    fn from(good: LastGood) -> Self {
        Self {
            generation: good.generation,
            json: Some(good.spec.to_string()),
            spec: None,
            selected: good.selected,
        }
    }
}

impl TryFrom<WrittenLastGood> for LastGood {
    type Error = serde_json::Error;

    fn try_from(written: WrittenLastGood) -> Result<Self, Self::Error> {
        let spec = match (written.json, written.spec) {
            (Some(json), _) => serde_json::from_str(&json)?,
            (None, Some(spec)) => spec,
            (None, None) => return Err(serde::de::Error::missing_field("json")),
        };
        Ok(Self {
            generation: written.generation,
            spec,
            selected: written.selected,
        })
    }
}

impl LastGood {
    /// Keeps a spec.
    ///
    /// # Errors
    ///
    /// The spec cannot be written as JSON.
    pub fn of<S: Serialize>(generation: i64, spec: &S) -> Result<Self, serde_json::Error> {
        Ok(Self {
            generation,
            spec: serde_json::to_value(spec)?,
            selected: None,
        })
    }

    /// The spec as the type of today.
    ///
    /// # Errors
    ///
    /// If it was written in a version of the API that today's type cannot read.
    pub fn read<S: DeserializeOwned>(&self) -> Result<S, serde_json::Error> {
        S::deserialize(&self.spec)
    }
}

impl JsonSchema for LastGood {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LastGood".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "required": ["generation"],
            "properties": {
                "generation": {"type": "integer", "format": "int64", "description": "The generation that it was."},
                "json": {"type": "string", "description": "The spec of that generation, as JSON. It is left out while the present spec is in force: the control plane keeps it in ConfigMaps."},
                "spec": {
                    "type": "object",
                    "description": "The spec as versions before 0.2 wrote it; it is read, and no longer written.",
                    "x-kubernetes-preserve-unknown-fields": true
                },
                "selected": {
                    "type": "object",
                    "description": "AuthPolicy: the labels by which `spec.target` selected pods, so that the policy outlives its service.",
                    "additionalProperties": {"type": "string"}
                }
            }
        })
    }
}

/// A condition without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredCondition {
    /// Which condition.
    pub kind: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word in camel case; see [`reason`].
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// The generation that the condition is about, if that is not the present one.
    pub generation: Option<i64>,
}

/// Writes a verdict into conditions. The time of the last transition moves only with the status, so that writing the
/// same verdict again changes nothing.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    verdict: &DesiredCondition,
    generation: Option<i64>,
    now: &Time,
) {
    let before = conditions
        .iter()
        .find(|condition| condition.type_ == verdict.kind.as_str());
    let last_transition_time = match before {
        Some(before) if before.status == verdict.status.as_str() => {
            before.last_transition_time.clone()
        }
        Some(_) | None => now.clone(),
    };
    let after = Condition {
        type_: verdict.kind.as_str().to_owned(),
        status: verdict.status.as_str().to_owned(),
        reason: verdict.reason.clone(),
        message: verdict.message.clone(),
        observed_generation: verdict.generation.or(generation),
        last_transition_time,
    };
    match conditions
        .iter_mut()
        .find(|condition| condition.type_ == after.type_)
    {
        Some(place) => *place = after,
        None => conditions.push(after),
    }
}

/// The condition of a type, if it is there.
#[must_use]
pub fn condition(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions
        .iter()
        .find(|condition| condition.type_ == kind.as_str())
}
