//! The rule that decides about a request, and its policies, in one line each.

use heddle_policy_compiler::traffic::RuleId;
use heddle_policy_compiler::{DecidingRule, MetPolicy};

/// The rule that decides, and the alternative that matched.
pub(super) fn line(rule: &DecidingRule) -> String {
    let id = &rule.id;
    if *id == RuleId::WholeService {
        return "none: the service as a whole".to_owned();
    }
    let object = id.only_rule_of().map(ToString::to_string);
    let mut named = object.unwrap_or_else(|| id.to_string());
    if let Some(name) = id.rule_name() {
        named += &format!(" ({name})");
    }
    format!("{named}, for {}", rule.matcher)
}

/// The policies of a rule, the closest first, with the groups of fields that each sets.
pub(super) fn precedence(met: &[MetPolicy]) -> String {
    let set = met.iter().filter(|of| !of.groups.is_empty());
    let lines = set.map(|of| {
        let (target, groups) = (of.target.as_str(), of.groups.join(", "));
        format!("{} ({target}): {groups}", of.object)
    });
    lines.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use heddle_policy_compiler::traffic::{HeaderPolicy, RequestMatcher, RoutePolicy, RuleId};
    use heddle_policy_compiler::{DecidingRule, ObjectKind, ObjectRef};

    fn line(id: RuleId) -> String {
        super::line(&DecidingRule {
            id,
            matcher: RequestMatcher::default(),
            policy: RoutePolicy::default(),
            headers: HeaderPolicy::default(),
            faults: Vec::new(),
            retries: None,
            mirrors: Vec::new(),
            sticky: None,
            session: None,
            objects: BTreeSet::new(),
            met: Vec::new(),
        })
    }

    #[test]
    fn the_only_rule_of_an_object_has_no_number() {
        for (kind, named) in [
            (ObjectKind::TrafficSplit, "TrafficSplit shop/a"),
            (ObjectKind::SmiTrafficSplit, "SmiTrafficSplit shop/a"),
            (ObjectKind::ExternalService, "ExternalService shop/a"),
        ] {
            let object = ObjectRef::new(kind, "shop", "a");
            let text = format!("{named}, for any request");
            assert_eq!(line(RuleId::Declared(object, 0)), text);
        }
        let route = RuleId::Route {
            created: None,
            object: ObjectRef::new(ObjectKind::HTTPRoute, "shop", "a"),
            index: 1,
            name: None,
        };
        assert_eq!(line(route), "HTTPRoute shop/a/1, for any request");
        assert_eq!(line(RuleId::WholeService), "none: the service as a whole");
    }
}
