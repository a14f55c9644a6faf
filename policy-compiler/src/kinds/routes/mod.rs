//! Routes of Gateway API: the parts of all kinds of routes. A kind implements [`RouteSpec`] for the type of its spec.
//!
//! Routes of services are read; those of gateways belong to other controllers. A route replaces the implicit rule of the
//! service: requests that no rule takes are answered 404. Routes of one namespace and port are merged by the precedence of their matches.
//! A route of the service's namespace holds for all callers. One of another namespace holds for the callers of its own namespace, in the place
//! of the former. Of either, a port takes the routes of one kind. Connections with TLS have
//! one match, the server name. Connections of bytes have none: their port takes one route, the oldest.

mod backends;
mod cors;
mod filters;
pub(super) mod matches;
mod notes;
mod parents;
mod partial;
mod rules;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use heddle_crds::{ConditionStatus, ConditionType, DesiredCondition, ForeignSpec, reason};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::finding::{Finding, ObjectRef};
use crate::kinds::policy::{Attachments, Candidate, ObjectReport, PolicyKind};
use crate::kinds::service_rules::{PortRules, RuleKind, Rules, ServiceRules};
use crate::kinds::{self, ValidationError};
use crate::status::{ObjectStatus, ParentStatus, bounded};
use crate::traffic::{RequestMatcher, RouteEntry, RuleId, WithoutBackend};
use crate::validation::endpoints::called_families;
use crate::validation::inputs::Target;
use crate::world::{DeclaredSpec, Family, NamespacedName, Port};
pub(super) use notes::Notes;
use parents::{Place, Taken};
pub(super) use rules::{Rule, connections_rule, rule};

/// The spec of a kind of route.
pub(super) trait RouteSpec: Sized {
    /// The traffic that it routes.
    const ROUTED: Routed;

    /// Reads the rules without regard to the cluster, at least one.
    fn rules(&self, notes: &mut Notes) -> Vec<Rule>;

    /// Whether it names hosts. They have no effect for services.
    fn names_hosts(&self) -> bool;
}

/// The traffic that a kind of route is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Routed {
    /// Requests, to ports that declare HTTP, with the answer to those without a usable backend.
    Requests(WithoutBackend),
    /// Connections with TLS, to ports that do not declare HTTP, by server name. Those without a usable backend or rule are not_taken.
    Tls,
    /// Connections, to ports that do not declare HTTP. Those without a usable backend are not_taken.
    Bytes,
}

fn read<T: RouteSpec>(spec: &T) -> (Notes, Vec<Rule>) {
    let mut notes = Notes::default();
    let rules = spec.rules(&mut notes);
    (notes, rules)
}

/// Reads the elements of a list, with the field of each. A list without any stands for one element with defaults.
fn each<R: Default, T>(
    field: &str,
    of: Option<&[R]>,
    mut read: impl FnMut(&str, &R) -> T,
) -> Vec<T> {
    let one = [R::default()];
    let all = of.filter(|all| !all.is_empty()).unwrap_or(&one);
    let all = all.iter().enumerate();
    all.map(|(index, of)| read(&format!("{field}[{index}]"), of))
        .collect()
}

/// Reads the rules of a route. One without any has a rule without backends.
pub(super) fn rules<R: Default>(of: Option<&[R]>, read: impl FnMut(&str, &R) -> Rule) -> Vec<Rule> {
    each("spec.rules", of, read)
}

/// Reads the alternatives of a rule with this field. One without any takes all requests.
pub(super) fn alternatives<R: Default>(
    field: &str,
    of: Option<&[R]>,
    read: impl FnMut(&str, &R) -> RequestMatcher,
) -> Vec<RequestMatcher> {
    each(&format!("{field}.matches"), of, read)
}

/// Reads a value through another type with the same fields: the kinds of routes have types of their own for equal fields.
fn same<T: DeserializeOwned>(of: &impl Serialize) -> Option<T> {
    serde_json::from_value(serde_json::to_value(of).ok()?).ok()
}

/// Reads a duration of Gateway API.
pub(super) fn duration(field: &str, text: Option<&String>, notes: &mut Notes) -> Option<Duration> {
    let text = text?;
    let duration: Option<gateway_api::Duration> = text.parse().ok();
    if duration.is_none() {
        let message = format!("{text:?} is not a duration");
        notes.unsupported(field, message, "write for example 1m30s");
    }
    duration.map(|of| Duration::new(of.as_secs(), of.subsec_nanos()))
}

impl<T> PolicyKind for ForeignSpec<T>
where
    T: RouteSpec + DeserializeOwned + Serialize,
    Self: DeclaredSpec,
{
    type Attachment = ServiceRules;

    const RULES: Option<Rules<ServiceRules>> = Some(Rules::of(RuleKind::Route));

    const IN_CLUSTERS: bool = false;

    // Routes of one port are merged.
    const NO_CONFLICT: Option<&'static str> = None;

    // A port takes one route, one for each name, or as many rules as fit.
    const OLDEST_FIRST: bool = true;

    fn is_for_own_callers(policy: &Candidate<'_, Self>, spec: &Self) -> bool {
        let services = parent_services(policy, spec);
        let own = policy.namespace();
        !services.is_empty() && services.iter().all(|of| of.namespace != *own)
    }

    fn check(_policy: &Candidate<'_, Self>, spec: &Self) -> Vec<ValidationError> {
        if parents::of(spec).is_empty() {
            return Vec::new();
        }
        ValidationError::of_gateway_api(spec, |route| read(route).0.errors)
    }

    fn is_partially_invalid(
        policy: &Candidate<'_, Self>,
        spec: &Self,
        errors: &[ValidationError],
    ) -> bool {
        partial::is_partially_invalid(spec, errors, |rest| Self::check(policy, rest))
    }

    fn attach(
        policy: &Candidate<'_, Self>,
        spec: &Self,
        attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        let (notes, rules) = spec.typed().map(read).unwrap_or_default();
        let taken = taken(policy, spec, attachments);
        let mut places = Places::new();
        for (index, parent) in parents::of(spec) {
            if let Ok(found) = parents::resolve(policy, &taken, index, &parent) {
                places.entry(found.service).or_default().extend(found.ports);
            }
        }
        let mut full = Full::new();
        let matchers = rules.iter().flat_map(|rule| rule.matchers.iter().cloned());
        let matchers: Vec<RequestMatcher> = matchers.collect();
        let each = rules.iter().map(Rule::alternatives_each).max().unwrap_or(1);
        places.retain(|service, ports| {
            let reason = beyond::<Self>(attachments, (service, ports), &matchers, each);
            full.extend(reason.map(|reason| (service.clone(), reason)));
            !full.contains_key(service)
        });
        if places.is_empty() {
            report.status.in_force = None;
        } else {
            notes.report(&policy.declared.object, report.findings);
            report_backends(policy, (&rules, T::ROUTED), report);
            report_held(policy, (&rules, T::ROUTED), &places, report);
        }
        for (service, ports) in places.clone() {
            let target = Target::Service(service.clone());
            let attached = attachments.entry(target).or_default();
            if T::ROUTED == Routed::Tls {
                report_taken_names(policy, (&matchers, &*attached), (&service, &ports), report);
            }
            for port in ports {
                let attached = attached.entry(port).or_default();
                let entries = entries_of(policy, &rules, (port, T::ROUTED)).into_iter();
                entries.for_each(|entry| attached.push(entry));
            }
        }
        report_parents(policy, (&full, &taken), &places, report);
    }

    fn attach_unusable(
        policy: &Candidate<'_, Self>,
        _reason: &str,
        _attachments: &mut Attachments<Self>,
        report: &mut ObjectReport<'_>,
    ) {
        let (full, taken) = (Full::new(), Taken::new());
        report_parents(policy, (&full, &taken), &Places::new(), report);
    }
}

/// The services that are parents of a route.
pub(super) fn parent_services<T, S>(
    policy: &Candidate<'_, S>,
    spec: &ForeignSpec<T>,
) -> BTreeSet<NamespacedName> {
    let all = parents::of(spec).into_iter();
    all.map(|(_, parent)| parents::service_name(policy, &parent))
        .collect()
}

/// The ports to which a route is attached, by service.
type Places = BTreeMap<NamespacedName, BTreeSet<Port>>;

/// The services that take no further rules, with the reasons.
type Full = BTreeMap<NamespacedName, String>;

/// The ports that older routes of the same kind have, where a port takes one route.
fn taken<T: RouteSpec>(
    policy: &Candidate<'_, ForeignSpec<T>>,
    spec: &ForeignSpec<T>,
    attachments: &BTreeMap<Target, ServiceRules>,
) -> Taken {
    let mut taken = Taken::new();
    if T::ROUTED != Routed::Bytes {
        return taken;
    }
    let specs = std::iter::once(spec).chain(&policy.declared.spec);
    for (_, parent) in specs.flat_map(parents::of) {
        let service = parents::service_name(policy, &parent);
        let attached = attachments.get(&Target::Service(service.clone()));
        for (port, rules) in attached.into_iter().flatten() {
            let mut objects = rules.entries().iter().flat_map(|of| &of.rule.origins);
            let winner = objects.next().cloned();
            taken.extend(winner.map(|winner| ((service.clone(), *port), winner)));
        }
    }
    taken
}

/// Reports the server names that older routes have at ports of a service: one by name, and the number of the others.
fn report_taken_names<S>(
    policy: &Candidate<'_, S>,
    (matchers, attached): (&[RequestMatcher], &ServiceRules),
    (service, ports): (&NamespacedName, &BTreeSet<Port>),
    report: &mut ObjectReport<'_>,
) {
    let at_port = |port: &Port| attached.get(port).map(|rules| (*port, rules));
    let mut lost = ports.iter().filter_map(at_port).flat_map(|(port, rules)| {
        matchers.iter().filter_map(move |matcher| {
            let older = rules.first_of(std::slice::from_ref(matcher));
            let winner = older.and_then(|entry| entry.rule.origins.first());
            Some((winner?, matcher.server_name.as_ref()?, port))
        })
    });
    let Some((winner, name, port)) = lost.next() else {
        return;
    };
    let mut message = format!("{winner} has the name {name} at port {port}, for it is older");
    let more = lost.count();
    if more > 0 {
        message += &format!(", and older routes have {more} more at ports of service {service}");
    }
    report.warn(
        &policy.declared.object,
        "spec.hostnames".to_owned(),
        reason::OVERRIDDEN,
        message,
        "remove one of the two".to_owned(),
    );
}

/// Returns the reason why a port of a service does not take rules with these alternatives beside those that it has.
fn beyond<S: PolicyKind<Attachment = ServiceRules>>(
    attachments: &Attachments<S>,
    (service, ports): (&NamespacedName, &BTreeSet<Port>),
    matchers: &[RequestMatcher],
    each: usize,
) -> Option<String> {
    let attached = attachments.get(&Target::Service(service.clone()));
    ports.iter().find_map(|port| {
        let none = PortRules::default();
        let present = attached.and_then(|attached| attached.get(port));
        let reason = kinds::matches::beyond(present.unwrap_or(&none), matchers, each)?;
        Some(format!("port {port} of service {service} {reason}"))
    })
}

/// The entries of a route for a port of a parent.
fn entries_of<S>(
    policy: &Candidate<'_, S>,
    rules: &[Rule],
    (port, routed): (Port, Routed),
) -> Vec<RouteEntry> {
    let mut entries = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let id = RuleId::Route {
            created: policy.declared.created,
            object: policy.declared.object.clone(),
            index,
            name: rule.name.clone(),
        };
        let made = Arc::new(rule.route_rule(policy, id, (port, routed)));
        let alternatives = rule.matchers.iter().cloned().enumerate();
        entries.extend(alternatives.map(|(alternative, matcher)| RouteEntry {
            matcher,
            alternative,
            rule: Arc::clone(&made),
        }));
    }
    entries
}

/// Reports the backends that get no requests. Their shares are answered by the callers' sidecars, also while another spec is in force.
fn report_backends<S>(
    policy: &Candidate<'_, S>,
    (rules, routed): (&[Rule], Routed),
    report: &mut ObjectReport<'_>,
) {
    let errors = rules.iter().flat_map(|rule| rule.errors(policy, routed));
    let errors: Vec<ValidationError> = errors.collect();
    report.unresolved(&policy.declared.object, &errors, "");
}

/// Reports the weights that are not in force, because backends have no ready endpoint.
fn report_held<S>(
    policy: &Candidate<'_, S>,
    (rules, routed): (&[Rule], Routed),
    places: &Places,
    report: &mut ObjectReport<'_>,
) {
    let services = places.keys().filter_map(|name| policy.lookup.service(name));
    let called: BTreeSet<Option<Family>> = services.flat_map(called_families).collect();
    let rules = rules.iter().enumerate();
    let held = rules.flat_map(|(index, rule)| {
        let field = format!("spec.rules[{index}]");
        rule.held(policy, routed, &field, &called)
    });
    let held: Vec<String> = held.collect();
    if !held.is_empty() {
        let (condition, reason) = (ConditionType::WeightsHeld, reason::BACKEND_NOT_READY);
        report.status.set(condition, true, reason, held.join("; "));
    }
}

/// Sets the status at each parent that the present spec names. `places`: the ports that the spec in force is attached to.
fn report_parents<T: RouteSpec>(
    policy: &Candidate<'_, ForeignSpec<T>>,
    (full, taken): (&Full, &Taken),
    places: &Places,
    report: &mut ObjectReport<'_>,
) where
    ForeignSpec<T>: DeclaredSpec,
{
    let (object, ObjectReport { status, findings }) = (&policy.declared.object, report);
    let Ok(spec) = &policy.declared.spec else {
        return;
    };
    findings.extend(parents::misspelt(object, spec));
    let all = parents::of(spec);
    let mut not_taken = Vec::new();
    for (index, parent) in &all {
        let place = parents::resolve(policy, taken, *index, parent);
        let place = place.and_then(|place| takes(full, *index, place));
        let place = place.and_then(|place| partial::carried(status, places, *index, place));
        let conditions = match place {
            Ok(found) => {
                findings.extend(found.notes);
                Vec::new()
            }
            Err(error) => {
                findings.push(error.finding(object));
                let conditions = not_attached(&error);
                not_taken.push(error);
                conditions
            }
        };
        status.parents.push(ParentStatus {
            parent: parent.clone(),
            conditions,
        });
    }
    if let Some(first) = not_taken.first().filter(|_| not_taken.len() == all.len()) {
        set_not_accepted(status, first);
        status.unset(ConditionType::PartiallyInvalid);
        status.unset(ConditionType::WeightsHeld);
    }
    if spec.typed().is_ok_and(RouteSpec::names_hosts) && !all.is_empty() {
        findings.push(without_hostnames(object));
    }
}

/// Returns a place again, unless its service is full.
fn takes(full: &Full, index: usize, place: Place) -> Result<Place, ValidationError> {
    let Some(reason) = full.get(&place.service) else {
        return Ok(place);
    };
    let (field, code) = (format!("spec.parentRefs[{index}]"), reason::TOO_MANY_RULES);
    let fix = "remove rules, or write them without regular expressions";
    Err(ValidationError::parent(code, field, reason, fix))
}

/// The conditions at a parent that does not take the route.
fn not_attached(error: &ValidationError) -> Vec<DesiredCondition> {
    let condition = |kind, message: String| DesiredCondition {
        kind,
        status: ConditionStatus::False,
        reason: error.reason.to_owned(),
        message: bounded(message),
        generation: None,
    };
    vec![
        condition(ConditionType::Accepted, error.sentence()),
        condition(
            ConditionType::Programmed,
            "the route is not attached to this parent".to_owned(),
        ),
    ]
}

/// No parent takes the route. An error of the spec itself was found before.
fn set_not_accepted(status: &mut ObjectStatus, error: &ValidationError) {
    let accepted = status.condition(ConditionType::Accepted);
    if accepted.is_some_and(|accepted| accepted.status == ConditionStatus::True) {
        let text = error.sentence();
        status.set(ConditionType::Accepted, false, error.reason, text);
    }
}

fn without_hostnames(object: &ObjectRef) -> Finding {
    let message = "a service takes the requests to its addresses, whatever their host: hostnames have no effect for it";
    let finding = Finding::info(object, "spec.hostnames", reason::NO_EFFECT, message);
    finding.fix("match the header Host, or remove hostnames")
}
