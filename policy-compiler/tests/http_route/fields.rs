//! Every field of the published type is supported, or a route that has it is unusable.

use gateway_api::experimental::httproutes::HttpRoute;
use heddle_crds::{ConditionStatus, ConditionType};
use serde_json::{Value, json};

use crate::harness::fields;
use crate::{compiled, condition, reference, route, spec};

/// The fields of the spec of a route, below `spec`. An object of fields stands for its fields.
const SUPPORTED: [&str; 68] = [
    "hostnames[]",
    "parentRefs[].group",
    "parentRefs[].kind",
    "parentRefs[].name",
    "parentRefs[].namespace",
    "parentRefs[].port",
    "parentRefs[].sectionName",
    // It adds Gateways as parents, which belong to other controllers.
    "useDefaultGateways",
    "rules[].name",
    "rules[].backendRefs[].group",
    "rules[].backendRefs[].kind",
    "rules[].backendRefs[].name",
    "rules[].backendRefs[].namespace",
    "rules[].backendRefs[].port",
    "rules[].backendRefs[].weight",
    "rules[].backendRefs[].filters[].type",
    "rules[].backendRefs[].filters[].requestHeaderModifier.add[].name",
    "rules[].backendRefs[].filters[].requestHeaderModifier.add[].value",
    "rules[].backendRefs[].filters[].requestHeaderModifier.remove[]",
    "rules[].backendRefs[].filters[].requestHeaderModifier.set[].name",
    "rules[].backendRefs[].filters[].requestHeaderModifier.set[].value",
    "rules[].filters[].type",
    "rules[].filters[].cors.allowCredentials",
    "rules[].filters[].cors.allowHeaders[]",
    "rules[].filters[].cors.allowMethods[]",
    "rules[].filters[].cors.allowOrigins[]",
    "rules[].filters[].cors.exposeHeaders[]",
    "rules[].filters[].cors.maxAge",
    "rules[].filters[].requestHeaderModifier.add[].name",
    "rules[].filters[].requestHeaderModifier.add[].value",
    "rules[].filters[].requestHeaderModifier.remove[]",
    "rules[].filters[].requestHeaderModifier.set[].name",
    "rules[].filters[].requestHeaderModifier.set[].value",
    "rules[].filters[].requestMirror.backendRef.group",
    "rules[].filters[].requestMirror.backendRef.kind",
    "rules[].filters[].requestMirror.backendRef.name",
    "rules[].filters[].requestMirror.backendRef.namespace",
    "rules[].filters[].requestMirror.backendRef.port",
    "rules[].filters[].requestMirror.fraction.denominator",
    "rules[].filters[].requestMirror.fraction.numerator",
    "rules[].filters[].requestMirror.percent",
    "rules[].filters[].requestRedirect.hostname",
    "rules[].filters[].requestRedirect.path.replaceFullPath",
    "rules[].filters[].requestRedirect.path.replacePrefixMatch",
    "rules[].filters[].requestRedirect.path.type",
    "rules[].filters[].requestRedirect.port",
    "rules[].filters[].requestRedirect.scheme",
    "rules[].filters[].requestRedirect.statusCode",
    "rules[].filters[].urlRewrite.hostname",
    "rules[].filters[].urlRewrite.path.replaceFullPath",
    "rules[].filters[].urlRewrite.path.replacePrefixMatch",
    "rules[].filters[].urlRewrite.path.type",
    "rules[].matches[].headers[].name",
    "rules[].matches[].headers[].type",
    "rules[].matches[].headers[].value",
    "rules[].matches[].method",
    "rules[].matches[].path.type",
    "rules[].matches[].path.value",
    "rules[].matches[].queryParams[]",
    "rules[].retry.attempts",
    "rules[].retry.backoff",
    "rules[].retry.codes[]",
    "rules[].sessionPersistence.absoluteTimeout",
    "rules[].sessionPersistence.cookieConfig.lifetimeType",
    "rules[].sessionPersistence.sessionName",
    "rules[].sessionPersistence.type",
    "rules[].timeouts.backendRequest",
    "rules[].timeouts.request",
];

/// The fields that make a route unusable, by their beginnings.
const UNSUPPORTED: [&str; 9] = [
    "rules[].sessionPersistence.idleTimeout",
    "rules[].filters[].externalAuth",
    "rules[].backendRefs[].filters[].externalAuth",
    "rules[].filters[].extensionRef",
    "rules[].backendRefs[].filters[].cors",
    "rules[].backendRefs[].filters[].extensionRef",
    "rules[].backendRefs[].filters[].requestMirror",
    "rules[].backendRefs[].filters[].requestRedirect",
    "rules[].backendRefs[].filters[].urlRewrite",
];

#[test]
fn every_field_of_the_type_is_supported_or_makes_a_route_unusable() {
    fields::check::<HttpRoute>(&SUPPORTED, &UNSUPPORTED);
    let filter = |name: &str| match name {
        "externalAuth" => {
            json!({"type": "ExternalAuth", "externalAuth": {"protocol": "HTTP", "backendRef": {"name": "b", "port": 80}}})
        }
        "cors" => json!({"type": "CORS", "cors": {}}),
        "extensionRef" => {
            json!({"type": "ExtensionRef", "extensionRef": {"group": "g", "kind": "K", "name": "n"}})
        }
        "requestMirror" => {
            json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "b", "port": 80}}})
        }
        "requestRedirect" => json!({"type": "RequestRedirect", "requestRedirect": {"port": 80}}),
        "urlRewrite" => json!({"type": "URLRewrite", "urlRewrite": {"hostname": "a"}}),
        other => panic!("{other}"),
    };
    let persistent = json!([{"sessionPersistence": {"idleTimeout": "1m"}}]);
    let accepted = |rules: Value| {
        let compiled = compiled(route(spec(rules)));
        condition(&compiled.statuses[&reference()], ConditionType::Accepted)
    };
    let refused = (ConditionStatus::False, "UnsupportedValue".to_owned());
    assert_eq!(accepted(persistent), refused);
    for field in UNSUPPORTED.iter().filter(|field| field.contains("filters")) {
        let filters = json!([filter(field.rsplit('.').next().unwrap())]);
        let mut rule = json!({"backendRefs": [{"name": "b", "port": 80}]});
        match field.contains("backendRefs") {
            true => rule["backendRefs"][0]["filters"] = filters,
            false => rule["filters"] = filters,
        }
        assert_eq!(accepted(json!([rule])), refused, "{field}");
    }
}
