//! The meaning of the fields that `Mesh` and `Telemetry` share.

use std::sync::Arc;

use crate::telemetry::{AccessLogs, SpanTag, TagValue};

/// Reads access logs.
pub(super) fn access_logs(spec: &heddle_crds::AccessLogs) -> AccessLogs {
    let share = spec.percent.of_ten_thousand();
    match &spec.failures {
        Some(failures) => AccessLogs {
            share,
            failures: failures.percent.of_ten_thousand().max(share),
            from_status: failures.from_status,
        },
        None => AccessLogs::alike(share),
    }
}

/// Reads the attributes of spans. One without a value is refused by the schema.
pub(super) fn span_tags(tags: &[heddle_crds::SpanTag]) -> Arc<[SpanTag]> {
    let read = |tag: &heddle_crds::SpanTag| {
        let header = tag.request_header.as_deref();
        let header = header.map(|name| TagValue::Header(name.into()));
        let literal = tag.literal.as_deref();
        let literal = literal.map(|text| TagValue::Literal(text.into()));
        Some(SpanTag {
            name: tag.name.as_str().into(),
            value: header.or(literal)?,
        })
    };
    tags.iter().filter_map(read).collect()
}
