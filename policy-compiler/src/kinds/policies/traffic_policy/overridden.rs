//! Policies that lose groups of fields to closer policies somewhere: their statuses say where.

use std::collections::BTreeMap;

use heddle_crds::{ConditionType, reason};

use super::attached::{Part, TargetPolicies};
use super::port_policy::DeclaredPolicy;
use crate::finding::ObjectRef;
use crate::status::ObjectStatus;
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

/// So many winners are in a message.
const NAMED: usize = 8;

/// The ports of services, as the policies of consumers count there.
pub(crate) trait ConsumedPorts<'a> {
    /// The ports of a service that carry HTTP. A policy of another namespace is for requests.
    fn of_requests(&self, service: &NamespacedName) -> Vec<Port>;

    /// The policies of other namespaces for their own calls of a port.
    fn consumers(&self, service: &NamespacedName, port: Port) -> Vec<&'a TargetPolicies>;
}

/// Returns the policies of a namespace that lose groups of fields to policies of other namespaces for the callers there, with a sentence on the
/// winners.
pub(crate) fn lost_to_consumers<'a>(
    namespace: &str,
    own: impl Iterator<Item = (&'a Target, &'a TargetPolicies)>,
    ports: &impl ConsumedPorts<'a>,
) -> Vec<(&'a ObjectRef, String)> {
    let mut all = Vec::new();
    for (target, policies) in own {
        for (part, policy) in &policies.policies {
            let places: Vec<(&NamespacedName, Port)> = match target {
                Target::Service(service) => {
                    let ports = ports.of_requests(service).into_iter();
                    let ports = ports.filter(|at| part.port().is_none_or(|port| port == *at));
                    ports.map(|port| (service, port)).collect()
                }
                Target::Route(_) => policy.places.iter().map(|(of, port)| (of, *port)).collect(),
                Target::Pods(_) | Target::Callers(_) | Target::External(_) => Vec::new(),
            };
            // Those of another namespace for services elsewhere hold for its own callers alone.
            let own = places
                .into_iter()
                .filter(|(of, _)| *of.namespace == *namespace);
            let mut winners = BTreeMap::new();
            for (service, port) in own {
                for consumer in ports.consumers(service, port) {
                    for closer in consumer.layers([Part::Port(port), Part::Whole]) {
                        let names = lost(policy, closer);
                        let won = (!names.is_empty()).then_some((&closer.object, names));
                        winners.extend(won);
                    }
                }
            }
            all.extend(by_consumers(&winners).map(|text| (&policy.object, text)));
        }
    }
    all
}

/// The sentence on the policies of other namespaces that win groups of fields.
fn by_consumers(winners: &BTreeMap<&ObjectRef, Vec<&str>>) -> Option<String> {
    let named = winners.iter().take(NAMED);
    let named = named.map(|(winner, names)| format!("{winner} wins {}", names.join(", ")));
    let mut all: Vec<String> = named.collect();
    let more = winners.len().saturating_sub(NAMED);
    if more > 0 {
        all.push(format!("{more} more policies of other namespaces win some"));
    }
    let each = match winners.len() {
        0 => return None,
        1 => "",
        _ => "each ",
    };
    Some(format!(
        "{}, {each}for the callers of its own namespace",
        all.join("; ")
    ))
}

/// Adds a sentence on the winners of groups of fields to the status of a policy that is in force elsewhere.
pub(crate) fn lose(status: &mut ObjectStatus, sentence: &str) {
    let kind = ConditionType::Conflicted;
    let present = status.condition(kind);
    let before = present.filter(|of| of.reason == reason::OVERRIDDEN);
    let message = match before {
        Some(before) => format!("{}; {sentence}", before.message),
        None => sentence.to_owned(),
    };
    status.set(kind, false, reason::OVERRIDDEN, message);
}

/// The groups that a closer policy wins.
fn lost(policy: &DeclaredPolicy, closer: &DeclaredPolicy) -> Vec<&'static str> {
    let own = policy.groups.names();
    let mut names = closer.groups.names();
    names.retain(|name| own.contains(name));
    names
}

/// The groups that a closer policy wins somewhere, in words.
fn loss(policy: &DeclaredPolicy, closer: &DeclaredPolicy, place: &str) -> Option<String> {
    let (winner, names) = (&closer.object, lost(policy, closer).join(", "));
    (!names.is_empty()).then(|| format!("{winner} wins {names} of {place}"))
}
