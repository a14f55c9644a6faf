//! The filter `authz`: Envoy's RBAC with a decision list.

use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::google::protobuf::Any;
use prost::Name;

use super::wire::envoy::extensions::filters::http::rbac::v3 as http;
use super::wire::envoy::extensions::filters::network::rbac::v3 as network;
use super::wire::xds::r#type::matcher::v3::Matcher;
use super::{any, matchers};
use crate::authz::PortAuthz;
use crate::authz::decision::{DecisionList, Verdict};

/// The prefix of the verdict of audit in metadata and counters, where the one in force has none.
const AUDIT: &str = "audit_";

/// The decisions in force and, where something is in audit, those that would be.
struct Decisions {
    enforced: Option<Matcher>,
    audit: Option<Matcher>,
}

impl Decisions {
    fn of(authz: &PortAuthz, http: bool) -> Self {
        let list = DecisionList::new(authz, false, http);
        let audit = authz
            .audits()
            .then(|| DecisionList::new(authz, true, http))
            .map(|list| matchers::of(&list));
        Self {
            // Without a verdict Envoy lets everything pass, and asks nothing.
            enforced: (!list.is_open()).then(|| matchers::of(&list)),
            audit,
        }
    }

    /// The prefix of the audit's names in counters.
    fn prefix(&self) -> String {
        let prefix = self.audit.as_ref().map(|_| AUDIT.to_owned());
        prefix.unwrap_or_default()
    }

    const fn is_empty(&self) -> bool {
        self.enforced.is_none() && self.audit.is_none()
    }
}

/// For HTTP: the filter's own decision, if the route brings none. A lost route, or one without decisions, stays closed.
pub(crate) fn closed() -> Any {
    let verdict = Verdict {
        name: "no-route".into(),
        allow: false,
    };
    any(&http::Rbac {
        matcher: Some(matchers::always(&verdict)),
        ..Default::default()
    })
}

/// For HTTP: the filter's configuration of a route. Where nothing is decided, the filter is off.
pub(crate) fn per_route(authz: &PortAuthz) -> Any {
    let decisions = Decisions::of(authz, true);
    if decisions.is_empty() {
        return off();
    }
    let rbac = http::Rbac {
        // How often each rule decided.
        track_per_rule_stats: true,
        shadow_rules_stat_prefix: decisions.prefix(),
        matcher: decisions.enforced,
        shadow_matcher: decisions.audit,
        ..Default::default()
    };
    any(&http::RbacPerRoute { rbac: Some(rbac) })
}

/// For HTTP: no decisions on this route.
pub(crate) fn off() -> Any {
    any(&FilterConfig {
        disabled: true,
        ..Default::default()
    })
}

/// For TCP: whether something is decided, in force or in audit.
pub(super) fn judges_bytes(authz: &PortAuthz) -> bool {
    authz.audits() || authz.judges_bytes()
}

/// For TCP: the type of the filter's configuration.
pub(crate) fn type_url_of_bytes() -> String {
    network::Rbac::type_url()
}

/// For TCP: the filter's configuration. Where nothing is decided, it lets all pass.
pub(crate) fn of_bytes(authz: &PortAuthz) -> Any {
    let decisions = Decisions::of(authz, false);
    any(&network::Rbac {
        stat_prefix: "tcp.".to_owned(),
        shadow_rules_stat_prefix: decisions.prefix(),
        matcher: decisions.enforced,
        shadow_matcher: decisions.audit,
        ..Default::default()
    })
}
