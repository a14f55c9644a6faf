//! A faulty object among many that are merged into one route configuration, found by a real Envoy.

use crate::harness::{Fixture, Status};
use crate::programmed;

const POLICIES: usize = 20;
const FAULTY: usize = 7;

/// All select the same pod. Envoy rejects one. Another one has Envoy's own text about that as a value, and the last ones are
/// newer.
fn policies() -> String {
    let policy = |number: usize| {
        let header = match number {
            FAULTY => "regex: '(gold'".to_owned(),
            3 => "exact: 'missing ): (gold'".to_owned(),
            _ => format!("exact: '(gold {number}'"),
        };
        format!(
            "
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {{name: {}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: reviews}}}}
  rules: [{{action: Deny, to: {{headers: [{{name: x-tier, {header}}}]}}}}]
",
            name(number)
        )
    };
    let all: Vec<String> = (0..POLICIES).map(policy).collect();
    all.join("---")
}

fn name(number: usize) -> String {
    format!("tier-{number:02}")
}

pub fn only_the_faulty_one_is_set_aside(mesh: &Fixture) {
    mesh.apply("tiers.yaml", &policies());
    let status = mesh.status("AuthPolicy", &name(FAULTY), |status: &Status| {
        status.programmed.1 == "RejectedByProxy"
    });
    assert!(status.message.contains("(gold"), "{}", status.message);
    for number in (0..POLICIES).filter(|number| *number != FAULTY) {
        mesh.status("AuthPolicy", &name(number), programmed(1));
    }
    mesh.remove("tiers.yaml", "AuthPolicy", &name(FAULTY));
}
