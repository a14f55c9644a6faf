//! From our rules to Envoy's RBAC: one filter for Deny, one for Allow, so that each verdict names the rule that made it.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::rbac::v3;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use super::network::filter;
use super::{exact, number, prefix, regex, wire};
use crate::authz::{
    HeaderPattern, HeaderValuePattern, Operation, PathPattern, PortAuthz, Rule, RuleAction, Source,
    spelling,
};

const PER_ROUTE: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
const NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";

/// Two verdicts of one filter: the one in force and, where something is in audit, the one that would fall.
struct Verdicts {
    enforced: Option<wire::Rules>,
    shadow: Option<wire::Rules>,
}

/// For HTTP: the configurations of the Deny and of the Allow filter.
pub(crate) fn per_route(authz: &PortAuthz) -> (Any, Any) {
    let of = |verdicts: Verdicts| {
        let rbac = wire::HttpRbac {
            // The per-rule counters are how often each rule decided; they exist only where there are rules.
            track_per_rule_stats: verdicts.enforced.is_some() || verdicts.shadow.is_some(),
            shadow_rules_stat_prefix: if verdicts.shadow.is_some() {
                "audit_".to_owned()
            } else {
                String::new()
            },
            rules: verdicts.enforced,
            shadow_rules: verdicts.shadow,
            ..Default::default()
        };
        per_route_any(Some(rbac))
    };
    (of(deny(authz, true)), of(allow(authz, true)))
}

/// No policy at all on this route.
pub(crate) fn per_route_off() -> Any {
    per_route_any(None)
}

fn per_route_any(rbac: Option<wire::HttpRbac>) -> Any {
    Any {
        type_url: PER_ROUTE.to_owned(),
        value: wire::HttpRbacPerRoute { rbac }.encode_to_vec(),
    }
}

/// For TCP: the filters of a chain, none where nothing is to be judged.
pub(crate) fn network(authz: &PortAuthz) -> Vec<listener::Filter> {
    let of = |name: &str, verdicts: Verdicts| {
        let rbac = wire::NetworkRbac {
            stat_prefix: "tcp.".to_owned(),
            shadow_rules_stat_prefix: if verdicts.shadow.is_some() {
                "audit_".to_owned()
            } else {
                String::new()
            },
            rules: verdicts.enforced,
            shadow_rules: verdicts.shadow,
        };
        (rbac.rules.is_some() || rbac.shadow_rules.is_some()).then(|| {
            filter(
                name,
                Any {
                    type_url: NETWORK.to_owned(),
                    value: rbac.encode_to_vec(),
                },
            )
        })
    };
    [
        of("deny", deny(authz, false)),
        of("allow", allow(authz, false)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn deny(authz: &PortAuthz, http: bool) -> Verdicts {
    let rules = |audited: bool| {
        let rules = rules(
            v3::rbac::Action::Deny,
            authz.rules(RuleAction::Deny, audited),
            http,
        );
        (!rules.policies.is_empty()).then_some(rules)
    };
    Verdicts {
        enforced: rules(false),
        shadow: authz.audits().then(|| rules(true)).flatten(),
    }
}

fn allow(authz: &PortAuthz, http: bool) -> Verdicts {
    // An Allow filter without policies lets nothing pass: that is what "an Allow rule is needed" means.
    let rules = |audited: bool| {
        authz.needs_allow(audited).then(|| {
            rules(
                v3::rbac::Action::Allow,
                authz.rules(RuleAction::Allow, audited),
                http,
            )
        })
    };
    Verdicts {
        enforced: rules(false),
        shadow: authz.audits().then(|| rules(true)).flatten(),
    }
}

fn rules<'a>(
    action: v3::rbac::Action,
    rules: impl Iterator<Item = &'a Rule>,
    http: bool,
) -> wire::Rules {
    let policies = rules
        .filter(|rule| http || !rule.to.needs_http())
        .map(|rule| (rule.id.to_string(), policy(rule)))
        .collect::<BTreeMap<_, _>>();
    wire::Rules {
        action: action.into(),
        policies,
    }
}

fn policy(rule: &Rule) -> v3::Policy {
    v3::Policy {
        permissions: vec![permission(&rule.to, rule.action)],
        principals: vec![principal(&rule.from)],
        ..Default::default()
    }
}

fn principal(source: &Source) -> v3::Principal {
    use v3::principal::{Authenticated, Identifier, Set};
    let of = |identifier| v3::Principal {
        identifier: Some(identifier),
    };
    let authenticated = |name| {
        of(Identifier::Authenticated(Authenticated {
            principal_name: Some(name),
        }))
    };
    let lists: Vec<Vec<v3::Principal>> = vec![
        source
            .identities
            .iter()
            .map(|id| authenticated(exact(id.as_str())))
            .collect(),
        source
            .identity_prefixes
            .iter()
            .map(|namespace| authenticated(prefix(&**namespace)))
            .collect(),
        source
            .blocks
            .iter()
            .map(|block| of(Identifier::DirectRemoteIp(cidr(block))))
            .collect(),
    ];
    let mut fields: Vec<v3::Principal> = lists
        .into_iter()
        .filter_map(|mut ids| {
            if ids.len() > 1 {
                Some(of(Identifier::OrIds(Set { ids })))
            } else {
                ids.pop()
            }
        })
        .collect();
    match fields.len() {
        0 => of(Identifier::Any(true)),
        1 => fields.pop().unwrap_or_default(),
        _ => of(Identifier::AndIds(Set { ids: fields })),
    }
}

fn cidr(block: &ipnet::IpNet) -> CidrRange {
    CidrRange {
        address_prefix: block.network().to_string(),
        prefix_len: number(u32::from(block.prefix_len())),
    }
}

fn is(rule: v3::permission::Rule) -> v3::Permission {
    v3::Permission { rule: Some(rule) }
}

fn any_of(mut rules: Vec<v3::Permission>) -> Option<v3::Permission> {
    use v3::permission::{Rule, Set};
    if rules.len() > 1 {
        Some(is(Rule::OrRules(Set { rules })))
    } else {
        rules.pop()
    }
}

/// The ports are not here: a port has only the rules that speak of it.
fn permission(operation: &Operation, action: RuleAction) -> v3::Permission {
    use v3::permission::{Rule, Set};
    let method = |method: &std::sync::Arc<str>| {
        is(Rule::Header(header(":method", string(exact(&**method)))))
    };
    let mut fields: Vec<v3::Permission> = Vec::new();
    fields.extend(any_of(operation.methods.iter().map(method).collect()));
    fields.extend(paths(&operation.paths, action));
    fields.extend(
        operation
            .headers
            .iter()
            .filter_map(|header| headers(header, action)),
    );
    match fields.len() {
        0 => is(Rule::Any(true)),
        1 => fields.pop().unwrap_or_default(),
        _ => is(Rule::AndRules(Set { rules: fields })),
    }
}

fn paths(patterns: &[PathPattern], action: RuleAction) -> Vec<v3::Permission> {
    use v3::permission::Rule;
    if patterns.is_empty() {
        return Vec::new();
    }
    let path = |matching| {
        is(Rule::UrlPath(matcher::PathMatcher {
            rule: Some(matcher::path_matcher::Rule::Path(matching)),
        }))
    };
    let winding = path(regex(spelling::DOT_DOT));
    match action {
        RuleAction::Deny => any_of(
            patterns
                .iter()
                .map(|p| path(regex(spelling::denied(p))))
                .chain([winding])
                .collect(),
        )
        .into_iter()
        .collect(),
        RuleAction::Allow => {
            let plain = patterns.iter().map(|pattern| match pattern {
                PathPattern::Exact(text) => path(exact(&**text)),
                PathPattern::Prefix(text) if text.is_empty() => is(Rule::Any(true)),
                PathPattern::Prefix(text) => path(prefix(&**text)),
            });
            any_of(plain.collect())
                .into_iter()
                .chain([is(Rule::NotRule(Box::new(winding)))])
                .collect()
        }
    }
}

fn headers(pattern: &HeaderPattern, action: RuleAction) -> Option<v3::Permission> {
    use route::header_matcher::HeaderMatchSpecifier;
    let specifier = || match &pattern.value {
        HeaderValuePattern::Exact(text) => string(exact(&**text)),
        HeaderValuePattern::Prefix(text) => string(prefix(&**text)),
        HeaderValuePattern::Regex(text) => string(regex(&**text)),
        HeaderValuePattern::Present => HeaderMatchSpecifier::PresentMatch(true),
        HeaderValuePattern::Absent => HeaderMatchSpecifier::PresentMatch(false),
    };
    let names = match (action, &pattern.value) {
        (RuleAction::Allow, _) | (RuleAction::Deny, HeaderValuePattern::Absent) => {
            vec![pattern.name.to_string()]
        }
        (RuleAction::Deny, _) => spelling::header_names(&pattern.name),
    };
    any_of(
        names
            .iter()
            .map(|name| is(v3::permission::Rule::Header(header(name, specifier()))))
            .collect(),
    )
}

const fn string(matching: matcher::StringMatcher) -> route::header_matcher::HeaderMatchSpecifier {
    route::header_matcher::HeaderMatchSpecifier::StringMatch(matching)
}

fn header(
    name: &str,
    specifier: route::header_matcher::HeaderMatchSpecifier,
) -> route::HeaderMatcher {
    route::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}
