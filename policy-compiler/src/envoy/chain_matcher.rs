//! The choice of the filter chain of a listener of hosts outside. A tree beside the chains, and not a match in each of them: another address of
//! the mesh changes no chain, so that nothing drains.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3 as inputs;
use envoy_types::pb::google::protobuf::{Any, StringValue};
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use prost::Message;

use super::any;
use super::wire::xds::r#type::matcher::v3 as xds;
use super::wire::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, SinglePredicate, single_predicate,
};
use super::wire::xds::r#type::matcher::v3::matcher::matcher_list::{FieldMatcher, Predicate};
use super::wire::xds::r#type::matcher::v3::matcher::matcher_tree::{MatchMap, TreeType};
use super::wire::xds::r#type::matcher::v3::matcher::{
    MatcherList, MatcherTree, MatcherType, OnMatch, on_match,
};
use super::wire::xds::r#type::matcher::v3::string_matcher::MatchPattern;

/// Plain text that looks like HTTP, as the inspector names it.
const HTTP: [&str; 3] = ["'http/1.0'", "'http/1.1'", "'h2c'"];

/// The chains of a listener, by the connections that they take. The default chain takes all others.
#[derive(Debug, Default)]
pub(super) struct Choice<'a> {
    /// Connections to these addresses, independently of their first bytes, and the name of their chain.
    pub(super) addresses: Option<(&'a BTreeSet<IpAddr>, &'a str)>,
    /// HTTP without TLS.
    pub(super) http: Option<&'a str>,
    /// TLS by server name, perhaps a wildcard; its chain has the same name. The longest one counts.
    pub(super) names: BTreeSet<String>,
}

/// The field of a listener. A listener is a message without maps, and its matcher has one: it stands behind the bytes of the listener.
#[derive(Clone, PartialEq, Message)]
struct OfListener {
    #[prost(message, optional, tag = "32")]
    filter_chain_matcher: Option<xds::Matcher>,
}

impl Choice<'_> {
    /// The bytes of the tree, for the end of those of a listener. It takes no part of any connection where there is no chain.
    pub(super) fn encode(&self) -> Vec<u8> {
        let by_name = self.by_name();
        let by_protocol = match self.http {
            Some(chain) => Some(by_protocol(chain, by_name)),
            None => by_name,
        };
        let addresses = self.addresses.filter(|(all, _)| !all.is_empty());
        let matcher = match addresses {
            Some((all, chain)) => {
                let all = all.iter().map(|ip| (ip.to_string(), to_chain(chain)));
                Some(exact(
                    "address",
                    any(&inputs::DestinationIpInput {}),
                    all.collect(),
                    by_protocol,
                ))
            }
            None => by_protocol,
        };
        OfListener {
            filter_chain_matcher: matcher,
        }
        .encode_to_vec()
    }

    fn by_name(&self) -> Option<xds::Matcher> {
        let full = self.names.iter().filter(|name| !name.starts_with('*'));
        let full: BTreeMap<_, _> = full.map(|name| (name.clone(), to_chain(name))).collect();
        let mut below: Vec<&String> = self
            .names
            .iter()
            .filter(|name| name.starts_with('*'))
            .collect();
        below.sort_by_key(|name| std::cmp::Reverse(name.len()));
        let below = below.into_iter().map(|name| {
            let end = name.trim_start_matches('*').to_owned();
            let name_input = input("name", any(&inputs::ServerNameInput {}));
            on(name_input, MatchPattern::Suffix(end), name)
        });
        let below: Vec<_> = below.collect();
        let below = (!below.is_empty()).then(|| list(below));
        match full.is_empty() {
            true => below,
            false => Some(exact("name", any(&inputs::ServerNameInput {}), full, below)),
        }
    }
}

/// The transport is asked first: no list of protocols that TLS offers is that of plain text.
fn by_protocol(chain: &str, others: Option<xds::Matcher>) -> xds::Matcher {
    let protocols = HTTP.map(|protocol| {
        let offered = input("protocol", any(&inputs::ApplicationProtocolInput {}));
        on(offered, MatchPattern::Exact(protocol.to_owned()), chain)
    });
    let plain = then(list(protocols.into()));
    let plain = BTreeMap::from([("raw_buffer".to_owned(), plain)]);
    exact(
        "transport",
        any(&inputs::TransportProtocolInput {}),
        plain,
        others,
    )
}

fn exact(
    name: &str,
    config: Any,
    map: BTreeMap<String, OnMatch>,
    others: Option<xds::Matcher>,
) -> xds::Matcher {
    let tree = MatcherTree {
        input: Some(input(name, config)),
        tree_type: Some(TreeType::ExactMatchMap(MatchMap { map })),
    };
    xds::Matcher {
        matcher_type: Some(MatcherType::MatcherTree(tree)),
        on_no_match: others.map(then).map(Box::new),
    }
}

fn list(matchers: Vec<FieldMatcher>) -> xds::Matcher {
    xds::Matcher {
        matcher_type: Some(MatcherType::MatcherList(MatcherList { matchers })),
        on_no_match: None,
    }
}

fn on(input: TypedExtensionConfig, pattern: MatchPattern, chain: &str) -> FieldMatcher {
    let value = xds::StringMatcher {
        match_pattern: Some(pattern),
        ..Default::default()
    };
    let single = SinglePredicate {
        input: Some(input),
        matcher: Some(single_predicate::Matcher::ValueMatch(value)),
    };
    FieldMatcher {
        predicate: Some(Predicate {
            match_type: Some(MatchType::SinglePredicate(single)),
        }),
        on_match: Some(to_chain(chain)),
    }
}

fn input(name: &str, config: Any) -> TypedExtensionConfig {
    TypedExtensionConfig {
        name: name.to_owned(),
        typed_config: Some(config),
    }
}

fn then(matcher: xds::Matcher) -> OnMatch {
    OnMatch {
        on_match: Some(on_match::OnMatch::Matcher(Box::new(matcher))),
        ..Default::default()
    }
}

fn to_chain(name: &str) -> OnMatch {
    let name = StringValue {
        value: name.to_owned(),
    };
    OnMatch {
        on_match: Some(on_match::OnMatch::Action(input("chain", any(&name)))),
        ..Default::default()
    }
}
