//! `docs/openapi.json`: the API of a replica of the control plane, with the schemas of the types that it sends and takes.

use anyhow::Result;
use heddle_xds_types::ProxyState;
use heddle_xds_types::api::{Endpoint, VERSION};
use heddle_xds_types::edges::EdgesReport;
use heddle_xds_types::rollout::ReceiptsReport;
use heddle_xds_types::tap::{TapAnswer, TapRequest};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::Files;

/// The place of schemas in the document.
const SCHEMAS: &str = "/components/schemas";

const DESCRIPTION: &str = "The API of each replica of the control plane of Heddle, on port 15014, by TLS of the root of the mesh \
    (in the CA bundle of the MutatingWebhookConfiguration heddle-injector). A caller shows a token of Kubernetes, and needs the right \
    to the path: `get` of the nonResourceURL, for taps `create` of taps.heddle.dev in the namespace. A replica answers for the sidecars \
    with a stream to it, so ask all of them. Within a version fields are added, and none is removed or gets another meaning; \
    ignore those that you do not know, and expect null, or no value, where a replica is of an older release.";

/// The words of an endpoint, and the schemas of its answer and its request.
struct Described {
    summary: &'static str,
    answer: Value,
    request: Option<Value>,
    parameters: Value,
}

/// Renders the document.
///
/// # Errors
/// A schema cannot be written as JSON.
pub fn files() -> Result<Files> {
    let mut text = serde_json::to_string_pretty(&document())?;
    text.push('\n');
    Ok(Files::from([("docs/openapi.json".to_owned(), text)]))
}

fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = SCHEMAS.into();
        settings.meta_schema = None;
    });
    let mut sent = settings.clone().for_serialize().into_generator();
    let mut taken = settings.for_deserialize().into_generator();
    let mut paths = Map::new();
    for endpoint in Endpoint::ALL {
        let described = described(endpoint, &mut sent, &mut taken);
        let method = if endpoint.is_read() { "get" } else { "post" };
        for (path, earlier) in [
            (Some(endpoint.path()), false),
            (endpoint.earlier_path(), true),
        ] {
            let Some(path) = path else { continue };
            let operation = operation(&described, earlier.then(|| endpoint.path()));
            paths.insert(path.to_owned(), json!({ method: operation }));
        }
    }
    let mut schemas = taken.take_definitions(true);
    schemas.extend(sent.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Heddle control plane", "version": VERSION, "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "A token that the API server of Kubernetes knows."}},
            "schemas": schemas,
        },
    })
}

fn described(
    endpoint: Endpoint,
    sent: &mut SchemaGenerator,
    taken: &mut SchemaGenerator,
) -> Described {
    let json = |schema: schemars::Schema| json!({"application/json": {"schema": schema}});
    let of = |summary, answer| Described {
        summary,
        answer,
        request: None,
        parameters: json!([]),
    };
    match endpoint {
        Endpoint::Proxies => of(
            "Every sidecar: whether it is connected, and whether it has acknowledged its configuration.",
            json(sent.subschema_for::<Vec<ProxyState>>()),
        ),
        Endpoint::Edges => Described {
            parameters: json!([{"name": "window", "in": "query", "description": "The seconds up to now to look at.",
                "schema": {"type": "integer", "minimum": 5, "maximum": 900, "default": 60}}]),
            ..of(
                "The traffic from workloads to services in the last seconds.",
                json(sent.subschema_for::<EdgesReport>()),
            )
        },
        Endpoint::Receipts => of(
            "The ends of pods in the last quarter of an hour.",
            json(sent.subschema_for::<ReceiptsReport>()),
        ),
        Endpoint::Tap => Described {
            request: Some(json(taken.subschema_for::<TapRequest>())),
            ..of(
                "Begins a tap, or keeps it alive; answers with its rows.",
                json(sent.subschema_for::<TapAnswer>()),
            )
        },
        Endpoint::Metrics => of(
            "The metrics of the replica, for Prometheus.",
            json!({"application/openmetrics-text": {"schema": {"type": "string"}}}),
        ),
    }
}

/// An operation; `later`: the path that takes its place.
fn operation(described: &Described, later: Option<&str>) -> Value {
    let text = |description: &str| json!({"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}});
    let mut responses = json!({
        "200": {"description": described.summary, "content": described.answer},
        "401": text("There is no token, or the API server does not know it."),
        "403": text("The right is missing; the text names it."),
        "503": text("The API server does not answer, or the caller asks too often."),
    });
    let mut operation = json!({"summary": described.summary});
    let takes = described.request.is_some() || described.parameters != json!([]);
    if let Some(responses) = responses.as_object_mut().filter(|_| takes) {
        responses.insert(
            "400".to_owned(),
            text("The query or the body is not as described."),
        );
    }
    if let Some(operation) = operation.as_object_mut() {
        if let Some(later) = later {
            operation.insert("deprecated".to_owned(), json!(true));
            let description = format!("The path of an earlier release; use {later}.");
            operation.insert("description".to_owned(), json!(description));
        }
        if let Some(content) = &described.request {
            let body = json!({"required": true, "content": content});
            operation.insert("requestBody".to_owned(), body);
        }
        if described.parameters != json!([]) {
            operation.insert("parameters".to_owned(), described.parameters.clone());
        }
        operation.insert("responses".to_owned(), responses);
    }
    operation
}
