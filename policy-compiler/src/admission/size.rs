//! The size of an object.

use serde_json::Value;

use super::Violation;

/// Bytes of an object that an API server stores: the default bound of etcd on a request (`--max-request-bytes`).
const MAX_OBJECT: usize = 3 << 19;

/// Returns the violation of an object that is too large without its status.
pub(super) fn violation(object: &Value) -> Option<Violation> {
    let fields = object.as_object().into_iter().flatten();
    let stored = fields.filter(|(field, _)| *field != "status");
    let bytes: usize = stored
        .map(|(field, value)| field.len() + value.to_string().len())
        .sum();
    (bytes > MAX_OBJECT).then(|| {
        let reason = format!(
            "the object has {bytes} bytes, more than the {MAX_OBJECT} that an API server stores"
        );
        Violation::new("spec", reason, "split it into several objects")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_above_the_bound_of_etcd_is_reported_and_its_status_does_not_count() {
        let text = |bytes: usize| "x".repeat(bytes);
        for (object, large) in [
            (json!({"spec": text(MAX_OBJECT - 6)}), false),
            (json!({"spec": text(MAX_OBJECT - 5)}), true),
            (json!({"spec": {}, "status": text(2 * MAX_OBJECT)}), false),
            (
                json!({"metadata": {"managedFields": [text(MAX_OBJECT)]}}),
                true,
            ),
        ] {
            assert_eq!(violation(&object).is_some(), large);
        }
    }
}
