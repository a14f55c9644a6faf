//! The promises of the API, on the types and on the schemas that are generated from them.

// A helper of a test may panic as the test itself may.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

use std::{fs, path::Path};

use heddle_crds::{
    AuthPolicySpec, Backend, BackendTarget, ConditionStatus, ConditionType, DesiredCondition,
    HeaderMatch, HeaderValue, Kind, LastGood, MeshSpec, TrafficSplitSpec, condition,
    pattern_in_words, set_condition,
};
use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn read<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn schema(kind: Kind, part: &str) -> JSONSchemaProps {
    let crd = kind.crd();
    let root = crd.spec.versions[0]
        .schema
        .clone()
        .unwrap()
        .open_api_v3_schema
        .unwrap();
    root.properties.unwrap()[part].clone()
}

/// Every schema below one, with its path.
fn walk(path: &str, schema: &JSONSchemaProps, visit: &mut impl FnMut(&str, &JSONSchemaProps)) {
    visit(path, schema);
    for (name, field) in schema.properties.iter().flatten() {
        walk(&format!("{path}.{name}"), field, visit);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        walk(&format!("{path}[]"), items, visit);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
        walk(&format!("{path}.*"), values, visit);
    }
}

#[test]
fn an_empty_mesh_is_all_defaults_and_stays_so() {
    let mesh: MeshSpec = read(json!({})).unwrap();
    assert_eq!(mesh, MeshSpec::default());
    let written = serde_json::to_value(&mesh).unwrap();
    assert_eq!(read::<MeshSpec>(written.clone()).unwrap(), mesh);
    assert_eq!(
        written,
        json!({
            "trustDomain": "cluster.local", "clusterDomain": "cluster.local", "mode": "Permissive",
            "defaultAction": "Allow", "outbound": "Allow", "outboundNamespaces": [], "bypassedNamespaces": [],
            "plainDestinations": [{"namespace": "default", "service": "kubernetes"}],
            "scope": {"onDemand": "Enabled", "idleAfter": "24h"}, "certificates": {"lifetime": "24h"},
            "telemetry": {"metricsReaders": [], "omitMetricLabels": [], "accessLogFormat": "JSON", "accessLogSink": "Stdout"},
            "rateLimits": {"timeout": "100ms", "failureMode": "Open"},
            "proxy": {"logLevel": "warning", "concurrency": 2, "drainSeconds": 10,
                "initResources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}}}
        })
    );
}

#[test]
fn the_schema_has_the_defaults_that_the_types_have() {
    let mut from_schema = serde_json::Map::new();
    for (name, field) in schema(Kind::Mesh, "spec").properties.unwrap() {
        from_schema.insert(name, field.default.unwrap().0);
    }
    let from_types = serde_json::to_value(MeshSpec::default()).unwrap();
    assert_eq!(Value::Object(from_schema), from_types);
}

/// Left out, these mean something that no value means.
const ABSENCE_MEANS: &[&str] = &[
    "Mesh.proxy.initResources.limits.cpu",
    "Mesh.proxy.resources.limits.cpu",
    "TrafficSplit.port",
    "TrafficSplit.matches",
    "TrafficSplit.matches[].method",
    "TrafficSplit.matches[].path",
    "TrafficSplit.matches[].path.exact",
    "TrafficSplit.matches[].path.prefix",
    "TrafficSplit.matches[].path.regex",
    "TrafficSplit.matches[].headers",
    "TrafficSplit.matches[].headers[].exact",
    "TrafficSplit.matches[].headers[].prefix",
    "TrafficSplit.matches[].headers[].regex",
    "TrafficSplit.matches[].headers[].present",
    "TrafficSplit.matches[].cookies",
    "TrafficSplit.matches[].cookies[].exact",
    "TrafficSplit.matches[].cookies[].prefix",
    "TrafficSplit.matches[].cookies[].regex",
    "TrafficSplit.matches[].cookies[].present",
    "TrafficSplit.matches[].query",
    "TrafficSplit.matches[].query[].exact",
    "TrafficSplit.matches[].query[].prefix",
    "TrafficSplit.matches[].query[].regex",
    "TrafficSplit.matches[].query[].present",
    "TrafficSplit.backends[].service",
    "TrafficSplit.backends[].labels",
    "TrafficSplit.mirrors",
    "TrafficSplit.mirrors[].service",
    "TrafficSplit.mirrors[].labels",
    "TrafficSplit.sticky",
    "TrafficSplit.sticky.header",
    "TrafficSplit.sticky.cookie",
    "TrafficSplit.sticky.cookie.maxAge",
    "ExternalService.hosts",
    "ExternalService.addresses",
    "ExternalService.privateAddresses",
    "ExternalService.visibleTo",
    "Mesh.rateLimits.server.address.tls",
    "Mesh.rateLimits.server.address.tls.caCertificates",
    "Mesh.telemetry.collector.address.tls",
    "Mesh.telemetry.collector.address.tls.caCertificates",
    "ExternalService.ports[].tls",
    "ExternalService.ports[].tls.caCertificates",
    // Of every kind: they share the type.
    "*.target.port",
    "TrafficPolicy.target.service",
    "TrafficPolicy.target.namespace",
    "TrafficPolicy.target.externalService",
    "TrafficPolicy.target.route",
    "TrafficPolicy.target.route.rule",
    "TrafficPolicy.timeouts",
    "TrafficPolicy.timeouts.request",
    "TrafficPolicy.timeouts.perTry",
    "TrafficPolicy.timeouts.idle",
    "TrafficPolicy.retries",
    "TrafficPolicy.retries.conditions",
    "TrafficPolicy.retries.statusCodes",
    "TrafficPolicy.retries.grpcCodes",
    "TrafficPolicy.retries.backoff",
    "TrafficPolicy.retries.backoff.max",
    "TrafficPolicy.retries.budget",
    "TrafficPolicy.overload",
    "TrafficPolicy.overload.concurrency",
    "TrafficPolicy.overload.concurrency.latency",
    "TrafficPolicy.overload.admission",
    "TrafficPolicy.faults",
    "TrafficPolicy.faults[].match",
    "TrafficPolicy.faults[].match.method",
    "TrafficPolicy.faults[].match.path",
    "TrafficPolicy.faults[].match.path.exact",
    "TrafficPolicy.faults[].match.path.prefix",
    "TrafficPolicy.faults[].match.headers",
    "TrafficPolicy.faults[].match.headers[].exact",
    "TrafficPolicy.faults[].match.headers[].prefix",
    "TrafficPolicy.faults[].match.headers[].regex",
    "TrafficPolicy.faults[].match.headers[].present",
    "TrafficPolicy.faults[].delay",
    "TrafficPolicy.faults[].abort",
    "TrafficPolicy.faults[].abort.status",
    "TrafficPolicy.faults[].abort.grpcStatus",
    "TrafficPolicy.headers",
    "TrafficPolicy.headers.request",
    "TrafficPolicy.headers.request.set",
    "TrafficPolicy.headers.request.add",
    "TrafficPolicy.headers.request.remove",
    "TrafficPolicy.headers.response",
    "TrafficPolicy.headers.response.set",
    "TrafficPolicy.headers.response.add",
    "TrafficPolicy.headers.response.remove",
    "TrafficPolicy.rateLimits",
    "TrafficPolicy.rateLimits[].match",
    "TrafficPolicy.rateLimits[].match.method",
    "TrafficPolicy.rateLimits[].match.path",
    "TrafficPolicy.rateLimits[].match.path.exact",
    "TrafficPolicy.rateLimits[].match.path.prefix",
    "TrafficPolicy.rateLimits[].match.headers",
    "TrafficPolicy.rateLimits[].match.headers[].exact",
    "TrafficPolicy.rateLimits[].match.headers[].prefix",
    "TrafficPolicy.rateLimits[].match.headers[].regex",
    "TrafficPolicy.rateLimits[].match.headers[].present",
    "TrafficPolicy.rateLimits[].burst",
    "TrafficPolicy.outlierEjection",
    "TrafficPolicy.outlierEjection.gatewayErrors",
    "TrafficPolicy.outlierEjection.serverErrors",
    "TrafficPolicy.limits",
    "TrafficPolicy.limits.connections",
    "TrafficPolicy.limits.pendingRequests",
    "TrafficPolicy.limits.requests",
    "TrafficPolicy.connections",
    "TrafficPolicy.connections.connectTimeout",
    "TrafficPolicy.connections.idleTimeout",
    "TrafficPolicy.connections.maxRequests",
    "TrafficPolicy.connections.tcpKeepalive",
    "TrafficPolicy.loadBalancing",
    "TrafficPolicy.loadBalancing.hash",
    "TrafficPolicy.loadBalancing.hash.name",
    "TrafficPolicy.loadBalancing.slowStart",
    "Mesh.rateLimits.server",
    "Mesh.rateLimits.server.service",
    "Mesh.rateLimits.server.address",
    "Mesh.telemetry.accessLogs",
    "Mesh.telemetry.accessLogs.failures",
    "Mesh.telemetry.collector",
    "Mesh.telemetry.collector.service",
    "Mesh.telemetry.collector.address",
    "Mesh.telemetry.tracing",
    "Mesh.telemetry.tracing.percent",
    "Mesh.telemetry.tracing.tags[].literal",
    "Mesh.telemetry.tracing.tags[].requestHeader",
    "Telemetry.selector",
    "Telemetry.accessLogs",
    "Telemetry.accessLogs.failures",
    "Telemetry.tracing",
    "AuthPolicy.selector",
    "AuthPolicy.target",
    "AuthPolicy.mtls",
    "AuthPolicy.rules[].from",
    "AuthPolicy.rules[].from.identities",
    "AuthPolicy.rules[].from.namespaces",
    "AuthPolicy.rules[].from.ipBlocks",
    "AuthPolicy.rules[].to",
    "AuthPolicy.rules[].to.ports",
    "AuthPolicy.rules[].to.methods",
    "AuthPolicy.rules[].to.paths",
    "AuthPolicy.rules[].to.ignoreCase",
    "AuthPolicy.rules[].to.headers",
    "AuthPolicy.rules[].to.headers[].exact",
    "AuthPolicy.rules[].to.headers[].prefix",
    "AuthPolicy.rules[].to.headers[].regex",
    "AuthPolicy.rules[].to.headers[].present",
];

#[test]
fn every_other_field_has_a_default_or_is_required() {
    for kind in Kind::ALL {
        walk(kind.name(), &schema(*kind, "spec"), &mut |path, schema| {
            let required = schema.required.clone().unwrap_or_default();
            for (name, field) in schema.properties.iter().flatten() {
                let path = format!("{path}.{name}");
                // Within a list the API server does not fill it in, but the description names it.
                let described = field
                    .description
                    .as_deref()
                    .is_some_and(|d| d.contains(" Default: "));
                let spelled_out = field.default.is_some() || required.contains(name) || described;
                let listed = ABSENCE_MEANS.iter().any(|known| {
                    let of_every_kind = known.strip_prefix('*');
                    *known == path || of_every_kind.is_some_and(|tail| path.ends_with(tail))
                });
                assert_ne!(spelled_out, listed, "{path}");
            }
        });
    }
}

#[test]
fn schemas_are_structural_bounded_and_described() {
    for kind in Kind::ALL {
        walk(kind.name(), &schema(*kind, "spec"), &mut |path, schema| {
            let type_ = schema.type_.as_deref();
            assert!(
                type_.is_some() || schema.x_kubernetes_int_or_string == Some(true),
                "{path}: no type"
            );
            for combined in [&schema.all_of, &schema.any_of, &schema.one_of] {
                assert!(combined.is_none(), "{path}: combines schemas");
            }
            assert!(schema.ref_path.is_none(), "{path}: refers elsewhere");
            let bounded = match type_ {
                Some("array") => schema.max_items.is_some(),
                Some("string") => schema.max_length.is_some() || schema.enum_.is_some(),
                Some("object") if schema.additional_properties.is_some() => {
                    schema.max_properties.is_some()
                }
                _ => true,
            };
            assert!(bounded, "{path}: no limit");
            let known = ["int32", "int64", "date-time"];
            assert!(
                schema
                    .format
                    .as_deref()
                    .is_none_or(|format| known.contains(&format)),
                "{path}"
            );
            for rule in schema.x_kubernetes_validations.iter().flatten() {
                let message = rule.message.as_deref().unwrap_or_default();
                let parts: Vec<&str> = message.split("; ").collect();
                assert_eq!(parts.len(), 2, "reason and fix of {path}: {message}");
            }
            let pattern = schema.pattern.as_deref();
            assert!(
                pattern.is_none_or(|of| pattern_in_words(of).is_some()),
                "{path}: {pattern:?} has no words in crds/src/patterns.rs"
            );
            for (name, field) in schema.properties.iter().flatten() {
                assert!(field.description.is_some(), "{path}.{name}: no description");
            }
        });
    }
}

#[test]
fn a_misspelt_field_is_named() {
    let error = read::<MeshSpec>(json!({"proxy": {"drainSecond": 1}})).unwrap_err();
    assert!(error.contains("unknown field `drainSecond`"), "{error}");
    let split = json!({"service": "a", "backends": [{"service": "b", "wieght": 1}]});
    assert!(
        read::<TrafficSplitSpec>(split)
            .unwrap_err()
            .contains("`wieght`")
    );
    let policy = json!({"rules": [{"to": {"port": 80}}]});
    assert!(
        read::<AuthPolicySpec>(policy)
            .unwrap_err()
            .contains("unknown field `port`")
    );
}

#[test]
fn a_field_whose_absence_opens_a_policy_is_refused_if_empty_or_null() {
    for rule in [
        json!({"from": null}),
        json!({"from": {"identities": []}}),
        json!({"from": {"identities": null, "namespaces": ["a"]}}),
        json!({"to": {"ports": []}}),
        json!({"to": {"headers": [{"name": "a", "exact": null, "present": true}]}}),
    ] {
        assert!(
            read::<AuthPolicySpec>(json!({"rules": [rule.clone()]})).is_err(),
            "{rule}"
        );
    }
    for spec in [
        json!({"selector": null}),
        json!({"selector": {"matchLabels": {}}}),
        json!({"mtls": null}),
    ] {
        assert!(read::<AuthPolicySpec>(spec.clone()).is_err(), "{spec}");
    }
    let nullable = |field: &JSONSchemaProps| field.nullable == Some(true);
    let policy = schema(Kind::AuthPolicy, "spec").properties.unwrap();
    assert!(nullable(&policy["selector"]) && !nullable(&policy["mode"]));
    assert!(!nullable(
        &schema(Kind::TrafficSplit, "spec").properties.unwrap()["port"]
    ));
}

#[test]
fn a_missing_weight_is_zero_and_a_backend_names_one_thing() {
    let spec: TrafficSplitSpec = read(
        json!({"service": "a", "backends": [{"service": "b"}, {"labels": {"v": "2", "a": "1"}}]}),
    )
    .unwrap();
    assert_eq!(spec.backends[0].weight, 0);
    assert_eq!(spec.backends[0].target(), Some(BackendTarget::Service("b")));
    assert_eq!(spec.backends[1].display_name(), "a=1,v=2");
    let neither: Backend = read(json!({"weight": 1})).unwrap();
    assert_eq!(neither.target(), None);
}

#[test]
fn a_header_takes_one_demand() {
    let of = |value| read::<HeaderMatch>(value).unwrap();
    assert_eq!(
        of(json!({"name": "a", "present": false})).value(),
        Some(HeaderValue::Absent)
    );
    assert_eq!(
        of(json!({"name": "a", "exact": ""})).value(),
        Some(HeaderValue::Exact(""))
    );
    assert_eq!(
        of(json!({"name": "a", "exact": "b", "regex": "c"})).value(),
        None
    );
    assert_eq!(of(json!({"name": "a"})).value(), None);
}

#[test]
fn the_last_good_spec_survives_a_round_trip() {
    let spec: TrafficSplitSpec =
        read(json!({"service": "a", "backends": [{"service": "b", "weight": 1}]})).unwrap();
    let kept = LastGood::of(7, &spec).unwrap();
    let written = serde_json::to_value(&kept).unwrap();
    assert!(
        written["json"].is_string() && written.get("spec").is_none(),
        "{written}"
    );
    let earlier: LastGood =
        read(json!({"generation": 7, "spec": serde_json::to_value(&spec).unwrap()})).unwrap();
    assert_eq!(earlier, kept);
    assert!(read::<LastGood>(json!({"generation": 7})).is_err());
    let kept: LastGood = read(written).unwrap();
    assert_eq!(
        (kept.generation, kept.read::<TrafficSplitSpec>().unwrap()),
        (7, spec)
    );
    let newer = LastGood {
        generation: 1,
        spec: json!({"service": "a", "backends": [], "later": 1}),
        selected: None,
    };
    assert!(newer.read::<TrafficSplitSpec>().is_err());
}

#[test]
fn a_condition_moves_its_time_only_with_its_status() {
    let time = |text: &str| Time(text.parse().unwrap());
    let verdict = |status, message: &str| DesiredCondition {
        kind: ConditionType::Programmed,
        status,
        reason: "R".to_owned(),
        message: message.to_owned(),
        generation: None,
    };
    let (first, second) = (time("2026-01-01T00:00:00Z"), time("2026-01-02T00:00:00Z"));
    let mut conditions = Vec::new();
    set_condition(
        &mut conditions,
        &verdict(ConditionStatus::False, "1/2"),
        Some(1),
        &first,
    );
    set_condition(
        &mut conditions,
        &verdict(ConditionStatus::False, "0/2"),
        Some(2),
        &second,
    );
    let present = condition(&conditions, ConditionType::Programmed).unwrap();
    assert_eq!(
        (&present.last_transition_time, present.message.as_str()),
        (&first, "0/2")
    );
    set_condition(
        &mut conditions,
        &verdict(ConditionStatus::True, "2/2"),
        Some(2),
        &second,
    );
    assert_eq!(conditions.len(), 1);
    assert_eq!(conditions[0].last_transition_time, second);
}

/// The documents of our kinds in a folder of YAML.
fn documents(folder: &str) -> Vec<(Kind, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(folder);
    let mut found = Vec::new();
    let files = fs::read_dir(folder).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    for file in files.filter(|file| file.extension().is_some_and(|of| of == "yaml")) {
        let text = fs::read_to_string(file).unwrap();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        for document in documents {
            if let Some(kind) = document["kind"].as_str().and_then(Kind::by_name) {
                found.push((kind, document));
            }
        }
    }
    found
}

#[test]
fn samples_parse() {
    let mut samples = documents("config/samples");
    samples.extend(documents("config/default"));
    for kind in Kind::ALL {
        let there = samples.iter().any(|(sample, _)| sample == kind);
        assert!(there, "no sample of {}", kind.name());
    }
    for (kind, document) in samples {
        kind.check_type(&document).unwrap();
    }
}
