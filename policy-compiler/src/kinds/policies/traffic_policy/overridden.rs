//! Policies that lose groups of fields to closer policies somewhere: their statuses say where.

use std::collections::BTreeMap;

use super::attached::{Part, TargetPolicies};
use super::port_policy::DeclaredPolicy;
use crate::finding::ObjectRef;
use crate::validation::inputs::Target;
use crate::world::{NamespacedName, Port};

/// The policies of the routes of each service, with the port, the route and the part of it.
type Routed<'a> =
    BTreeMap<&'a NamespacedName, Vec<(Port, &'a ObjectRef, &'a Part, &'a DeclaredPolicy)>>;

/// The places where a policy loses, by the closer target of the winners.
#[derive(Default)]
struct Losses {
    ports: Vec<String>,
    routes: Vec<String>,
    rules: Vec<String>,
}

/// Returns the policies that lose groups of fields, with a sentence on the places.
pub(super) fn overridden<'a>(
    attachments: impl Iterator<Item = (&'a Target, &'a TargetPolicies)> + Clone,
) -> Vec<(&'a ObjectRef, String)> {
    let mut routed = Routed::new();
    for (target, policies) in attachments.clone() {
        let Target::Route(route) = target else {
            continue;
        };
        for (part, closer) in &policies.policies {
            for (service, port) in &closer.places {
                let of_service = routed.entry(service).or_default();
                of_service.push((*port, route, part, closer));
            }
        }
    }
    let mut all = Vec::new();
    for (target, policies) in attachments {
        for (part, policy) in &policies.policies {
            let mut losses = Losses::default();
            if *part == Part::Whole {
                losses.add_ports(policy, policies);
            }
            if let Target::Service(service) = target {
                let routes = routed.get(service).into_iter().flatten();
                let at_part = |at: &Port| part.port().is_none_or(|port| port == *at);
                let routes = routes.filter(|(port, ..)| at_part(port));
                routes.for_each(|(_, route, part, closer)| {
                    losses.add_route(policy, route, part, closer)
                });
            }
            all.extend(losses.sentence().map(|text| (&policy.object, text)));
        }
    }
    all
}

impl Losses {
    /// Those of the policy of a whole target to the policies of its parts.
    fn add_ports(&mut self, policy: &DeclaredPolicy, policies: &TargetPolicies) {
        for (part, closer) in &policies.policies {
            let (losses, place) = match part {
                Part::Whole => continue,
                Part::Port(port) => (&mut self.ports, format!("port {port}")),
                Part::Rule(rule) => (&mut self.rules, format!("rule {rule}")),
            };
            losses.extend(loss(policy, closer, &place));
        }
    }

    /// Those of the policy of a service to a policy of a route.
    fn add_route(
        &mut self,
        policy: &DeclaredPolicy,
        route: &ObjectRef,
        part: &Part,
        closer: &DeclaredPolicy,
    ) {
        let (losses, place) = match part {
            Part::Whole | Part::Port(_) => (&mut self.routes, route.to_string()),
            Part::Rule(rule) => (&mut self.rules, format!("rule {rule} of {route}")),
        };
        let loss = loss(policy, closer, &place);
        // A route may have several ports of a service.
        losses.extend(loss.filter(|loss| !losses.contains(loss)));
    }

    fn sentence(self) -> Option<String> {
        let all = [
            (self.ports, "port"),
            (self.routes, "route"),
            (self.rules, "rule"),
        ];
        let lost = all.into_iter().filter(|(losses, _)| !losses.is_empty());
        let lost =
            lost.map(|(losses, named)| format!("{}, for it names the {named}", losses.join("; ")));
        let lost: Vec<String> = lost.collect();
        (!lost.is_empty()).then(|| lost.join("; "))
    }
}

/// The groups that a closer policy wins.
fn loss(policy: &DeclaredPolicy, closer: &DeclaredPolicy, place: &str) -> Option<String> {
    let own = policy.groups.names();
    let mut names = closer.groups.names();
    names.retain(|name| own.contains(name));
    let (winner, names) = (&closer.object, names.join(", "));
    (!names.is_empty()).then(|| format!("{winner} wins {names} of {place}"))
}
