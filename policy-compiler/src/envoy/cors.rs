//! Cross-origin requests, as a filter before the router that answers preflight requests.

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::{Cors as CorsFilter, CorsPolicy};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::google::protobuf::Any;

use super::{any, exact, extension, regex, truth};
use crate::traffic::{Cors, Origin};

/// The name of the filter, by which it finds its policy in the route.
pub(super) const FILTER: &str = "cors";

/// The filter.
pub(super) fn filter() -> TypedExtensionConfig {
    extension(FILTER, any(&CorsFilter::default()))
}

/// The policy of a route.
pub(super) fn policy(of: &Cors) -> Any {
    any(&CorsPolicy {
        allow_origin_string_match: of.origins.iter().map(origin).collect(),
        allow_methods: of.methods.to_string(),
        allow_headers: of.headers.to_string(),
        expose_headers: of.exposed.to_string(),
        max_age: of.max_age.to_string(),
        allow_credentials: truth(of.credentials),
        // Those of other origins are answered without consent, and reach no application.
        forward_not_matching_preflights: truth(false),
        ..Default::default()
    })
}

fn origin(of: &Origin) -> StringMatcher {
    match of {
        Origin::Any => regex(".*"),
        Origin::Exact(origin) => exact(&**origin),
        Origin::Suffix(scheme, end) => {
            let (scheme, end) = (regex::escape(scheme), regex::escape(end));
            // A port is part of the end.
            regex(format!("{scheme}[^/:]+{end}"))
        }
    }
}
