//! The gate of connections of bytes: a network filter that chooses the cluster once the TLS handshake has shown the peer's identity.
//!
//! The TCP proxy behind it connects after the handshake, to the port's cluster unless the gate has named another one. For a refused
//! peer the gate names a cluster that does not exist, after the deciding verdict, so that the connection ends before the application
//! sees it. A sidecar without the runtime feature for this has chosen the port's cluster before: there, RBAC decides alone.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3 as state;
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3::Config;
use envoy_types::pb::envoy::extensions::formatter::cel::v3::Cel;
use envoy_types::pb::google::protobuf::Any;
use prost::Name;

use super::matchers::PEER;
use super::network::{CLUSTER, format, state_value};
use super::{any, rbac};
use crate::authz::PortAuthz;
use crate::authz::decision::{Gate, Peers};

/// The key under which a connection that may be refused has the service that leads to its port, for metrics.
pub(super) const SERVICE: &str = "heddle.service";
/// The prefix of the name of a verdict that refuses.
const DENIED: &str = "denied:";
/// The most bytes of identities in one expression. Envoy parses expressions of up to 100,000 characters.
const MAX_EXPRESSION: usize = 16 * 1024;
/// The identity in an expression.
const IDENTITY: &str = "connection.uri_san_peer_certificate";

/// The configuration of the gate of a port.
pub(crate) fn of_bytes(authz: &PortAuthz, cluster: &str, service: &str) -> Any {
    let (gate, mut values) = (Gate::new(authz), Vec::new());
    if rbac::judges_bytes(authz) {
        // In plain text there is none.
        values.push(text(PEER, format("%DOWNSTREAM_PEER_URI_SAN%")));
    }
    if gate.refuses() {
        values.push(text(SERVICE, constant(service)));
        // A later value replaces an earlier one: the first step comes last.
        let otherwise = gate.otherwise.iter();
        values.extend(otherwise.map(|name| chosen(constant(&denied(name)))));
        for (peers, refused_by) in gate.steps.iter().rev() {
            let name = refused_by.as_deref();
            let name = name.map_or_else(|| cluster.to_owned(), denied);
            let expressions = expressions(peers).into_iter();
            values.extend(expressions.map(|is| chosen(if_peer(&is, &name))));
        }
    }
    any(&Config {
        // In plain text Envoy sets them at once.
        on_downstream_tls_handshake: values,
        ..Default::default()
    })
}

/// The type of the configuration.
pub(crate) fn type_url() -> String {
    Config::type_url()
}

fn denied(name: &str) -> String {
    format!("{DENIED}{name}")
}

/// The cluster, unless the value is empty.
fn chosen(value: core::SubstitutionFormatString) -> state::FilterStateValue {
    unless_empty(state_value(CLUSTER, value))
}

fn text(key: &str, value: core::SubstitutionFormatString) -> state::FilterStateValue {
    unless_empty(state::FilterStateValue {
        factory_key: "envoy.string".to_owned(),
        ..state_value(key, value)
    })
}

/// The value, but none where its text is empty. A command without a value yields an empty text.
fn unless_empty(value: state::FilterStateValue) -> state::FilterStateValue {
    use state::filter_state_value::Value;
    let value_of = |value| match value {
        Value::FormatString(format) => Value::FormatString(core::SubstitutionFormatString {
            omit_empty_values: true,
            ..format
        }),
    };
    state::FilterStateValue {
        value: value.value.map(value_of),
        skip_if_empty: true,
        ..value
    }
}

fn constant(text: &str) -> core::SubstitutionFormatString {
    format(&text.replace('%', "%%"))
}

/// A name if the condition holds, else nothing. Without an identity, or if the expression fails, it does not hold.
fn if_peer(condition: &str, name: &str) -> core::SubstitutionFormatString {
    let cel = core::TypedExtensionConfig {
        name: "cel".to_owned(),
        typed_config: Some(any(&Cel::default())),
    };
    let name = quoted(name);
    core::SubstitutionFormatString {
        formatters: vec![cel],
        ..format(&format!("%CEL({condition} ? {name} : '')%"))
    }
}

/// Conditions of which one holds for these peers.
fn expressions(peers: &Peers) -> Vec<String> {
    match peers {
        Peers::Identities(ids) => {
            let lists = joined(ids.iter().map(|id| quoted(id)), ",");
            let lists = lists.into_iter();
            lists.map(|ids| format!("{IDENTITY} in [{ids}]")).collect()
        }
        Peers::Prefixes(prefixes) => {
            let begins = |prefix: &_| format!("{IDENTITY}.startsWith({})", quoted(prefix));
            joined(prefixes.iter().map(|prefix| begins(prefix)), " || ")
        }
    }
}

/// The items in as few texts as they fit in.
fn joined(items: impl Iterator<Item = String>, between: &str) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for item in items {
        match texts.last_mut() {
            Some(text) if text.len() + item.len() < MAX_EXPRESSION => {
                text.push_str(between);
                text.push_str(&item);
            }
            Some(_) | None => texts.push(item),
        }
    }
    texts
}

/// A string of an expression. An expression is code: all but the characters of identities and names is escaped.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("'");
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || "./:|*,+_-".contains(c) {
            quoted.push(c);
        } else {
            quoted.push_str(&format!("\\U{:08x}", u32::from(c)));
        }
    }
    quoted.push('\'');
    quoted
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn text_cannot_leave_its_quotes() {
        assert_eq!(quoted("spiffe://d/ns/a/sa/b-c"), "'spiffe://d/ns/a/sa/b-c'");
        assert_eq!(
            quoted("'\\%)"),
            "'\\U00000027\\U0000005c\\U00000025\\U00000029'"
        );
    }

    #[test]
    fn many_identities_are_in_several_expressions() {
        let ids: Vec<Arc<str>> = (0..1000)
            .map(|n| format!("spiffe://cluster.local/ns/shop/sa/caller-{n}").into())
            .collect();
        let all = expressions(&Peers::Identities(ids));
        assert!(all.len() > 1);
        assert!(all.iter().all(|text| text.len() < MAX_EXPRESSION + 100));
        let named = all.iter().map(|text| text.matches("spiffe").count());
        assert_eq!(named.sum::<usize>(), 1000);
    }
}
