//! The meaning of the fields that `Mesh` and `Telemetry` share.

use std::num::NonZeroU16;
use std::sync::Arc;

use crate::called_server::{CalledServer, Host};
use crate::telemetry::{AccessLogs, SpanTag, TagValue};
use crate::world::{NamespacedName, Port};

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

/// Reads a collector. None: it names neither a service nor an address, which the schema refuses.
pub(super) fn collector(spec: &heddle_crds::Collector) -> Option<CalledServer> {
    if let Some(service) = &spec.service {
        let name = NamespacedName::new(&service.namespace, &service.name);
        return Some(CalledServer::Service(name, port(service.port)));
    }
    let address = spec.address.as_ref()?;
    let host = Host::of(&address.host);
    Some(CalledServer::Address(host, port(address.port)))
}

fn port(number: NonZeroU16) -> Port {
    Port::from(number)
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
