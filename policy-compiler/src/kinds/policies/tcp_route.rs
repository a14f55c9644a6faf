//! `TCPRoute` of Gateway API: the connections to a port that does not declare HTTP, split among backends. The parts of all kinds of routes
//! are in `kinds/routes/`.

use gateway_api::experimental::tcproutes as api;

use crate::kinds::routes::{self, Notes, RouteSpec, Routed, Rule};
use crate::traffic::RequestMatcher;

impl RouteSpec for api::TcpRouteSpec {
    const ROUTED: Routed = Routed::Bytes;

    fn rules(&self, notes: &mut Notes) -> Vec<Rule> {
        if self.rules.len() != 1 {
            let message = format!(
                "connections have no properties by which one of {} rules could be chosen",
                self.rules.len()
            );
            notes.unsupported("spec.rules", message, "write one rule");
        }
        routes::rules(Some(&self.rules), |field, of| {
            let all = vec![RequestMatcher::default()];
            routes::connections_rule(field, all, &of.backend_refs, notes)
        })
    }

    fn names_hosts(&self) -> bool {
        false
    }
}
