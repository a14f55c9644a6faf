//! `TLSRoute` of Gateway API: the connections with TLS to a port that does not declare HTTP, by server name (SNI). The sidecar reads the name
//! and passes the bytes on: TLS ends at the backend. The parts of all kinds of routes are in `kinds/routes/`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use gateway_api::experimental::tlsroutes as api;

use crate::kinds::routes::{self, Notes, RouteSpec, Routed, Rule};
use crate::traffic::{RequestMatcher, ServerName};
use crate::world::is_dns_label;

/// The most names of a route, as the definition has it.
const MAX_NAMES: usize = 1024;

impl RouteSpec for api::TlsRouteSpec {
    const ROUTED: Routed = Routed::Tls;

    fn rules(&self, notes: &mut Notes) -> Vec<Rule> {
        if self.rules.len() != 1 {
            let message = format!(
                "connections with the same server name have no properties by which one of {} rules could be chosen",
                self.rules.len()
            );
            notes.unsupported("spec.rules", message, "write one rule, or more routes");
        }
        let matchers = matchers(&self.hostnames, notes);
        routes::rules(Some(&self.rules), |field, of| {
            routes::connections_rule(field, matchers.clone(), &of.backend_refs, notes)
        })
    }

    fn names_hosts(&self) -> bool {
        false
    }
}

/// The alternatives of the rule: one for each server name.
fn matchers(names: &[String], notes: &mut Notes) -> Vec<RequestMatcher> {
    if names.is_empty() || names.len() > MAX_NAMES {
        let message = format!("{} is not from 1 to {MAX_NAMES} names", names.len());
        let fix = "name the server names (SNI) of the connections";
        notes.unsupported("spec.hostnames", message, fix);
    }
    let mut all = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        match server_name(name) {
            Some(name) => _ = all.insert(name),
            None => {
                let message = format!("{name:?} is not a server name");
                let fix = "use labels of lower-case letters, digits and dashes, perhaps with *. before them";
                notes.unsupported(format!("spec.hostnames[{index}]"), message, fix);
            }
        }
    }
    let matcher = |name| RequestMatcher {
        server_name: Some(name),
        ..RequestMatcher::default()
    };
    all.into_iter().map(matcher).collect()
}

fn server_name(text: &str) -> Option<ServerName> {
    let below = text.strip_prefix("*.");
    let name = below.unwrap_or(text);
    let valid = name.len() <= 253 && name.split('.').all(is_dns_label);
    if !valid || name.parse::<IpAddr>().is_ok() {
        return None;
    }
    Some(match below {
        Some(name) => ServerName::Below(name.into()),
        None => ServerName::Exact(name.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_names_perhaps_with_a_wildcard_as_the_first_label() {
        for (text, expected) in [
            ("a.example", Some("a.example")),
            ("*.example", Some("*.example")),
            ("localhost", Some("localhost")),
            ("*", None),
            ("*.", None),
            ("", None),
            ("a.*.example", None),
            ("*a.example", None),
            ("A.example", None),
            ("10.0.0.1", None),
            ("a_b", None),
        ] {
            let found = server_name(text).map(|name| name.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
