//! The services with rules of their own: the weights in force of splits and routes.

use anyhow::Result;
use heddle_policy_compiler::{NamespacedName, ObjectKind};
use serde_json::{Value, json};

use crate::describe::{self, look::Look};

/// Describes the rules of each service for which an object decides, sorted by name.
///
/// # Errors
/// A service is not in the objects.
pub fn of(look: &Look) -> Result<Vec<Value>> {
    let services = look.outcome.world.services().keys();
    let ruled = services.filter(|name| is_ruled(look, name));
    let described = ruled.map(|name| {
        let name = name.to_string();
        let mut document = describe::document(look, "service", &name)?;
        let rules = document.get_mut("rules").map(Value::take);
        Ok(json!({"service": name, "rules": rules}))
    });
    described.collect()
}

/// Whether any rule of a service comes of another object than the service.
fn is_ruled(look: &Look, name: &NamespacedName) -> bool {
    let service = look.outcome.world.services().get(name);
    let ports = service.into_iter().flat_map(|service| service.ports.keys());
    let mut rules = ports.flat_map(|port| look.outcome.compiled.port_rules(name, *port));
    rules.any(|rules| {
        let mut origins = rules
            .entries
            .iter()
            .flat_map(|rule| &rule.entry.rule.origins);
        origins.any(|of| of.kind != ObjectKind::Service)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::Objects;

    #[test]
    fn services_with_a_split_have_their_weights_and_others_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("mesh", include_str!("../../demo/world/mesh.yaml")),
            ("reviews", include_str!("../../demo/world/reviews.yaml")),
            ("ratings", include_str!("../../demo/world/ratings.yaml")),
            ("split", include_str!("../../demo/steps/split-95-5.yaml")),
        ] {
            let text = text.replace("${NET}", "127.7.7");
            std::fs::write(folder.path().join(format!("{name}.yaml")), text).unwrap();
        }
        let objects = Objects::from_paths(&[folder.path().to_owned()]).unwrap();
        let found = of(&Look::of(objects)).unwrap();
        let services: Vec<_> = found.iter().map(|of| &of["service"]).collect();
        assert_eq!(services, ["shop/reviews"]);
        let backends = found[0]["rules"][0]["backends"].as_array().unwrap();
        let weights: Vec<_> = backends.iter().map(|of| of["weight"].as_u64()).collect();
        assert_eq!(weights, [Some(95), Some(5)]);
    }
}
