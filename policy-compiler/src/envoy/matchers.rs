//! From decision lists to Envoy's matchers.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3 as network;
use envoy_types::pb::envoy::extensions::matching::input_matchers::ip::v3::Ip;
use envoy_types::pb::envoy::r#type::matcher::v3::HttpRequestHeaderMatchInput;
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use prost::{Message, Name};

use super::wire::xds::r#type::matcher::v3 as xds;
use super::wire::xds::r#type::matcher::v3::matcher::matcher_list::{
    FieldMatcher, Predicate, predicate,
};
use super::wire::xds::r#type::matcher::v3::matcher::matcher_tree::{MatchMap, TreeType};
use super::wire::xds::r#type::matcher::v3::matcher::{
    MatcherList, MatcherTree, MatcherType, OnMatch, on_match,
};
use super::{any, number};
use crate::authz::decision::{Condition, DecisionList, Input, Pattern, Step, Test, Verdict};

/// The key under which a connection has the identity of its peer. In plain text it is missing, which a matcher takes for no match.
pub(super) const PEER: &str = "heddle.peer";

/// The matcher of a decision list.
pub(super) fn of(list: &DecisionList) -> xds::Matcher {
    matcher(&list.steps)
}

/// A matcher with the same verdict for all requests.
pub(super) fn always(verdict: &Verdict) -> xds::Matcher {
    xds::Matcher {
        on_no_match: Some(Box::new(decide(verdict))),
        ..Default::default()
    }
}

fn matcher(steps: &[Step]) -> xds::Matcher {
    let conditions = steps.iter().map_while(|step| match step {
        Step::When(condition, steps) => Some((condition, steps)),
        Step::Decide(_)
        | Step::ByIdentity(_)
        | Step::ByNamespace(_)
        | Step::ByPath(_)
        | Step::ByWholePath(_) => None,
    });
    let matchers: Vec<FieldMatcher> = conditions
        .map(|(condition, steps)| FieldMatcher {
            predicate: Some(predicate(condition)),
            on_match: Some(go_on(steps)),
        })
        .collect();
    if !matchers.is_empty() {
        let rest = steps.get(matchers.len()..).unwrap_or_default();
        let list = MatcherList { matchers };
        return xds::Matcher {
            matcher_type: Some(MatcherType::MatcherList(list)),
            on_no_match: rest_of(rest),
        };
    }
    let Some((first, rest)) = steps.split_first() else {
        return xds::Matcher::default();
    };
    let tree = |input, kind| xds::Matcher {
        matcher_type: Some(MatcherType::MatcherTree(MatcherTree {
            input: Some(input),
            tree_type: Some(kind),
        })),
        on_no_match: rest_of(rest),
    };
    match first {
        Step::Decide(verdict) => always(verdict),
        // Taken above.
        Step::When(..) => xds::Matcher::default(),
        Step::ByIdentity(of) => tree(peer(), TreeType::ExactMatchMap(map(of))),
        Step::ByNamespace(of) => tree(peer(), TreeType::PrefixMatchMap(map(of))),
        Step::ByPath(of) => tree(header(":path"), TreeType::PrefixMatchMap(map(of))),
        Step::ByWholePath(of) => tree(header(":path"), TreeType::ExactMatchMap(map(of))),
    }
}

fn rest_of(steps: &[Step]) -> Option<Box<OnMatch>> {
    (!steps.is_empty()).then(|| Box::new(go_on(steps)))
}

fn map(of: &BTreeMap<Arc<str>, Vec<Step>>) -> MatchMap {
    let entries = of.iter();
    MatchMap {
        map: entries
            .map(|(key, steps)| (key.to_string(), go_on(steps)))
            .collect(),
    }
}

fn go_on(steps: &[Step]) -> OnMatch {
    if let [Step::Decide(verdict), ..] = steps {
        return decide(verdict);
    }
    OnMatch {
        on_match: Some(on_match::OnMatch::Matcher(Box::new(matcher(steps)))),
        ..Default::default()
    }
}

fn decide(verdict: &Verdict) -> OnMatch {
    let action = rbac::Action {
        name: verdict.name.to_string(),
        action: if verdict.allow {
            rbac::rbac::Action::Allow.into()
        } else {
            rbac::rbac::Action::Deny.into()
        },
    };
    OnMatch {
        on_match: Some(on_match::OnMatch::Action(extension("a", &action))),
        ..Default::default()
    }
}

fn extension<M: Message + Name>(name: &str, config: &M) -> TypedExtensionConfig {
    TypedExtensionConfig {
        name: name.to_owned(),
        typed_config: Some(any(config)),
    }
}

fn peer() -> TypedExtensionConfig {
    let input = network::FilterStateInput {
        key: PEER.to_owned(),
        ..Default::default()
    };
    extension("peer", &input)
}

fn header(name: &str) -> TypedExtensionConfig {
    let input = HttpRequestHeaderMatchInput {
        header_name: name.to_owned(),
    };
    extension("header", &input)
}

fn input(input: &Input) -> TypedExtensionConfig {
    match input {
        Input::Method => header(":method"),
        Input::Path => header(":path"),
        Input::Header(name) => header(name),
    }
}

fn predicate(condition: &Condition) -> Predicate {
    use predicate::single_predicate::Matcher;
    use predicate::{MatchType, PredicateList, SinglePredicate};
    let list = |list: &[Condition]| PredicateList {
        predicate: list.iter().map(predicate).collect(),
    };
    let single = |input, matcher| {
        MatchType::SinglePredicate(SinglePredicate {
            input: Some(input),
            matcher: Some(matcher),
        })
    };
    let kind = match condition {
        Condition::All(all) => MatchType::AndMatcher(list(all)),
        Condition::Any(any) => MatchType::OrMatcher(list(any)),
        Condition::Not(condition) => MatchType::NotMatcher(Box::new(predicate(condition))),
        Condition::Source(blocks) => {
            let blocks = Ip {
                cidr_ranges: blocks.iter().map(cidr).collect(),
                stat_prefix: "authz".to_owned(),
            };
            let source = extension("source", &network::DirectSourceIpInput {});
            single(source, Matcher::CustomMatch(extension("ip", &blocks)))
        }
        Condition::Text(of, test) => single(input(of), Matcher::ValueMatch(string(test))),
    };
    Predicate {
        match_type: Some(kind),
    }
}

fn string(test: &Test) -> xds::StringMatcher {
    use xds::regex_matcher::{EngineType, GoogleRe2};
    use xds::string_matcher::MatchPattern;
    let pattern = match &test.pattern {
        Pattern::Exact(text) => MatchPattern::Exact(text.to_string()),
        Pattern::Prefix(text) => MatchPattern::Prefix(text.to_string()),
        Pattern::Contains(text) => MatchPattern::Contains(text.to_string()),
        Pattern::Regex(text) => MatchPattern::SafeRegex(xds::RegexMatcher {
            regex: text.to_string(),
            engine_type: Some(EngineType::GoogleRe2(GoogleRe2 {})),
        }),
    };
    xds::StringMatcher {
        match_pattern: Some(pattern),
        ignore_case: test.ignore_case,
    }
}

fn cidr(block: &ipnet::IpNet) -> CidrRange {
    CidrRange {
        address_prefix: block.network().to_string(),
        prefix_len: number(u32::from(block.prefix_len())),
    }
}
