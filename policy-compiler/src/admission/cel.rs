//! The CEL rules of a schema (`x-kubernetes-validations`).

use std::collections::HashMap;
use std::sync::Arc;

use cel::objects::{Key, Map};
use cel::{Context, ExecutionError, Program, Value as Cel};
use heddle_crds::HumanDuration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

use super::Violation;
use super::compiled::CompiledTexts;

static RULES: CompiledTexts<Program> = CompiledTexts::new();

/// Stands between the reason and the fix in the message of a rule. An API server shows the whole.
pub(super) const FIX: &str = "; ";

/// Checks the rules of a schema and of all schemas within it. The value has the right structure already.
pub(super) fn check(
    schema: &JSONSchemaProps,
    value: &Value,
    path: &str,
    found: &mut Vec<Violation>,
) {
    if value.is_null() {
        return;
    }
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        if holds(&rule.rule, value) == Some(false) {
            let default = format!("the rule does not hold: {}", rule.rule);
            let message = rule.message.as_deref().map_or(&*default, without_field);
            let (reason, fix) = message.split_once(FIX).unwrap_or((message, "correct it"));
            found.push(Violation::new(path, reason, fix));
        }
    }
    if let (Value::Array(items), Some(JSONSchemaPropsOrArray::Schema(of_item))) =
        (value, &schema.items)
    {
        for (index, item) in items.iter().enumerate() {
            check(of_item, item, &format!("{path}[{index}]"), found);
        }
    }
    let others = match &schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(others)) => Some(&**others),
        Some(JSONSchemaPropsOrBool::Bool(_)) | None => None,
    };
    for (name, value) in value.as_object().into_iter().flatten() {
        let field = schema.properties.as_ref().and_then(|p| p.get(name));
        if let Some(field) = field.or(others) {
            check(field, value, &format!("{path}.{name}"), found);
        }
    }
}

/// The message of a rule without the field that it may begin with, because the API server's answer may not name the field: `spec.a: reason`,
/// or `spec.a is not reason`.
pub(super) fn without_field(message: &str) -> &str {
    match message.split_once(' ') {
        Some((field, rest)) if field.starts_with("spec") => rest,
        _ => message,
    }
}

/// Returns whether a rule holds; `None` for a rule about a change, and for one that cannot be run. A test runs every rule of the
/// definitions.
pub(super) fn holds(rule: &str, value: &Value) -> Option<bool> {
    if rule.contains("oldSelf") {
        return None;
    }
    let program = RULES.get(rule, Program::compile)?;
    let mut context = Context::default();
    context.add_variable_from_value("self", to_cel(value));
    // Durations are compared and nothing else, so their milliseconds do.
    context.add_function("duration", milliseconds).ok()?;
    match program.execute(&context) {
        Ok(Cel::Bool(holds)) => Some(holds),
        Ok(_) | Err(_) => None,
    }
}

fn milliseconds(text: Arc<String>) -> Result<i64, ExecutionError> {
    let parsed: Result<HumanDuration, _> = text.parse();
    parsed
        .ok()
        .and_then(|duration| i64::try_from(duration.get().as_millis()).ok())
        .ok_or_else(|| ExecutionError::function_error("duration", "not a duration"))
}

fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Cel::Int(number),
            None => Cel::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| (Key::String(Arc::new(name.clone())), to_cel(value)));
            let map: HashMap<Key, Cel> = fields.collect();
            Cel::Map(Map { map: Arc::new(map) })
        }
    }
}
