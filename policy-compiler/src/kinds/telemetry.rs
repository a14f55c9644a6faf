//! The meaning of the fields that `Mesh` and `Telemetry` share.

use std::sync::Arc;

use heddle_xds_types::tap::is_secret_name;

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

/// Reads the attributes of spans. One without a value is refused by the schema, and one of a header that may carry credentials is left out.
pub(super) fn span_tags(tags: &[heddle_crds::SpanTag]) -> Arc<[SpanTag]> {
    let read = |tag: &heddle_crds::SpanTag| {
        let header = tag.request_header.as_deref();
        if header.is_some_and(is_secret_name) {
            return None;
        }
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

#[cfg(test)]
mod tests {
    use heddle_crds::{MeshSpec, MeshTracing};

    use super::*;
    use crate::kinds::mesh::check;

    /// A Mesh that an earlier version accepted keeps its other tags, and does not close.
    #[test]
    fn a_tag_with_credentials_is_left_out() {
        let tag = |name: &str, header: &str| heddle_crds::SpanTag {
            name: name.to_owned(),
            literal: None,
            request_header: Some(header.to_owned()),
        };
        let tags = vec![tag("s", "x-session-id"), tag("t", "x-tenant")];
        let read = span_tags(&tags);
        let names: Vec<&str> = read.iter().map(|tag| &*tag.name).collect();
        assert_eq!(names, ["t"]);
        let percent = None;
        let mut mesh = MeshSpec::default();
        mesh.telemetry.tracing = Some(MeshTracing { percent, tags });
        assert!(check(&mesh).is_empty());
    }
}
