//! `config/argocd/`: health checks for Argo CD in the form of its own repository, one template for all kinds.

use heddle_crds::{API_VERSION, ConditionType, GROUP, Kind, Scope, reason};

use super::{Files, yaml::HEADER};

const TEMPLATE: &str = include_str!("health.lua");

pub fn files() -> Files {
    Kind::ALL
        .iter()
        .flat_map(|kind| kind_files(*kind))
        .collect()
}

fn kind_files(kind: Kind) -> Files {
    let folder = format!(
        "config/argocd/resource_customizations/{GROUP}/{}",
        kind.name()
    );
    let mut files = Files::new();
    let lua = TEMPLATE
        .replace("{{KIND}}", kind.name())
        .replace("{{DONE}}", done(kind).as_str());
    files.insert(format!("{folder}/health.lua"), lua);

    let mut tests = format!("{HEADER}tests:\n");
    for case in cases(kind) {
        let input = format!("testdata/{}.yaml", case.name);
        tests.push_str(&format!(
            "- healthStatus:\n    status: {}\n    message: \"{}\"\n  inputPath: {input}\n",
            case.health, case.message
        ));
        files.insert(format!("{folder}/{input}"), object(kind, &case));
    }
    files.insert(format!("{folder}/health_test.yaml"), tests);
    files
}

/// The condition that is True when all is done.
fn done(kind: Kind) -> ConditionType {
    kind.conditions()
        .last()
        .copied()
        .unwrap_or(ConditionType::Accepted)
}

/// A possible status, with the health that Argo CD has to show.
struct Case {
    name: String,
    health: &'static str,
    message: String,
    /// The object has generation 2.
    observed_generation: Option<u8>,
    /// All other conditions are as good as they can be.
    odd: Option<Odd>,
}

/// One condition that is not as good as it can be.
struct Odd {
    kind: ConditionType,
    status: &'static str,
    reason: &'static str,
}

const WAITING: &str = "Waiting for the control plane to judge this generation";

fn cases(kind: Kind) -> Vec<Case> {
    let plain = |name: &str, health, message: &str, observed_generation| Case {
        name: name.to_owned(),
        health,
        message: message.to_owned(),
        observed_generation,
        odd: None,
    };
    let mut cases = vec![
        plain("new", "Progressing", WAITING, None),
        plain("stale", "Progressing", WAITING, Some(1)),
        plain("good", "Healthy", &message(done(kind)), Some(2)),
    ];
    cases.extend(
        kind.conditions()
            .iter()
            .flat_map(|condition| odd_cases(*condition)),
    );
    cases
}

fn odd_cases(kind: ConditionType) -> Vec<Case> {
    let case = |name: &str, health: &'static str, status, reason| Case {
        name: name.to_owned(),
        health,
        message: match health {
            "Degraded" => format!("{kind}: {}", message(kind)),
            // An audited policy is healthy by its last condition.
            "Healthy" => message(ConditionType::Programmed),
            _ => message(kind),
        },
        observed_generation: Some(2),
        odd: Some(Odd {
            kind,
            status,
            reason,
        }),
    };
    match kind {
        ConditionType::Accepted => vec![case("invalid", "Degraded", "False", reason::INVALID)],
        ConditionType::ResolvedRefs => {
            vec![case(
                "unresolved",
                "Degraded",
                "False",
                reason::SERVICE_NOT_FOUND,
            )]
        }
        // No kind of ours has them.
        ConditionType::PartiallyInvalid | ConditionType::WeightsHeld => Vec::new(),
        ConditionType::Conflicted => vec![case("conflicted", "Degraded", "True", reason::CONFLICT)],
        ConditionType::Enforced => vec![
            case("unenforced", "Degraded", "False", reason::NOT_HTTP),
            case("audited", "Healthy", "False", reason::AUDIT),
        ],
        ConditionType::Programmed => vec![
            case("pending", "Progressing", "False", reason::PENDING),
            case("unknown", "Progressing", "Unknown", reason::PENDING),
            case("rejected", "Degraded", "False", reason::REJECTED_BY_PROXY),
        ],
    }
}

fn message(kind: ConditionType) -> String {
    format!("what {kind} says")
}

fn object(kind: Kind, case: &Case) -> String {
    let namespace = match kind.scope() {
        Scope::Cluster => "",
        Scope::Namespaced => "  namespace: shop\n",
    };
    let mut text = format!(
        "{HEADER}apiVersion: {API_VERSION}\nkind: {}\nmetadata:\n  name: default\n{namespace}  generation: 2\nspec: {{}}\n",
        kind.name()
    );
    let Some(generation) = case.observed_generation else {
        return text;
    };
    text.push_str(&format!(
        "status:\n  observedGeneration: {generation}\n  conditions:\n"
    ));
    for condition in kind.conditions() {
        let odd = case.odd.as_ref().filter(|odd| odd.kind == *condition);
        let good = if condition.positive() {
            "True"
        } else {
            "False"
        };
        let (status, reason) = odd.map_or((good, "AsItShouldBe"), |odd| (odd.status, odd.reason));
        text.push_str(&format!(
            "  - type: {condition}\n    status: \"{status}\"\n    reason: {reason}\n    message: {}\n    observedGeneration: {generation}\n    lastTransitionTime: \"2026-01-01T00:00:00Z\"\n",
            message(*condition)
        ));
    }
    text
}
