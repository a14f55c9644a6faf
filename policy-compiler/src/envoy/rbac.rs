//! From our rules to Envoy's RBAC: one filter for Deny, one for Allow, so that each verdict names the rule that made it.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::google::protobuf::Any;

use super::condition;
use super::network::filter;
use super::wire::envoy::config::rbac::v3;
use super::wire::envoy::extensions::filters::http::rbac::v3 as http;
use super::wire::envoy::extensions::filters::network::rbac::v3 as network;
use super::{any, exact, number, prefix, regex};
use crate::authz::{
    HeaderPattern, HeaderValuePattern, PathPattern, PortAuthz, Rule, RuleAction, Source, header,
    spelling,
};

/// Two verdicts of one filter: the one in force and, where something is in audit, the one that would fall.
struct Verdicts {
    enforced: Option<v3::Rbac>,
    shadow: Option<v3::Rbac>,
}

/// For HTTP: the configurations of the Deny and of the Allow filter.
pub(crate) fn per_route(authz: &PortAuthz) -> (Any, Any) {
    let of = |name: &str, verdicts: Verdicts| {
        // Each filter writes its verdict into the same metadata: without a prefix, Allow would overwrite the verdict of Deny.
        let prefix = |there: bool, kind: &str| {
            if there {
                format!("{kind}{name}_")
            } else {
                String::new()
            }
        };
        let rbac = http::Rbac {
            rules_stat_prefix: prefix(verdicts.enforced.is_some(), ""),
            // The per-rule counters are how often each rule decided; they exist only where there are rules.
            track_per_rule_stats: verdicts.enforced.is_some() || verdicts.shadow.is_some(),
            shadow_rules_stat_prefix: prefix(verdicts.shadow.is_some(), "audit_"),
            rules: verdicts.enforced,
            shadow_rules: verdicts.shadow,
            ..Default::default()
        };
        per_route_any(Some(rbac))
    };
    (
        of("deny", deny(authz, true)),
        of("allow", allow(authz, true)),
    )
}

/// No policy at all on this route.
pub(crate) fn per_route_off() -> Any {
    per_route_any(None)
}

fn per_route_any(rbac: Option<http::Rbac>) -> Any {
    any(&http::RbacPerRoute { rbac })
}

/// For TCP: the filters of a chain, none where nothing is to be judged.
pub(crate) fn network(authz: &PortAuthz) -> Vec<listener::Filter> {
    let of = |name: &str, verdicts: Verdicts| {
        let rbac = network::Rbac {
            stat_prefix: "tcp.".to_owned(),
            shadow_rules_stat_prefix: if verdicts.shadow.is_some() {
                "audit_".to_owned()
            } else {
                String::new()
            },
            rules: verdicts.enforced,
            shadow_rules: verdicts.shadow,
            ..Default::default()
        };
        (rbac.rules.is_some() || rbac.shadow_rules.is_some()).then(|| filter(name, any(&rbac)))
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
    let spelled = !http || authz.spells_paths();
    let rules = |audited: bool| {
        let rules = rules(
            v3::rbac::Action::Deny,
            authz.rules(RuleAction::Deny, audited),
            http,
            spelled,
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
                true,
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
    spelled: bool,
) -> v3::Rbac {
    let policies = rules
        .filter(|rule| http || !rule.to.needs_http())
        .map(|rule| (rule.id.to_string(), policy(rule, spelled)))
        .collect::<BTreeMap<_, _>>();
    v3::Rbac {
        action: action.into(),
        policies,
        ..Default::default()
    }
}

fn policy(rule: &Rule, spelled: bool) -> v3::Policy {
    v3::Policy {
        permissions: vec![permission(rule, spelled)],
        principals: vec![principal(&rule.from)],
        condition: condition::of(rule),
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
fn permission(rule: &Rule, spelled: bool) -> v3::Permission {
    use v3::permission::{Rule as Is, Set};
    let (operation, action) = (&rule.to, rule.action);
    let method = |method: &std::sync::Arc<str>| {
        let mut text = exact(&**method);
        // By HTTP/2 a method comes in any case, and some servers raise it.
        text.ignore_case = action == RuleAction::Deny;
        is(Is::Header(matches(":method", string(text))))
    };
    let mut fields: Vec<v3::Permission> = Vec::new();
    fields.extend(any_of(operation.methods.iter().map(method).collect()));
    fields.extend(paths(rule, spelled));
    for header in &operation.headers {
        fields.extend(match action {
            RuleAction::Deny => denied_header(header),
            RuleAction::Allow => allowed_header(header),
        });
    }
    match fields.len() {
        0 => is(Is::Any(true)),
        1 => fields.pop().unwrap_or_default(),
        _ => is(Is::AndRules(Set { rules: fields })),
    }
}

fn not(permission: v3::Permission) -> v3::Permission {
    is(v3::permission::Rule::NotRule(Box::new(permission)))
}

fn paths(rule: &Rule, spelled: bool) -> Vec<v3::Permission> {
    let patterns = &rule.to.paths;
    if patterns.is_empty() {
        return Vec::new();
    }
    let path = |mut matching: matcher::StringMatcher| {
        matching.ignore_case = rule.to.ignore_case
            && !matches!(
                matching.match_pattern,
                Some(matcher::string_matcher::MatchPattern::SafeRegex(_))
            );
        is(v3::permission::Rule::UrlPath(matcher::PathMatcher {
            rule: Some(matcher::path_matcher::Rule::Path(matching)),
        }))
    };
    let winding = || path(regex(spelling::WINDING));
    match rule.action {
        RuleAction::Deny if spelled => {
            let spelled = |p: &PathPattern| path(regex(spelling::denied(p, rule.to.ignore_case)));
            let all = patterns.iter().map(spelled).chain([winding()]);
            any_of(all.collect()).into_iter().collect()
        }
        RuleAction::Deny => {
            let plain = |(text, open): (String, bool)| {
                if open {
                    return vec![path(prefix(text))];
                }
                let slash = (text != "/").then(|| path(exact(format!("{text}/"))));
                [path(exact(text))].into_iter().chain(slash).collect()
            };
            let all = patterns.iter().filter_map(spelling::plain).flat_map(plain);
            let odd = not(path(regex(spelling::PLAIN)));
            any_of([odd].into_iter().chain(all).collect())
                .into_iter()
                .collect()
        }
        RuleAction::Allow => {
            let plain = patterns.iter().map(|pattern| match pattern {
                PathPattern::Exact(text) => path(exact(&**text)),
                PathPattern::Prefix(text) if text.is_empty() => is(v3::permission::Rule::Any(true)),
                PathPattern::Prefix(text) => path(prefix(&**text)),
            });
            any_of(plain.collect())
                .into_iter()
                .chain([not(winding())])
                .collect()
        }
    }
}

/// Some element of some line, under any spelling of the name.
fn denied_header(pattern: &HeaderPattern) -> Vec<v3::Permission> {
    use route::header_matcher::HeaderMatchSpecifier::PresentMatch;
    let names = header::names(&pattern.name);
    let any_name = |specifier: route::header_matcher::HeaderMatchSpecifier| {
        let of = |name: &String| {
            is(v3::permission::Rule::Header(matches(
                name,
                specifier.clone(),
            )))
        };
        any_of(names.iter().map(of).collect())
    };
    match (
        header::denied(&pattern.name, &pattern.value),
        &pattern.value,
    ) {
        (Some(expressions), _) => expressions
            .into_iter()
            .filter_map(|expression| any_name(string(regex(expression))))
            .collect(),
        (None, HeaderValuePattern::Absent) => {
            let absent = matches(&pattern.name, PresentMatch(false));
            vec![is(v3::permission::Rule::Header(absent))]
        }
        (None, _) => any_name(PresentMatch(true)).into_iter().collect(),
    }
}

/// The plain line. That there is no other is the [`condition`].
fn allowed_header(pattern: &HeaderPattern) -> Vec<v3::Permission> {
    use route::header_matcher::HeaderMatchSpecifier::PresentMatch;
    let specifier = match &pattern.value {
        HeaderValuePattern::Exact(text) => string(exact(&**text)),
        HeaderValuePattern::Prefix(text) => string(prefix(&**text)),
        HeaderValuePattern::Regex(text) => string(regex(&**text)),
        HeaderValuePattern::Present => PresentMatch(true),
        HeaderValuePattern::Absent => PresentMatch(false),
    };
    let header = |name: &str, specifier| is(v3::permission::Rule::Header(matches(name, specifier)));
    let names = header::names(&pattern.name);
    let others = names.iter().skip(1);
    [header(&pattern.name, specifier)]
        .into_iter()
        .chain(
            others
                .filter(|_| header::only_plain_name(&pattern.value))
                .map(|name| header(name, PresentMatch(false))),
        )
        .collect()
}

const fn string(matching: matcher::StringMatcher) -> route::header_matcher::HeaderMatchSpecifier {
    route::header_matcher::HeaderMatchSpecifier::StringMatch(matching)
}

fn matches(
    name: &str,
    specifier: route::header_matcher::HeaderMatchSpecifier,
) -> route::HeaderMatcher {
    route::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..Default::default()
    }
}
